//! Servers that live and stand still.

use crate::restarts::within_threads;
use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually_async};
use nearwire::{Client, Pool};
use std::time::Duration;

fn a_ping_is_answered_by_a_worker_that_serves() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("pings", async move {
        let client = Client::connect(&name).await.unwrap();
        for _ in 0..100 {
            client.ping().await.unwrap();
        }
        // Several at a time, some of them given up.
        let pings: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.ping().await })
            })
            .collect();
        pings[3].abort();
        for (number, ping) in pings.into_iter().enumerate() {
            match ping.await {
                Ok(answered) => answered.unwrap(),
                Err(error) => assert!(number == 3 && error.is_cancelled()),
            }
        }
        server.stop();
        let pinged = tokio::time::timeout(Duration::from_millis(100), client.ping()).await;
        assert!(pinged.is_err(), "{pinged:?}");
        server.go_on();
        client.ping().await.unwrap();
        server.kill();
        client.closed().await;
        client.ping().await.unwrap_err();
    });
}

fn calls_avoid_a_worker_that_is_blocked() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "2")]);
    let name = place.socket(NAME);
    within_threads("a blocked worker", async move {
        let pool = Pool::builder()
            .min_idle(2)
            .max_size(2)
            .health_check(Duration::from_millis(20), Duration::from_millis(200))
            .build(&name)
            .unwrap();
        eventually_async("it is ready", || pool.stats().open == 2).await;
        // Longer than anybody waits.
        let blocked = pool.client().await.unwrap();
        let forever = PATIENCE.as_millis() as u64 * 10;
        let block = tokio::spawn({
            let client = blocked.clone();
            async move { client.call::<u64>("block_ms", &forever).await }
        });
        eventually_async("it blocks", || blocked.in_flight() == 1).await;
        // The other connection is at the other worker, unless it is the busier one.
        let mut answered = 0;
        while answered < 100 {
            let call = pool
                .call_bytes("echo", b"")
                .deadline(Duration::from_secs(2));
            match call.await {
                Ok(_) => answered += 1,
                // Sent to the blocked one before that was known.
                Err(error) => assert!(
                    matches!(error, nearwire::Error::DeadlineExceeded),
                    "{error}"
                ),
            }
        }
        block.abort();
    });
}

fn a_server_that_was_stopped_is_used_again() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("a stopped server", async move {
        let pool = Pool::builder()
            .health_check(Duration::from_millis(20), Duration::from_millis(50))
            .build(&name)
            .unwrap();
        pool.call_bytes("echo", b"").await.unwrap();
        server.stop();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // There is nothing else, so calls go there and wait.
        let call = pool
            .call_bytes("echo", b"")
            .deadline(Duration::from_millis(100));
        assert!(call.await.is_err());
        server.go_on();
        pool.call_bytes("echo", b"").await.unwrap();
    });
}

crate::over_both_transports!(
    a_ping_is_answered_by_a_worker_that_serves,
    calls_avoid_a_worker_that_is_blocked,
    a_server_that_was_stopped_is_used_again,
);
