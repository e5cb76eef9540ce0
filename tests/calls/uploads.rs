//! Calls that send a stream, calls with streams both ways, and calls that want no answer.

use crate::server::NAME;
use crate::support::{
    PATIENCE, Place, current_thread, eventually, eventually_async, multi_thread, pattern, within,
    within_async,
};
use nearwire::{BlockingClient, Client, ClientBuilder, CloseReason, Code, Error, Executed};
use std::time::{Duration, Instant};

/// What a server grants each stream in advance, in items.
const WINDOW: u64 = 64;

fn a_stream_of_the_callers_gets_one_reply() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "sums", async move {
        let client = Client::connect(&name).await.unwrap();
        for count in [0, 1, WINDOW, WINDOW + 1, 5000] {
            let mut call = client.client_stream::<u64, u64>("sum", &7u64);
            for n in 0..count {
                call.send(&n).await.unwrap();
            }
            let sum = call.finish().await.unwrap();
            assert_eq!(sum, 7 + (0..count).sum::<u64>());
        }
        assert_eq!(client.in_flight(), 0);
    });
}

fn items_of_the_callers_may_be_larger_than_the_ring() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "large uploads", async move {
        for ring in [4096, 64 << 10] {
            let builder = ClientBuilder::new().ring(ring);
            let client = builder.connect(&name).await.unwrap();
            let mut call = client.client_stream_bytes("join", b"");
            let mut sent = Vec::new();
            for (n, len) in [10, 100_000, 0, 3000, 1 << 20, 5].into_iter().enumerate() {
                let item = pattern(n as u64, len);
                sent.extend_from_slice(&item);
                call.send(item).await.unwrap();
            }
            assert!(call.finish().await.unwrap() == sent);
        }
    });
}

fn small_and_large_items_keep_their_order_while_the_ring_is_full() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "1")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "mixed sizes", async move {
        let builder = ClientBuilder::new().ring(4096);
        let client = builder.connect(&name).await.unwrap();
        // The worker takes nothing meanwhile, so that all that follows waits for space in the ring.
        let blocking = tokio::spawn(client.call::<u64>("block_ms", &300u64));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let others: Vec<_> = (0..200)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move {
                    let request = pattern(n, 100);
                    assert!(client.call_bytes("echo", &request).await.unwrap() == request);
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Half of the items are larger than a frame. The server has all of them to send at a time,
        // for nobody takes what it sends.
        let len = |n: u64| if n % 4 < 2 { 50 } else { 3000 };
        let mut chats = Vec::new();
        for chat in 0..10 {
            let (mut sink, items) = client.bidirectional_bytes("chat", b"hello");
            for n in 0..WINDOW {
                sink.send(pattern(chat << 32 | n, len(n))).await.unwrap();
            }
            sink.finish().await.unwrap();
            chats.push(items);
        }
        assert_eq!(blocking.await.unwrap().unwrap(), 300);
        for other in others {
            other.await.unwrap();
        }
        for (chat, items) in chats.iter_mut().enumerate() {
            assert_eq!(items.next().await.unwrap().unwrap(), b"hello");
            for n in 0..WINDOW {
                let item = items.next().await.unwrap().unwrap();
                assert!(item == pattern((chat as u64) << 32 | n, len(n)), "item {n}");
            }
            assert_eq!(items.next().await.unwrap().unwrap(), b"bye");
        }
    });
}

fn a_handler_that_does_not_read_holds_the_caller_back() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "held back", async move {
        let client = Client::connect(&name).await.unwrap();
        let before = server.resident();
        let mut call = client.client_stream_bytes("never_reads", b"");
        let mut sent = 0;
        let wait = Duration::from_millis(200);
        while let Ok(result) = tokio::time::timeout(wait, call.send(vec![1; 60_000])).await {
            result.unwrap();
            sent += 1;
        }
        assert_eq!(
            sent, WINDOW,
            "items sent without credit, or credits not used"
        );
        let grown = server.resident().saturating_sub(before);
        eprintln!("a handler that does not read holds {} KiB", grown >> 10);
        assert!(grown < 16 << 20, "the server grew by {grown} bytes");
        // The connection is not blocked by it.
        assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
        drop(call);
        eventually_async("the handler ends", || server.report()["dropped"] == 1).await;
        assert_eq!(client.in_flight(), 0);
    });
}

fn a_handler_may_answer_before_the_stream_has_ended() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "early answers", async move {
        let client = Client::connect(&name).await.unwrap();
        let mut call = client.client_stream::<u64, Vec<u64>>("first", &3u64);
        // Far more than it takes, and than its credits: none of the sends hangs.
        for n in 0..1000 {
            call.send(&n).await.unwrap();
        }
        assert_eq!(call.finish().await.unwrap(), [0, 1, 2]);
        // Large ones, one of which is half way out when the answer comes.
        let small_ring = ClientBuilder::new()
            .ring(4096)
            .connect(&name)
            .await
            .unwrap();
        let mut call = small_ring.client_stream_bytes("first", &[0]);
        for _ in 0..10 {
            call.send(vec![0; 300_000]).await.unwrap();
        }
        assert_eq!(call.finish().await.unwrap(), [0]);
        // One that sends for ever, to a call that is over for both halves, keeps nobody from running.
        let (mut sink, mut items) = client.bidirectional_bytes("greet", b"hello");
        assert_eq!(items.next().await.unwrap().unwrap(), b"hello");
        assert!(items.next().await.is_none());
        let for_ever = async {
            loop {
                sink.send(vec![0]).await.unwrap();
            }
        };
        let time = Duration::from_millis(50);
        assert!(tokio::time::timeout(time, for_ever).await.is_err());
        let large = pattern(5, 100_000);
        assert!(small_ring.call_bytes("echo", &large).await.unwrap() == large);
    });
}

