//! bb8's pool over the manager of connections.

use crate::restarts::within_threads;
use crate::server::NAME;
use crate::support::{Place, eventually_async};
use nearwire::{ClientBuilder, ConnectionManager, Error};
use std::collections::HashSet;
use std::time::Duration;

fn connections_are_handed_out_checked_and_replaced() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("bb8", async move {
        let manager = ConnectionManager::new(ClientBuilder::new(), &name).unwrap();
        let pool = bb8::Pool::builder()
            .max_size(3)
            .connection_timeout(Duration::from_secs(20))
            .build(manager)
            .await
            .unwrap();
        let calls: Vec<_> = (0..30u64)
            .map(|n| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let client = pool.get().await.unwrap();
                    assert_eq!(client.in_flight(), 0, "nobody else has it");
                    assert_eq!(
                        client.call::<u64>("sleep_ms", &(n % 5)).await.unwrap(),
                        n % 5
                    );
                    client.info().id
                })
            })
            .collect();
        let mut used = HashSet::new();
        for call in calls {
            used.insert(call.await.unwrap());
        }
        assert!(used.len() <= 3, "{used:?}");
        for in_order in [false, true] {
            let held = pool.get().await.unwrap();
            if in_order {
                server.tell("shutdown 1000");
                server.expect("shut down");
            } else {
                server.kill();
                server.ended();
            }
            held.closed().await;
            drop(held);
            server = place.start_ready("server", &[]);
            let client = pool.get().await.unwrap();
            assert_eq!(client.call_bytes("echo", b"again").await.unwrap(), b"again");
        }
        drop(pool);
        eventually_async("all is closed", || server.report()["connections"] == 0).await;
    });
}

#[test]
fn without_a_server_it_says_so() {
    let place = Place::new();
    let name = place.socket(NAME);
    within_threads("bb8 without a server", async move {
        let manager = ConnectionManager::new(ClientBuilder::new(), &name).unwrap();
        let pool = bb8::Pool::builder()
            .connection_timeout(Duration::from_millis(100))
            .build_unchecked(manager);
        assert!(matches!(
            pool.get().await.unwrap_err(),
            bb8::RunError::TimedOut
        ));
        let bad = ConnectionManager::new(ClientBuilder::new(), "a b");
        assert!(matches!(bad.unwrap_err(), Error::BadName { .. }));
    });
}

crate::over_both_transports!(connections_are_handed_out_checked_and_replaced,);
