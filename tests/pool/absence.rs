//! No server, or not yet.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually_async, within_async};
use nearwire::{ClientBuilder, Error, Pool};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn a_server_that_comes_later_is_found() {
    let place = Place::new();
    let name = place.socket(NAME);
    within_async(PATIENCE, "a late server", async move {
        let pool = Pool::builder()
            .acquire_timeout(PATIENCE)
            .build(&name)
            .unwrap();
        assert_eq!(pool.stats().open, 0);
        let caller = pool.clone();
        let call = tokio::spawn(async move { caller.call_bytes("echo", b"early").await });
        eventually_async("it waits", || {
            let stats = pool.stats();
            stats.waiting == 1 && stats.connect_failures > 3
        })
        .await;
        let _server = place.start_ready("server", &[]);
        assert_eq!(call.await.unwrap().unwrap(), b"early");
        let stats = pool.stats();
        assert_eq!((stats.open, stats.waiting, stats.reconnects), (1, 0, 0));
    });
}

/// The reason that the last attempt to connect failed for.
fn reason(error: &Error) -> Arc<Error> {
    match error {
        Error::NoConnection { source, .. } => source.clone().expect("an attempt failed"),
        other => panic!("{other:?}"),
    }
}

/// On a busy machine, a call may wait for less time than an attempt takes.
async fn an_attempt_fails(pool: &Pool) {
    eventually_async("an attempt fails", || pool.stats().connect_failures > 0).await;
}

#[test]
fn calls_without_a_server_fail_in_time_and_say_why() {
    let place = Place::new();
    let name = place.socket(NAME);
    within_async(PATIENCE, "nobody", async move {
        let pool = Pool::builder()
            .acquire_timeout(Duration::from_millis(150))
            .build(&name)
            .unwrap();
        an_attempt_fails(&pool).await;
        let begun = Instant::now();
        let error = pool.call_bytes("echo", b"").await.unwrap_err();
        assert!(begun.elapsed() >= Duration::from_millis(150));
        assert!(!error.may_have_executed());
        let text = error.to_string();
        assert!(text.contains("start the server"), "{text}");
        assert!(matches!(
            *reason(&error),
            Error::NoServer { dead: false, .. }
        ));
        let source = std::error::Error::source(&error).expect("a source");
        assert!(source.to_string().contains("no server at"), "{source}");

        let patient = Pool::builder()
            .acquire_timeout(PATIENCE)
            .build(&name)
            .unwrap();
        an_attempt_fails(&patient).await;
        let begun = Instant::now();
        let call = patient
            .call_bytes("echo", b"")
            .deadline(Duration::from_millis(100));
        let error = call.await.unwrap_err();
        assert!(begun.elapsed() < PATIENCE / 2);
        reason(&error);
        let mut items = patient
            .stream_bytes("count", b"")
            .deadline(Duration::from_millis(50));
        reason(&items.next().await.unwrap().unwrap_err());
        assert!(items.next().await.is_none());
        reason(&pool.ready().await.unwrap_err());
        reason(&pool.notify_bytes("echo", b"").await.unwrap_err());
        reason(&pool.client().await.unwrap_err());
        assert_eq!(patient.stats().waiting, 0);
    });
}

fn a_server_that_refuses_says_why() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("refuse", "not you")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "refused", async move {
        let pool = Pool::builder()
            .acquire_timeout(Duration::from_millis(200))
            .build(&name)
            .unwrap();
        an_attempt_fails(&pool).await;
        let error = pool.call_bytes("echo", b"").await.unwrap_err();
        let reason = reason(&error).to_string();
        assert!(reason.contains("not you"), "{reason}");
    });
}

#[test]
fn settings_without_sense_are_refused_at_once() {
    within_async(PATIENCE, "settings", async {
        let error = Pool::builder().build("a b").unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
        for builder in [
            Pool::builder().max_size(0),
            Pool::builder().min_idle(5).max_size(4),
            Pool::builder().grow_at(0),
            Pool::builder().idle_timeout(Some(Duration::ZERO)),
            Pool::builder().client(ClientBuilder::new().ring(5000)),
        ] {
            let error = builder.build("search").unwrap_err();
            assert!(matches!(error, Error::Setting { .. }), "{error}");
        }
    });
}

/// A pool whose runtime has ended does not keep callers in other runtimes waiting.
#[test]
fn a_pool_without_its_runtime_says_so_at_once() {
    let place = Place::new();
    let name = place.socket(NAME);
    within_async(PATIENCE, "no runtime", async move {
        let elsewhere = std::thread::spawn(move || {
            let runtime = crate::support::current_thread();
            runtime.block_on(async { Pool::builder().acquire_timeout(PATIENCE).build(&name) })
        });
        let pool = elsewhere.join().unwrap().unwrap();
        let begun = Instant::now();
        let error = pool.call_bytes("echo", b"").await.unwrap_err();
        assert!(matches!(error, Error::NoConnection { .. }), "{error}");
        assert!(begun.elapsed() < PATIENCE / 2);
    });
}

crate::over_both_transports!(
    a_server_that_comes_later_is_found,
    a_server_that_refuses_says_why,
);

crate::over_both_transports_and!(across_threads:
    a_server_that_comes_later_is_found,
    a_server_that_refuses_says_why,
);