fn an_early_answer_reaches_a_sender_that_waits_for_credits() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "an early answer", async move {
        let client = Client::connect(&name).await.unwrap();
        let mut call = client.client_stream_bytes("answers_later", b"");
        // The handler reads none of them: after the credits the sender waits, until the answer comes.
        for _ in 0..2 * WINDOW {
            call.send("item").await.unwrap();
        }
        assert_eq!(call.finish().await.unwrap(), b"early");
    });
}

fn a_stream_that_is_dropped_is_not_taken_for_one_that_ended() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "cut off", async move {
        let client = Client::connect(&name).await.unwrap();
        let mut call = client.client_stream_bytes("how_it_ends", b"");
        call.send("one").await.unwrap();
        assert_eq!(call.finish().await.unwrap(), b"in order");
        let (mut sink, mut items) = client.bidirectional_bytes("chat", b"hello");
        sink.send("one").await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), b"hello");
        assert_eq!(items.next().await.unwrap().unwrap(), b"one");
        drop(sink);
        let error = items.next().await.unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Status(ref s) if s.code == Code::CANCELLED),
            "{error}"
        );
        assert!(items.next().await.is_none());
        assert_eq!(server.report()["dropped"], 0);
    });
}

fn streams_go_both_ways_at_a_time() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "both ways", move || {
        multi_thread().block_on(async {
            let client = Client::connect(&name).await.unwrap();
            let (mut sink, mut items) = client.bidirectional::<u64, u64>("double", &2u64);
            let sending = tokio::spawn(async move {
                for n in 0..10_000 {
                    sink.send(&n).await.unwrap();
                }
                sink.finish().await.unwrap();
            });
            for n in 0..10_000 {
                assert_eq!(items.next().await.unwrap().unwrap(), 2 * n);
            }
            assert!(items.next().await.is_none());
            sending.await.unwrap();
            // The handler speaks first, and last, and ends with an error.
            let (mut sink, mut items) = client.bidirectional_bytes("chat", b"hello");
            assert_eq!(items.next().await.unwrap().unwrap(), b"hello");
            sink.send("and").await.unwrap();
            assert_eq!(items.next().await.unwrap().unwrap(), b"and");
            sink.finish().await.unwrap();
            assert_eq!(items.next().await.unwrap().unwrap(), b"bye");
            let error = items.next().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Status(ref s) if s.code == Code::DATA_LOSS));
            assert!(items.next().await.is_none());
            assert_eq!(client.in_flight(), 0);
        });
    });
}

fn a_deadline_ends_calls_with_streams() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "late streams", async move {
        let client = Client::connect(&name).await.unwrap();
        let late = |error: &Error| match error {
            Error::DeadlineExceeded => true,
            Error::Status(status) => status.code == Code::DEADLINE_EXCEEDED,
            _ => false,
        };
        // On a machine that is busy enough, a deadline is over before anything has begun: then with more time.
        let mut time = Duration::from_millis(80);
        while server.report()["started"] == 0 {
            assert!(time < PATIENCE / 4);
            let call = client
                .client_stream_bytes("never_reads", b"")
                .deadline(time);
            let error = call.finish().await.unwrap_err();
            assert!(late(&error), "{error}");
            time *= 2;
        }
        let mut items = loop {
            let mut items = client
                .stream::<u64>("count_slowly", &(2u64, 60_000u64))
                .deadline(time);
            match items.next().await.unwrap() {
                Ok(first) => {
                    assert_eq!(first, 0);
                    break items;
                }
                Err(error) => assert!(late(&error) && time < PATIENCE / 4, "{error}"),
            }
            time *= 2;
        };
        let error = items.next().await.unwrap().unwrap_err();
        assert!(late(&error), "{error}");
        assert!(items.next().await.is_none());
        let ended = || {
            let report = server.report();
            report["dropped"] == report["started"]
        };
        eventually_async("the handlers end", ended).await;
        assert_eq!(client.in_flight(), 0);
    });
}

