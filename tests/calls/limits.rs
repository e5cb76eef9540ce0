//! What a server or a client does not accept, and that nothing is lost up to there.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, Process, eventually, pattern, within, within_async};
use nearwire::proto::handshake::{HandshakeError, RejectCode};
use nearwire::{BlockingClient, Client, ClientBuilder, Code, Error, Transport};
use std::time::Duration;

fn status_code(error: Error) -> Code {
    match error {
        Error::Status(status) => status.code,
        other => panic!("not a status: {other}"),
    }
}

/// Why the server refused.
pub fn rejected(error: Error) -> (RejectCode, String) {
    match error {
        Error::Handshake(HandshakeError::Rejected(reject)) => (reject.code, reject.text),
        other => panic!("not refused: {other}"),
    }
}

fn echoed(server: &Process) -> u64 {
    server.report()["echoed"]
}

fn a_request_above_the_servers_limit_is_not_sent() {
    // Below what fits into one record, and above it.
    for limit in [1000, 100_000] {
        let place = Place::new();
        let limit_text = limit.to_string();
        let server = place.start_ready("server", &[("max_message", &limit_text)]);
        let name = place.socket(NAME);
        let too_large = move |error: Error| {
            let expected = (limit as u64 + 1, limit as u64);
            match error {
                Error::TooLarge { len, limit } => assert_eq!((len, limit), expected),
                other => panic!("{other}"),
            }
        };
        within(PATIENCE, "too large, blocking", move || {
            let mut client = BlockingClient::connect(&name).unwrap();
            assert_eq!(client.info().max_message_out, limit as u64);
            let request = pattern(1, limit + 1);
            too_large(client.call_bytes("echo", &request).unwrap_err());
            let timeout = Duration::from_secs(9);
            let result = client.call_bytes_timeout("echo", &request, timeout);
            too_large(result.unwrap_err());
            let echo = client.method("echo").unwrap();
            let mut pipeline = client.pipeline();
            too_large(pipeline.submit(echo, &request).unwrap_err());
            assert_eq!(pipeline.in_flight(), 0);
        });
        let name = place.socket(NAME);
        within_async(PATIENCE, "too large, async", async move {
            let client = Client::connect(&name).await.unwrap();
            let request = pattern(1, limit + 1);
            too_large(client.call_bytes("echo", &request).await.unwrap_err());
            let call = client.call_bytes("echo", &request);
            too_large(call.deadline(Duration::from_secs(9)).await.unwrap_err());
            let mut items = client.stream_bytes("endless", &request);
            too_large(items.next().await.unwrap().unwrap_err());
            assert!(items.next().await.is_none());
            assert_eq!(client.in_flight(), 0);
        });
        assert_eq!(echoed(&server), 0, "the server saw a request");
        assert_eq!(server.report()["started"], 0, "the server saw a request");
        let name = place.socket(NAME);
        within(PATIENCE, "just not too large", move || {
            let mut client = BlockingClient::connect(&name).unwrap();
            let request = pattern(1, limit);
            assert!(client.call_bytes("echo", &request).unwrap() == request);
        });
        assert_eq!(echoed(&server), 1);
    }
}

fn a_reply_above_the_clients_limit_is_a_status() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "replies too large", move || {
        for limit in [1000u64, 100_000] {
            let builder = ClientBuilder::new().max_message(limit as usize);
            let mut client = builder.connect_blocking(&name).unwrap();
            for above in [1, 50_000_000] {
                let len = (limit + above).to_le_bytes();
                let error = client.call_bytes("raw_bytes", &len).unwrap_err();
                assert_eq!(status_code(error), Code::REPLY_TOO_LARGE);
            }
            let request = pattern(1, limit as usize + 1);
            let error = client.call_bytes("echo_later", &request).unwrap_err();
            assert_eq!(status_code(error), Code::REPLY_TOO_LARGE);
            // The connection is none the worse for it.
            let reply = client.call_bytes("raw_bytes", &limit.to_le_bytes());
            assert_eq!(reply.unwrap().len() as u64, limit);
        }
    });
}

