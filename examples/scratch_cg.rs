//! scratch: pipelined calls for callgrind
use nearwire::*;
fn main() -> nearwire::Result<()> {
    let n: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut c = BlockingClient::builder().connect_blocking("scratch")?;
    let echo = c.method("echo")?;
    let req = [7u8; 64];
    let mut p = c.pipeline();
    let mut sent = 0;
    let mut got = 0u64;
    while got < n {
        while sent < n && p.in_flight() < 64 {
            p.submit(echo, &req)?;
            sent += 1;
        }
        p.next(|_, r| assert!(r.unwrap() == req))?;
        got += 1;
        while p.in_flight() > 32 {
            p.next(|_, r| assert!(r.unwrap() == req))?;
            got += 1;
        }
    }
    Ok(())
}