fn both_halves_of_a_call_are_told_how_it_failed() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "both halves", async move {
        let client = Client::connect(&name).await.unwrap();
        // The sending half sees the deadline first; the handler has begun.
        let time = Duration::from_millis(80);
        let mut call = client
            .client_stream_bytes("never_reads", b"")
            .deadline(time);
        // Unless the server has said so before: then items are taken and nobody needs them.
        let begun = Instant::now();
        while begun.elapsed() < 10 * time {
            if let Err(error) = call.send(vec![0; 1000]).await {
                assert!(matches!(error, Error::DeadlineExceeded), "{error}");
                break;
            }
        }
        let error = call.finish().await.unwrap_err();
        let server_said =
            matches!(&error, Error::Status(status) if status.code == Code::DEADLINE_EXCEEDED);
        assert!(
            server_said || matches!(error, Error::DeadlineExceeded),
            "{error}"
        );
        assert!(error.may_have_executed());
        // The sending half finds that the server is gone; the other is told the same.
        server.kill();
        client.closed().await;
        let (mut sink, mut items) = client.bidirectional_bytes("chat", b"hello");
        for error in [
            sink.send("one").await.unwrap_err(),
            items.next().await.unwrap().unwrap_err(),
        ] {
            assert!(
                matches!(
                    error,
                    Error::Closed {
                        reason: CloseReason::PeerGone,
                        executed: Executed::No
                    }
                ),
                "{error:?}"
            );
        }
        assert!(items.next().await.is_none());
    });
}

fn notifications_arrive_and_get_no_answer() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "notifications", async move {
        let client = Client::connect(&name).await.unwrap();
        for n in 0..1000u64 {
            // Whole, in fragments, and to handlers that fail.
            let len = if n % 100 == 0 { 200_000 } else { 100 };
            client.notify_bytes("echo", &pattern(n, len)).await.unwrap();
            client.notify_bytes("fail", b"").await.unwrap();
            client.notify_bytes("panic_later", b"").await.unwrap();
        }
        // Behind them in the same ring.
        assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
        eventually_async("all arrive", || server.report()["echoed"] == 1001).await;
        let error = client.notify_bytes("count", b"").await.unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        assert_eq!(client.in_flight(), 0);
    });
    let server = place.start_ready("server", &[("name", "blocking")]);
    let name = place.socket("blocking");
    within(PATIENCE, "blocking notifications", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        for n in 0..1000u64 {
            client.notify_bytes("echo", &pattern(n, 1000)).unwrap();
        }
        assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
        assert_eq!(server.report()["echoed"], 1001);
    });
}

fn notifications_arrive_though_their_client_is_closed_behind_them() {
    const CLIENTS: u64 = 100;
    const EACH: u64 = 20;
    let place = Place::new();
    // A server that sleeps is told of the requests and of the end at the same time.
    for (name, spin) in [("asleep", "never"), ("awake", "default")] {
        let settings = [("name", name), ("spin", spin), ("workers", "2")];
        let server = place.start_ready("server", &settings);
        let socket = place.socket(name);
        within(PATIENCE, "clients that close at once", move || {
            let runtime = current_thread();
            for number in 0..CLIENTS {
                if number % 2 == 0 {
                    let mut client = BlockingClient::connect(&socket).unwrap();
                    for n in 0..EACH {
                        client.notify_bytes("echo", &pattern(n, 100)).unwrap();
                    }
                } else {
                    runtime.block_on(async {
                        let client = Client::connect(&socket).await.unwrap();
                        for n in 0..EACH {
                            client.notify_bytes("echo", &pattern(n, 100)).await.unwrap();
                        }
                    });
                }
            }
            eventually("all connections are over", || {
                server.report()["connections"] == 0
            });
            assert_eq!(server.report()["echoed"], CLIENTS * EACH, "{name}");
        });
    }
}

fn a_method_called_in_the_wrong_way_is_named() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "wrong shapes", async move {
        let client = Client::connect(&name).await.unwrap();
        let mut upload = client.client_stream_bytes("count", b"");
        let error = upload.send("x").await.unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        let (_, mut items) = client.bidirectional_bytes("sum", b"");
        let error = items.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        let error = client.call_bytes("sum", b"").await.unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
    });
}

crate::over_all_transports!(
    a_stream_of_the_callers_gets_one_reply,
    small_and_large_items_keep_their_order_while_the_ring_is_full,
    items_of_the_callers_may_be_larger_than_the_ring,
    a_handler_that_does_not_read_holds_the_caller_back,
    a_handler_may_answer_before_the_stream_has_ended,
    an_early_answer_reaches_a_sender_that_waits_for_credits,
    a_stream_that_is_dropped_is_not_taken_for_one_that_ended,
    streams_go_both_ways_at_a_time,
    a_deadline_ends_calls_with_streams,
    notifications_arrive_and_get_no_answer,
    notifications_arrive_though_their_client_is_closed_behind_them,
    both_halves_of_a_call_are_told_how_it_failed,
    a_method_called_in_the_wrong_way_is_named,
);

crate::over_both_transports_and!(across_threads:
    a_stream_of_the_callers_gets_one_reply,
    items_of_the_callers_may_be_larger_than_the_ring,
    small_and_large_items_keep_their_order_while_the_ring_is_full,
    a_handler_may_answer_before_the_stream_has_ended,
    an_early_answer_reaches_a_sender_that_waits_for_credits,
    a_deadline_ends_calls_with_streams,
    notifications_arrive_and_get_no_answer,
);