fn a_stream_item_above_the_clients_limit_ends_the_stream() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "items too large", async move {
        let client = ClientBuilder::new().max_message(1000).connect(&name).await;
        let client = client.unwrap();
        let mut items = client.stream::<Vec<u8>>("patterns", &(3u64, 1000u64));
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(status_code(error), Code::REPLY_TOO_LARGE);
        assert!(items.next().await.is_none());
        let mut items = client.stream::<Vec<u8>>("patterns", &(1u64, 900u64));
        assert_eq!(items.next().await.unwrap().unwrap(), pattern(0, 900));
    });
}

fn a_pipeline_says_when_too_many_calls_are_in_flight() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_in_flight", "8")]);
    let name = place.socket(NAME);
    within(PATIENCE, "pipeline at the limit", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        let slow = client.method("sleep_ms").unwrap();
        let mut pipeline = client.pipeline();
        for _ in 0..3 {
            while pipeline.in_flight() < pipeline.max_in_flight() {
                pipeline.submit(slow, &[20]).unwrap();
            }
            assert_eq!(pipeline.in_flight(), 8);
            let error = pipeline.submit(slow, &[20]).unwrap_err();
            assert!(
                matches!(error, Error::TooManyInFlight { limit: 8 }),
                "{error}"
            );
            for _ in 0..5 {
                pipeline
                    .next(|_, reply| assert_eq!(reply, Ok(&[20][..])))
                    .unwrap();
            }
        }
        // What is given up is still in flight at the server for a while; the next pipeline's
        // calls come through all the same.
        drop(pipeline);
        let mut pipeline = client.pipeline();
        for _ in 0..8 {
            pipeline.submit(slow, &[1]).unwrap();
        }
        while pipeline.in_flight() > 0 {
            pipeline
                .next(|_, reply| assert_eq!(reply, Ok(&[1][..])))
                .unwrap();
        }
    });
}

fn more_tasks_than_places_all_come_through() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_in_flight", "3")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "waiting for places", async move {
        let client = Client::connect(&name).await.unwrap();
        let tasks = (0..100u64).map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let request = pattern(task << 32 | n, (task * 31 + n) as usize);
                    // Some give up while they wait, or while they are in flight.
                    if task % 5 == 0 {
                        let call = client.call_bytes("echo_later", &request);
                        let _ = tokio::time::timeout(Duration::from_micros(task * 20), call).await;
                    } else {
                        let reply = client.call_bytes("echo_later", &request).await;
                        assert!(reply.unwrap() == request);
                    }
                    assert!(client.in_flight() <= 3);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(client.in_flight(), 0);
    });
}

fn calls_can_be_cancelled_when_all_places_are_taken() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_in_flight", "2")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "cancelling at the limit", async move {
        let client = Client::connect(&name).await.unwrap();
        for _ in 0..3 {
            let both = async {
                tokio::join!(
                    client.call_bytes("hang", b""),
                    client.call_bytes("hang", b"")
                )
            };
            let soon = Duration::from_millis(100);
            assert!(tokio::time::timeout(soon, both).await.is_err());
            assert_eq!(client.in_flight(), 0);
            // The server has only two places, and these two are gone.
            let (one, two) = tokio::join!(
                client.call::<u64>("sleep_ms", &1u64),
                client.call::<u64>("sleep_ms", &1u64)
            );
            assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
        }
    });
    eventually("the handlers' futures are dropped", || {
        server.report()["dropped"] == 6
    });
}

fn streams_go_on_when_all_places_are_taken() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_in_flight", "2")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "streams at the limit", async move {
        let client = Client::connect(&name).await.unwrap();
        let take = |count: u64| {
            let client = client.clone();
            async move {
                let mut items = client.stream::<u64>("count", &count);
                for n in 0..count {
                    assert_eq!(items.next().await.unwrap().unwrap(), n);
                }
                assert!(items.next().await.is_none());
            }
        };
        tokio::join!(take(500), take(700), take(300));
    });
}

