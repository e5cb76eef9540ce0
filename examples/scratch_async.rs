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
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..3 {
        rt.block_on(run(1, 200_000)).unwrap();
        rt.block_on(run(64, 2_000_000)).unwrap();
    }
    println!("multi");
    let rt = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..3 {
        rt.block_on(run(1, 200_000)).unwrap();
        rt.block_on(run(64, 2_000_000)).unwrap();
    }
    rt.block_on(async {
        let c = Client::connect("scratch").await.unwrap();
        let t = Instant::now();
        let big = vec![5u8; 20 << 20];
        let (a, b, s) = tokio::join!(
            c.call_bytes("echo", &big),
            c.call_bytes("echo", &big),
            c.call_bytes("echo", b"small")
        );
        assert!(a.unwrap() == big && b.unwrap() == big && s.unwrap() == b"small");
        println!("2x20MiB {:?}", t.elapsed());
        println!("{:?}", c.call_bytes("nope", b"").await);
    });
}
