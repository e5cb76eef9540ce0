//! scratch
use nearwire::*;
use std::time::*;
fn main() -> nearwire::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    if a.get(1).map(|s| s.as_str()) == Some("serve") {
        let _s = Server::builder()
            .method("fresh", |r: &[u8]| Ok(r.to_vec()))
            .method_into("echo", |_, r, out| {
                out.extend_from_slice(r);
                Ok(())
            })
            .bind("scratch")?;
        _s.wait();
    }
    let spin = std::env::var("SPIN")
        .ok()
        .map(|s| s.parse().unwrap())
        .unwrap_or(50u64);
    let mut c = BlockingClient::builder()
        .spin(Spin {
            budget: Duration::from_micros(spin),
            adaptive: spin > 0,
        })
        .connect_blocking("scratch")?;
    let echo = c.method("echo")?;
    let mut out = Vec::new();
    let req = [7u8; 64];
    for _ in 0..5 {
        let n = if spin == 0 { 20000 } else { 500_000 };
        let t = Instant::now();
        for _ in 0..n {
            c.call_into(echo, &req, &mut out)?;
            assert_eq!(out, req);
        }
        println!("rt {:.1} ns", t.elapsed().as_nanos() as f64 / n as f64);
    }
    for _ in 0..5 {
        let n = 4_000_000u64;
        let t = Instant::now();
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
        println!(
            "pipelined {:.2} M/s",
            n as f64 / t.elapsed().as_secs_f64() / 1e6
        );
    }
    let big = vec![3u8; 10 << 20];
    let t = Instant::now();
    let r = c.call_bytes("echo", &big)?;
    assert_eq!(r, big);
    println!("10 MiB {:?}", t.elapsed());
    Ok(())
}