fn clients_beyond_the_limit_are_refused_and_told_why() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_connections", "3")]);
    let name = place.socket(NAME);
    let mut clients: Vec<_> = (0..3)
        .map(|_| BlockingClient::connect(&name).unwrap())
        .collect();
    for _ in 0..5 {
        let (code, text) = rejected(BlockingClient::connect(&name).unwrap_err());
        assert_eq!(code, RejectCode::Limits);
        assert!(text.contains("3 connections"), "{text}");
    }
    for client in &mut clients {
        assert_eq!(client.call_bytes("echo", b"in").unwrap(), b"in");
    }
    clients.pop();
    eventually("the place is free", || server.report()["connections"] == 2);
    let mut another = BlockingClient::connect(&name).unwrap();
    assert_eq!(another.call_bytes("echo", b"in").unwrap(), b"in");
}

fn the_calls_of_all_connections_together_are_limited() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_running", "10")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "running calls", async move {
        let first = Client::connect(&name).await.unwrap();
        let second = Client::connect(&name).await.unwrap();
        let hanging: Vec<_> = (0..10)
            .map(|n| {
                let client = [&first, &second][n % 2].clone();
                tokio::spawn(async move { client.call_bytes("hang", b"").await })
            })
            .collect();
        crate::support::eventually_async("they begin", || server.report()["started"] == 10).await;
        for client in [&first, &second] {
            let error = client.call_bytes("hang", b"").await.unwrap_err();
            assert_eq!(status_code(error), Code::RESOURCE_EXHAUSTED);
            // What is ready at once needs no place.
            assert_eq!(client.call_bytes("echo_ready", b"on").await.unwrap(), b"on");
        }
        hanging.iter().for_each(|call| call.abort());
        crate::support::eventually_async("they end", || server.report()["dropped"] == 12).await;
        let reply = second.call::<u64>("sleep_ms", &1u64).await;
        assert_eq!(reply.unwrap(), 1);
    });
}

/// Of clients that take nothing else; others go over the socket.
#[cfg(feature = "spsc_transport")]
#[test]
fn mapped_memory_is_limited_and_comes_back() {
    let place = Place::new();
    // Room for two default connections, each of two rings and their words.
    let each = 2 * (128 << 10) + 2 * 4096;
    let limit = (2 * each + 1).to_string();
    let server = place.start_ready(
        "server",
        &[("max_mapped", &limit), ("transport", "shared memory")],
    );
    let name = place.socket(NAME);
    let mut clients: Vec<_> = (0..2)
        .map(|_| BlockingClient::connect(&name).unwrap())
        .collect();
    for _ in 0..3 {
        let (code, text) = rejected(BlockingClient::connect(&name).unwrap_err());
        assert_eq!(code, RejectCode::Limits);
        assert!(
            text.contains("smaller rings") && text.contains(&limit),
            "{text}"
        );
    }
    for client in &mut clients {
        assert_eq!(client.call_bytes("echo", b"in").unwrap(), b"in");
    }
    clients.pop();
    eventually("the memory is free", || server.report()["connections"] == 1);
    let small = ClientBuilder::new().ring(4096);
    let _small: Vec<_> = (0..3)
        .map(|_| small.connect_blocking(&name).unwrap())
        .collect();
}

fn rings_are_clamped_to_the_servers_limits() {
    let place = Place::new();
    let limits = [("min_ring", "8192"), ("max_ring", "131072")];
    let _server = place.start_ready("server", &limits);
    let name = place.socket(NAME);
    within(PATIENCE, "ring sizes", move || {
        for (wish, granted) in [
            (4096, 8192),
            (8192, 8192),
            (32_768, 32_768),
            (131_072, 131_072),
            (1 << 20, 131_072),
        ] {
            let builder = ClientBuilder::new().ring(wish);
            let mut client = builder.connect_blocking(&name).unwrap();
            let info = client.info();
            // Over the socket larger ones are of no use.
            let granted = match info.transport {
                Transport::Socket => granted.min(65_536),
                _ => granted,
            };
            assert_eq!((info.ring_out, info.ring_in), (granted, granted), "{wish}");
            let request = pattern(1, 500_000);
            assert!(client.call_bytes("echo", &request).unwrap() == request);
        }
        for wish in [0, 5000, 2048, 512 << 20] {
            let error = ClientBuilder::new().ring(wish).connect_blocking(&name);
            let error = error.unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Setting {
                        setting: "ring",
                        ..
                    }
                ),
                "{error}"
            );
        }
    });
}

