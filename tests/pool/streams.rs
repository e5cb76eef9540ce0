//! Streams and notifications on a pool.

use crate::restarts::within_threads;
use crate::server::NAME;
use crate::support::{Place, eventually_async};
use nearwire::{Error, Pool};
use std::time::Duration;

fn all_shapes_of_calls() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("shapes", async move {
        let pool = Pool::connect(&name).await.unwrap();
        assert_eq!(pool.call::<u64, _>("sleep_ms", &1u64).await.unwrap(), 1);
        let mut items = pool.stream::<u64>("count", &1000u64);
        for n in 0..1000 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        assert!(items.next().await.is_none());
        assert!(items.next().await.is_none());
        let mut upload = pool.client_stream::<u64, u64>("sum", &1u64).await.unwrap();
        for n in 0..100 {
            upload.send(&n).await.unwrap();
        }
        assert_eq!(upload.finish().await.unwrap(), 1 + 99 * 50);
        let both = pool.bidirectional::<u64, u64>("double", &3u64).await;
        let (mut sink, mut items) = both.unwrap();
        sink.send(&5).await.unwrap();
        sink.finish().await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), 15);
        assert!(items.next().await.is_none());
        let before = server.report()["echoed"];
        pool.notify_bytes("echo", b"you").await.unwrap();
        eventually_async("it is heard", || server.report()["echoed"] == before + 1).await;
        assert_eq!(pool.stats().in_flight, 0);
        let error = pool.call_bytes("nothing", b"").await.unwrap_err();
        assert!(matches!(error, Error::NoMethod { .. }), "{error}");
        let error = pool
            .stream::<u64>("echo", &1u64)
            .next()
            .await
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
    });
}

fn a_stream_that_began_ends_with_its_connection() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("a stream at the kill", async move {
        let pool = Pool::connect(&name).await.unwrap();
        // Marked as idempotent, which it is until the first item.
        let mut items = pool
            .stream::<u64>("count_slowly", &(1_000_000u64, 1u64))
            .idempotent();
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        server.kill();
        server.ended();
        let error = loop {
            match items.next().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(error.may_have_executed(), "{error:?}");
        assert!(items.next().await.is_none());
        assert_eq!(pool.stats().retried, 0);
    });
}

fn a_stream_that_has_given_nothing_is_asked_for_again_if_that_does_no_harm() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_threads("streams before the first item", async move {
        let pool = Pool::connect(&name).await.unwrap();
        let mut harmless = pool.stream_bytes("leak", b"").idempotent();
        let mut harmful = pool.stream_bytes("leak", b"");
        // Both end without an item; begin them only.
        let begun = tokio::spawn({
            let pool = pool.clone();
            async move { pool.call_bytes("hang", b"").await }
        });
        eventually_async("it hangs", || server.report()["started"] == 1).await;
        server.kill();
        server.ended();
        assert!(begun.await.unwrap().is_err());
        let server = place.start_ready("server", &[]);
        // Never begun on the old server: nothing was executed, so both are asked for here.
        assert!(harmless.next().await.is_none());
        assert!(harmful.next().await.is_none());
        drop(server);
        let mut late = pool
            .stream::<u64>("count", &3u64)
            .deadline(Duration::from_millis(100));
        let error = late.next().await.unwrap().unwrap_err();
        assert!(
            !error.may_have_executed() || matches!(error, Error::Closed { .. }),
            "{error:?}"
        );
    });
}

crate::over_both_transports!(
    all_shapes_of_calls,
    a_stream_that_began_ends_with_its_connection,
    a_stream_that_has_given_nothing_is_asked_for_again_if_that_does_no_harm,
);

crate::over_both_transports_and!(across_threads: all_shapes_of_calls);
