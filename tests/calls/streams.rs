//! Calls that are answered by a stream.

use crate::server::NAME;
use crate::support::{
    PATIENCE, Place, eventually_async, multi_thread, pattern, within, within_async,
};
use nearwire::{Client, ClientBuilder, Code, Error};
use std::time::Duration;

/// What a client grants each stream in advance, in items.
const WINDOW: u64 = 64;

fn items_come_in_order_and_then_the_end() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "items in order", async move {
        let client = Client::connect(&name).await.unwrap();
        // Without items; with some; with more than the credits and the ring.
        for count in [0, 1, WINDOW, WINDOW + 1, 20_000] {
            let mut items = client.stream::<u64>("count", &count);
            for n in 0..count {
                assert_eq!(items.next().await.unwrap().unwrap(), n);
            }
            assert!(items.next().await.is_none());
            assert!(items.next().await.is_none());
        }
        assert_eq!(client.in_flight(), 0);
    });
}

fn items_may_be_larger_than_the_ring() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    // Each time that a ring is full both sides sleep and wake, which takes several processes under wine:
    // 10,000 times were 40 s on a busy machine.
    let (large, largest) = if cfg!(windows) {
        (50_000, 1 << 20)
    } else {
        (200_000, 5 << 20)
    };
    within_async(PATIENCE, "large items", async move {
        for ring in [4096, 64 << 10] {
            let client = ClientBuilder::new()
                .ring(ring)
                .connect(&name)
                .await
                .unwrap();
            for (count, len) in [(300u64, 3000u64), (20, large), (3, largest)] {
                let mut items = client.stream::<Vec<u8>>("patterns", &(count, len));
                for n in 0..count {
                    let item = items.next().await.unwrap().unwrap();
                    assert!(item == pattern(n, len as usize), "item {n} of {len} bytes");
                }
                assert!(items.next().await.is_none());
            }
        }
    });
}

fn a_slow_reader_holds_the_handler_back() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "slow reader", async move {
        let client = Client::connect(&name).await.unwrap();
        let settled = |last: &mut u64| {
            let sent = server.report()["sent"];
            std::mem::replace(last, sent) == sent && sent > 0
        };
        // Small items, one credit each.
        let mut items = client.stream::<Vec<u8>>("endless", &100u64);
        let mut taken = 0;
        for batch in [1, 10, 200] {
            for _ in 0..batch {
                assert_eq!(items.next().await.unwrap().unwrap().len(), 100);
            }
            taken += batch;
            let mut last = 0;
            eventually_async("the handler waits", || settled(&mut last)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let sent = server.report()["sent"];
            assert!(
                (taken..=taken + WINDOW).contains(&sent),
                "{taken} taken, {sent} sent"
            );
        }
        let small_sent = server.report()["sent"];
        drop(items);
        eventually_async("the handler ends", || server.report()["dropped"] == 1).await;

        // Large items: what is ahead is bounded in bytes as well, on both sides.
        let before = server.resident();
        let len = 8u64 << 20;
        let mut items = client.stream::<Vec<u8>>("endless", &len);
        for _ in 0..3 {
            assert_eq!(items.next().await.unwrap().unwrap().len() as u64, len);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = server.report()["sent"] - small_sent;
        assert!(sent <= 3 + 2, "{sent} items of 8 MiB sent, 3 taken");
        let grown = server.resident().saturating_sub(before);
        eprintln!(
            "server grown by {} KiB by a slow reader of 8 MiB items",
            grown >> 10
        );
        assert!(grown < 64 << 20, "the server grew by {grown} bytes");
    });
}

fn dropping_a_stream_cancels_its_handler() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "dropped streams", async move {
        let client = Client::connect(&name).await.unwrap();
        for round in 0..10 {
            let mut items = client.stream::<Vec<u8>>("endless", &10_000u64);
            items.next().await.unwrap().unwrap();
            if round % 2 == 0 {
                // Until the server has sent all it may, and the ring is full.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        // Not polled, so never asked for.
        drop(client.stream::<Vec<u8>>("endless", &1u64));
        eventually_async("they end", || server.report()["dropped"] == 10).await;
        assert_eq!(server.report()["started"], 10);
        assert_eq!(client.in_flight(), 0);
        assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
    });
}

fn an_error_ends_the_stream_after_the_items_before_it() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "failing streams", async move {
        let client = Client::connect(&name).await.unwrap();
        for count in [0, 3, 500] {
            let mut items = client.stream::<u64>("fail_after", &count);
            for n in 0..count {
                assert_eq!(items.next().await.unwrap().unwrap(), n);
            }
            let Some(Err(Error::Status(status))) = items.next().await else {
                panic!("no status")
            };
            assert_eq!(status.code, Code::DATA_LOSS);
            assert_eq!(status.message, "that was all");
            assert!(items.next().await.is_none());
        }
        // A request that does not decode never reaches the handler.
        let mut items = client.stream::<u64>("count", &());
        let error = items.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Status(ref s) if s.code == Code::INVALID_ARGUMENT));
        assert!(items.next().await.is_none());
        // The sender may outlive the handler; the stream is over nevertheless.
        let mut items = client.stream_bytes("leak", b"");
        assert!(items.next().await.is_none());
    });
}

fn streams_and_calls_share_a_connection() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "streams and calls", move || {
        multi_thread().block_on(async {
            let client = Client::connect(&name).await.unwrap();
            let stream = |count: u64, len: u64| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut items = client.stream::<Vec<u8>>("patterns", &(count, len));
                    for n in 0..count {
                        let item = items.next().await.unwrap().unwrap();
                        assert!(item == pattern(n, len as usize), "item {n} of {len} bytes");
                    }
                    assert!(items.next().await.is_none());
                })
            };
            let calls = |seed: u64, len: usize| {
                let client = client.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        let request = pattern(seed << 32 | n, len);
                        let reply = client.call_bytes("echo_later", &request).await;
                        assert!(reply.unwrap() == request);
                    }
                })
            };
            let tasks = [
                stream(5000, 20),
                stream(100, 150_000),
                calls(1, 64),
                calls(2, 100_000),
            ];
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(client.in_flight(), 0);
        });
    });
}

fn a_stream_goes_on_while_its_credits_find_the_ring_full() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "credits, ring full", async move {
        let client = ClientBuilder::new()
            .ring(4096)
            .connect(&name)
            .await
            .unwrap();
        let mut items = client.stream::<u64>("count", &1000u64);
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        // More than a window has arrived; now the server stops reading, and the ring towards it
        // fills with calls that are then forgotten.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let block = client.clone();
        let block = tokio::spawn(async move { block.call::<u64>("block_ms", &100u64).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let calls = (0..64).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("echo", &[0; 100]).await })
        });
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        calls.iter().for_each(|call| call.abort());
        for n in 1..1000 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        assert!(items.next().await.is_none());
        block.await.unwrap().unwrap();
    });
}

crate::over_all_transports!(
    items_come_in_order_and_then_the_end,
    items_may_be_larger_than_the_ring,
    a_slow_reader_holds_the_handler_back,
    dropping_a_stream_cancels_its_handler,
    an_error_ends_the_stream_after_the_items_before_it,
    streams_and_calls_share_a_connection,
    a_stream_goes_on_while_its_credits_find_the_ring_full,
);

crate::over_both_transports_and!(across_threads:
    items_come_in_order_and_then_the_end,
    items_may_be_larger_than_the_ring,
    dropping_a_stream_cancels_its_handler,
    an_error_ends_the_stream_after_the_items_before_it,
    streams_and_calls_share_a_connection,
    a_stream_goes_on_while_its_credits_find_the_ring_full,
);
