//! Connections that come and go while calls go on: growth, idleness, age, draining.

use crate::ledger::{Ledger, calls_later, load};
use crate::restarts::within_threads;
use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually_async, within_async};
use nearwire::Pool;
use std::collections::HashSet;
use std::time::Duration;

/// The number of the connection that a call went over.
async fn connection(pool: &Pool) -> u64 {
    let who = pool.call_bytes("who", b"").await.unwrap();
    u64::from_le_bytes(who[4..12].try_into().unwrap())
}

fn it_grows_when_all_are_busy_and_shrinks_when_they_are_not() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "2")]);
    let name = place.socket(NAME);
    within_threads("growth", async move {
        let pool = Pool::builder()
            .min_idle(2)
            .max_size(4)
            .grow_at(3)
            .idle_timeout(Some(Duration::from_millis(100)))
            .build(&name)
            .unwrap();
        eventually_async("it is ready", || pool.stats().open == 2).await;
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        assert_eq!(pool.call::<u64, _>("sleep_ms", &20u64).await.unwrap(), 20);
                    }
                })
            })
            .collect();
        eventually_async("it grows", || pool.stats().open == 4).await;
        for call in calls {
            call.await.unwrap();
        }
        // Busy or not, a connection is used again before it falls idle.
        let mut used = HashSet::new();
        for _ in 0..50 {
            used.insert(connection(&pool).await);
        }
        assert_eq!(used.len(), 1, "one call at a time stays where it is");
        eventually_async("it shrinks", || pool.stats().open == 2).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(pool.stats().open, 2);
        eventually_async("the server sees it", || server.report()["connections"] == 2).await;
        assert_eq!(pool.stats().reconnects, 0);
        drop(pool);
        eventually_async("all is closed", || server.report()["connections"] == 0).await;
    });
}

fn calls_go_to_the_least_loaded() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    // On one thread: nothing comes between the choice and the call's being in flight.
    within_async(PATIENCE, "spread", async move {
        let pool = Pool::builder()
            .min_idle(4)
            .max_size(4)
            .build(&name)
            .unwrap();
        eventually_async("it is ready", || pool.stats().open == 4).await;
        let calls: Vec<_> = (0..40)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.call_bytes("hang", b"").await })
            })
            .collect();
        eventually_async("all are in flight", || pool.stats().in_flight == 40).await;
        let mut busy = Vec::new();
        for _ in 0..4 {
            // Each hangs on the least loaded, so the next one is another.
            let client = pool.client().await.unwrap();
            busy.push(client.in_flight());
            let pool = pool.clone();
            let before = pool.stats().in_flight;
            tokio::spawn({
                let pool = pool.clone();
                async move { pool.call_bytes("hang", b"").await }
            });
            eventually_async("one more", || pool.stats().in_flight == before + 1).await;
        }
        assert_eq!(busy, [10; 4]);
        calls.iter().for_each(|call| call.abort());
        eventually_async("they are given up", || pool.stats().in_flight == 4).await;
    });
}

fn connections_of_age_are_replaced_without_a_failed_call() {
    within_threads("rotation", async {
        let ledger = Ledger::new();
        let _server = ledger.start_ready();
        let pool = Pool::builder()
            .min_idle(2)
            .max_size(2)
            .max_lifetime(Some(Duration::from_millis(20)))
            .build(&ledger.socket())
            .unwrap();
        pool.ready().await.unwrap();
        let (told, callers) = load(&pool, 16, false);
        let mut connections = HashSet::new();
        while connections.len() < 20 {
            calls_later(&told, 10).await;
            connections.insert(pool.client().await.unwrap().info().id);
        }
        told.stop();
        for caller in callers {
            caller.await.unwrap();
        }
        let summary = ledger.check(&told, false);
        eprintln!("rotation: {summary:?}, {:?}", pool.stats());
        assert_eq!((summary.maybe, summary.not), (0, 0), "{summary:?}");
        assert_eq!(pool.stats().reconnects, 0);
    });
}

fn a_draining_server_finishes_while_the_next_one_serves() {
    let place = Place::new();
    let old = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("hand-over", async move {
        let pool = Pool::connect(&name).await.unwrap();
        let mut long = pool.stream::<u64>("count_slowly", &(300u64, 5u64));
        assert_eq!(long.next().await.unwrap().unwrap(), 0);
        old.tell("shutdown 20000");
        // It lets go of its name before it says that it drains.
        eventually_async("it drains", || pool.stats().finishing == 1).await;
        let new = place.start_ready("server", &[]);
        for _ in 0..100 {
            pool.call_bytes("echo", b"new").await.unwrap();
        }
        assert_eq!(new.report()["echoed"], 100);
        let stats = pool.stats();
        assert_eq!(
            (stats.open, stats.finishing, stats.in_flight),
            (1, 1, 1),
            "{stats:?}"
        );
        assert_eq!(stats.reconnects, 1);
        for n in 1..300 {
            assert_eq!(long.next().await.unwrap().unwrap(), n);
        }
        assert!(long.next().await.is_none());
        old.expect("shut down");
        eventually_async("it is closed", || pool.stats().finishing == 0).await;
    });
}

crate::over_both_transports!(
    it_grows_when_all_are_busy_and_shrinks_when_they_are_not,
    calls_go_to_the_least_loaded,
    connections_of_age_are_replaced_without_a_failed_call,
    a_draining_server_finishes_while_the_next_one_serves,
);

crate::over_both_transports_and!(across_threads:
    it_grows_when_all_are_busy_and_shrinks_when_they_are_not,
    calls_go_to_the_least_loaded,
    connections_of_age_are_replaced_without_a_failed_call,
    a_draining_server_finishes_while_the_next_one_serves,
);
