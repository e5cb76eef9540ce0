//! What a pool costs and brings, as figures. Run on a machine that does nothing else:
//! `cargo test --release --test pool -- --ignored --nocapture --test-threads 1`

use crate::restarts::within_threads;
use crate::server::NAME;
use crate::support::{Place, eventually_async};
use nearwire::{Client, Pool};
use std::time::{Duration, Instant};

/// Calls in a row, one at a time.
const ROW: u32 = 20_000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn a_call_through_a_pool_beside_a_call_on_a_client() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("costs", async move {
        let client = Client::connect(&name).await.unwrap();
        let pool = Pool::connect(&name).await.unwrap();
        let (mut direct, mut pooled) = (Vec::new(), Vec::new());
        let request = [7; 64];
        for _ in 0..15 {
            let begun = Instant::now();
            for _ in 0..ROW {
                client.call_bytes("echo", &request).await.unwrap();
            }
            direct.push(begun.elapsed() / ROW);
            let begun = Instant::now();
            for _ in 0..ROW {
                pool.call_bytes("echo", &request).await.unwrap();
            }
            pooled.push(begun.elapsed() / ROW);
        }
        let (direct, pooled) = (median(direct), median(pooled));
        eprintln!("a call of 64 bytes, one at a time: client {direct:?}, pool {pooled:?}");
    });
}

#[test]
#[ignore = "a measurement"]
fn more_connections_beside_one() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "2")]);
    let name = place.socket(NAME);
    within_threads("spread", async move {
        for (method, request, what) in [
            ("echo", vec![7; 64], "a handler that echoes 64 bytes"),
            (
                "block_ms",
                vec![1],
                "a handler that blocks its worker for 1 ms",
            ),
        ] {
            for connections in [1, 2, 4] {
                let pool = Pool::builder()
                    .min_idle(connections)
                    .max_size(connections)
                    .build(&name)
                    .unwrap();
                eventually_async("it is ready", || pool.stats().open == connections).await;
                let end = Instant::now() + Duration::from_secs(1);
                let callers: Vec<_> = (0..64)
                    .map(|_| {
                        let (pool, request) = (pool.clone(), request.clone());
                        tokio::spawn(async move {
                            let mut calls = 0;
                            while Instant::now() < end {
                                pool.call_bytes(method, &request).await.unwrap();
                                calls += 1;
                            }
                            calls
                        })
                    })
                    .collect();
                let mut calls = 0;
                for caller in callers {
                    calls += caller.await.unwrap();
                }
                eprintln!("{what}, 64 callers, {connections} connections: {calls} calls/s");
            }
        }
    });
}
