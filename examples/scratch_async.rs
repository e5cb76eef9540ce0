//! scratch
use nearwire::*;
use std::time::*;
async fn run(tasks: usize, n: u64) -> nearwire::Result<()> {
    let c = Client::connect("scratch").await?;
    let echo = c.method("echo")?;
    let t = Instant::now();
    let mut hs = vec![];
    for _ in 0..tasks {
        let c = c.clone();
        hs.push(tokio::spawn(async move {
            let req = [7u8; 64];
            for _ in 0..n / tasks as u64 {
                let r = c.call_method(echo, &req).await.unwrap();
                assert_eq!(r, req);
            }
        }));
    }
    for h in hs {
        h.await.unwrap();
    }
    let e = t.elapsed();
    println!(
        "tasks {tasks}: {:.3} M/s, {:.0} ns/call",
        n as f64 / e.as_secs_f64() / 1e6,
        e.as_nanos() as f64 / n as f64
    );
    Ok(())
}
fn main() {
    let tasks: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let multi = std::env::args().nth(2).is_some();
    let rt = if multi {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    } else {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    for _ in 0..5 {
        rt.block_on(run(tasks, 1_000_000)).unwrap();
    }
}