fn wrong_uses_are_named() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "wrong uses", async move {
        let client = Client::connect(&name).await.unwrap();
        let error = client.call_bytes("count", b"").await.unwrap_err();
        assert!(
            matches!(error, Error::WrongShape { ref name } if name == "count"),
            "{error}"
        );
        let mut items = client.stream_bytes("echo", b"");
        let error = items.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        let error = client.call_bytes("ech", b"").await.unwrap_err();
        assert!(matches!(error, Error::NoMethod { .. }), "{error}");
        let mut blocking =
            tokio::task::spawn_blocking(move || BlockingClient::connect(&name).unwrap())
                .await
                .unwrap();
        let error = blocking.call_bytes("count", b"").unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
        let count = blocking.method("count").unwrap();
        let error = blocking.pipeline().submit(count, b"").unwrap_err();
        assert!(matches!(error, Error::WrongShape { .. }), "{error}");
    });
    drop(server);
    for bad in ["", "a b", ".hidden", "ü"] {
        let error = BlockingClient::connect(bad).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
    let error = BlockingClient::connect(&place.socket("nobody")).unwrap_err();
    assert!(
        matches!(error, Error::NoServer { dead: false, .. }),
        "{error}"
    );
    let long = place.socket(&"x".repeat(300));
    let error = BlockingClient::connect(&long).unwrap_err();
    assert!(matches!(error, Error::PathTooLong { .. }), "{error}");
}

fn an_async_method_needs_a_runtime() {
    let place = Place::new();
    let server = nearwire::Server::builder().method_async("later", |r| async { Ok(r) });
    let error = server.bind(&place.socket("x")).unwrap_err();
    assert!(
        matches!(error, Error::NoRuntime { ref method } if method == "later"),
        "{error}"
    );
    // What clients could not be told of is refused when the server starts, not when they come.
    for name in ["", "line\nfeed", &"x".repeat(256)] {
        let server = nearwire::Server::builder().method(name, |_| Ok(vec![]));
        let error = server.bind(&place.socket("x")).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
    }
    let mut server = nearwire::Server::builder();
    for n in 0..6000 {
        server = server.method(&format!("{n:>0200}"), |_| Ok(vec![]));
    }
    let error = server.bind(&place.socket("x")).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
}

crate::over_all_transports!(
    a_request_above_the_servers_limit_is_not_sent,
    a_reply_above_the_clients_limit_is_a_status,
    a_stream_item_above_the_clients_limit_ends_the_stream,
    a_pipeline_says_when_too_many_calls_are_in_flight,
    more_tasks_than_places_all_come_through,
    calls_can_be_cancelled_when_all_places_are_taken,
    streams_go_on_when_all_places_are_taken,
    clients_beyond_the_limit_are_refused_and_told_why,
    the_calls_of_all_connections_together_are_limited,
    rings_are_clamped_to_the_servers_limits,
    wrong_uses_are_named,
    an_async_method_needs_a_runtime,
);

crate::over_both_transports_and!(across_threads:
    a_request_above_the_servers_limit_is_not_sent,
    a_reply_above_the_clients_limit_is_a_status,
    a_stream_item_above_the_clients_limit_ends_the_stream,
    a_pipeline_says_when_too_many_calls_are_in_flight,
    more_tasks_than_places_all_come_through,
    calls_can_be_cancelled_when_all_places_are_taken,
    streams_go_on_when_all_places_are_taken,
    clients_beyond_the_limit_are_refused_and_told_why,
    the_calls_of_all_connections_together_are_limited,
    rings_are_clamped_to_the_servers_limits,
    wrong_uses_are_named,
);
