//! A server's counters, read by another process while it serves others.

use crate::limits::rejected;
use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually, pattern, within, within_async};
use nearwire::metrics::{Counter, Distribution, Gauge, Snapshot, State};
use nearwire::proto::handshake::RejectCode;
use nearwire::{BlockingClient, ByteListener, Client, ClientBuilder, Error, Listener, Observer};
use std::time::Duration;

/// The counters of calls that are not zero.
fn outcomes(snapshot: &Snapshot) -> Vec<(&'static str, u64)> {
    let calls = Counter::ALL.iter().filter_map(|&counter| {
        let metric = counter.metric();
        let (_, outcome) = metric.label.filter(|_| metric.name == "calls")?;
        Some((outcome, snapshot.total(counter)))
    });
    calls.filter(|&(_, count)| count > 0).collect()
}

fn every_call_is_counted_once_by_how_it_ended() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "2"), ("max_in_flight", "8")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    within_async(PATIENCE, "calls of all kinds", async move {
        let client = Client::connect(&name).await.unwrap();
        for _ in 0..100 {
            client.call_bytes("echo", b"sync").await.unwrap();
            client.call_bytes("echo_ready", b"async").await.unwrap();
        }
        for _ in 0..5 {
            client.call_bytes("echo_later", b"later").await.unwrap();
            client.call_bytes("fail", b"").await.unwrap_err();
        }
        for method in ["panic_sync", "panic_start", "panic_first", "panic_later"] {
            client.call_bytes(method, b"").await.unwrap_err();
        }
        let short = Duration::from_millis(20);
        for _ in 0..3 {
            // Either side may be first to say so, and then it is a cancellation or a deadline.
            let call = client.call_bytes("hang", b"").deadline(short);
            call.await.unwrap_err();
        }
        let mut items = client.stream::<u64>("count", &10u64);
        while let Some(item) = items.next().await {
            item.unwrap();
        }
        let mut endless = client.stream::<Vec<u8>>("endless", &0u64);
        endless.next().await;
        drop(endless);
        client.notify_bytes("echo", b"no answer").await.unwrap();
        // More than a ring takes.
        let large = pattern(7, 1 << 20);
        assert!(client.call_bytes("echo", &large).await.unwrap() == large);
        client.ping().await.unwrap();
    });
    eventually("all calls are counted", || {
        observer.snapshot().gauge(Gauge::Connections) == 0
    });
    let snapshot = observer.snapshot();
    let found = outcomes(&snapshot);
    let of = |outcome: &str| {
        let found = found.iter().find(|(of, _)| *of == outcome);
        found.map_or(0, |&(_, count)| count)
    };
    // 200, 5 later, a stream, a notification, a large one.
    assert_eq!(of("ok"), 208, "{found:?}");
    assert_eq!(of("failed"), 5, "{found:?}");
    assert_eq!(of("panicked"), 4, "{found:?}");
    assert_eq!(of("cancelled") + of("deadline_exceeded"), 4, "{found:?}");
    assert_eq!(snapshot.calls(), 221, "{found:?}");
    assert_eq!(snapshot.gauge(Gauge::CallsInFlight), 0);
    assert_eq!(snapshot.total(Counter::ConnectionsOpened), 1);
    let closed = snapshot.total(Counter::ClosedFinished) + snapshot.total(Counter::ClosedGone);
    assert_eq!(closed, 1);
    assert!(snapshot.total(Counter::BytesReceived) > 1 << 20);
    assert!(snapshot.total(Counter::BytesSent) > 1 << 20);
    let turns = snapshot.total(Counter::Turns);
    assert!(turns > 0 && snapshot.total(Counter::MessagesReceived) >= turns.min(221));
    assert!(snapshot.connections.is_empty());
}

fn bytes_are_those_of_records_and_not_of_what_a_ring_leaves_out() {
    const CALLS: u64 = 2000;
    // The record's word, the call's number, the payload.
    const RECORD: u64 = 8 + 8 + 64;
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let total = move |counter| observer.snapshot().total(counter);
    within(PATIENCE, "calls that go round the ring", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        for _ in 0..CALLS {
            client.call_bytes("echo", &[7; 64]).unwrap();
        }
        let metrics = client.metrics();
        let sent = (metrics.bytes_sent, metrics.bytes_received);
        assert_eq!(sent, (CALLS * RECORD, CALLS * RECORD));
    });
    eventually("all is counted", || {
        total(Counter::BytesReceived) == CALLS * RECORD
            && total(Counter::BytesSent) == CALLS * RECORD
    });
}

fn with_one_in_one_every_call_is_in_the_histograms() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("sampling", "1"), ("workers", "1")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let metrics = within(PATIENCE, "sampled calls", move || {
        let builder = ClientBuilder::new().sampling(1);
        let mut client = builder.connect_blocking(&name).unwrap();
        for _ in 0..500 {
            client.call_bytes("echo", b"x").unwrap();
        }
        client.call::<u64, ()>("sleep_ms", &50).unwrap();
        let echo = client.method("echo").unwrap();
        let mut pipeline = client.pipeline();
        for _ in 0..100 {
            pipeline.submit(echo, b"x").unwrap();
        }
        while pipeline.in_flight() > 0 {
            pipeline
                .next(|_, reply| assert_eq!(reply.unwrap(), b"x"))
                .unwrap();
        }
        drop(pipeline);
        client.metrics()
    });
    assert_eq!((metrics.calls, metrics.call_duration.count()), (601, 601));
    assert!(metrics.call_duration.quantile(1.0).unwrap() >= 50_000_000);
    assert!(metrics.bytes_sent > 601 * 16 && metrics.bytes_received > 601 * 16);
    eventually("the client is gone", || {
        observer.snapshot().gauge(Gauge::Connections) == 0
    });
    let snapshot = observer.snapshot();
    let handlers = snapshot.distribution(Distribution::HandlerDuration);
    assert_eq!(handlers.count(), 601);
    assert_eq!(snapshot.total(Counter::HandlerTime), handlers.sum());
    // Waiting is part of an async handler's time.
    assert!(handlers.quantile(1.0).unwrap() >= 50_000_000);
    let batches = snapshot.distribution(Distribution::BatchSize);
    assert_eq!(batches.count(), snapshot.total(Counter::Turns));
    assert_eq!(batches.sum(), snapshot.total(Counter::MessagesReceived));
    let depths = snapshot.distribution(Distribution::QueueDepth);
    assert_eq!(depths.count(), batches.count());
    assert!(depths.quantile(1.0).unwrap() >= 1, "the sleeping call");
}

fn without_sampling_there_are_counters_and_no_times() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("sampling", "0")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let mut client = ClientBuilder::new()
        .sampling(0)
        .connect_blocking(&name)
        .unwrap();
    for _ in 0..5000 {
        client.call_bytes("echo", b"x").unwrap();
    }
    assert_eq!(client.metrics().call_duration.count(), 0);
    drop(client);
    eventually("calls are counted", || observer.snapshot().calls() == 5000);
    let snapshot = observer.snapshot();
    assert_eq!(snapshot.sampling, 0);
    assert_eq!(snapshot.total(Counter::HandlerTime), 0);
    for &which in Distribution::ALL {
        assert_eq!(snapshot.distribution(which).count(), 0);
    }
}

fn about_one_in_so_many_is_sampled() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("sampling", "100")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let mut client = ClientBuilder::new()
        .sampling(100)
        .connect_blocking(&name)
        .unwrap();
    within(PATIENCE, "many calls", move || {
        let echo = client.method("echo_into").unwrap();
        let mut pipeline = client.pipeline();
        for _ in 0..2500 {
            // In batches of 16 and the like, whatever the server makes of them.
            for _ in 0..16 {
                pipeline.submit(echo, b"x").unwrap();
            }
            while pipeline.in_flight() > 0 {
                pipeline.next(|_, _| ()).unwrap();
            }
        }
        drop(pipeline);
        // 400 are expected; six standard deviations are 120.
        let sampled = client.metrics().call_duration.count();
        assert!((280..520).contains(&sampled), "{sampled}");
    });
    eventually("calls are counted", || {
        observer.snapshot().calls() == 40_000
    });
    let handlers = observer
        .snapshot()
        .distribution(Distribution::HandlerDuration);
    assert!((280..520).contains(&handlers.count()), "{handlers:?}");
}

fn connections_are_listed_with_who_they_are_and_how() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "2")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    assert_eq!(observer.server().pid, server.id());
    assert_eq!(observer.snapshot().pid, server.id());
    let mut clients: Vec<_> = (0..6)
        .map(|n| {
            let builder = ClientBuilder::new().label(&format!("client {n}"));
            builder.ring(8192).connect_blocking(&name).unwrap()
        })
        .collect();
    for _ in 0..10 {
        clients[3].call_bytes("echo", &[7; 100]).unwrap();
    }
    // The page may still say how one was that was parked between two calls.
    eventually("all are parked after the last call", || {
        let connections = observer.snapshot().connections;
        let told = |label| if label == "client 3" { 10 } else { 0 };
        connections.len() == 6
            && connections
                .iter()
                .all(|c| c.state == State::Parked && c.messages_received == told(c.label.as_str()))
    });
    let snapshot = observer.snapshot();
    let busy = snapshot.connections.iter().find(|c| c.label == "client 3");
    let busy = busy.unwrap();
    assert_eq!(busy.id, clients[3].info().id);
    assert_eq!(busy.pid, std::process::id());
    assert_eq!((busy.messages_received, busy.messages_sent), (10, 10));
    assert_eq!(
        (busy.requests.capacity, busy.replies.capacity),
        (8192, 8192)
    );
    assert_eq!(busy.requests.occupied(), 0);
    assert!(busy.requests.consumed >= 10 * 116);
    assert!(busy.requests.consumer_parked && !busy.requests.producer_parked);
    assert!(busy.worker < 2 && busy.in_flight == 0 && busy.blocked_since.is_none());
    let of_worker = |n: usize| snapshot.workers[n].gauge(Gauge::Connections);
    assert_eq!((of_worker(0), of_worker(1)), (3, 3));
    clients.remove(3);
    eventually("one is gone", || observer.snapshot().connections.len() == 5);
    assert!(
        observer
            .snapshot()
            .connections
            .iter()
            .all(|c| c.label != "client 3")
    );
}

/// Over the socket the system holds much of what a client does not take.
#[test]
fn a_client_that_does_not_take_its_replies_is_stuck() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let mut client = ClientBuilder::new()
        .ring(8192)
        .connect_blocking(&name)
        .unwrap();
    let bytes = client.method("bytes").unwrap();
    let mut pipeline = client.pipeline();
    for _ in 0..16 {
        pipeline.submit(bytes, &[0xd0, 0x0f]).unwrap(); // 2000
    }
    pipeline.flush();
    eventually("it is stuck", || {
        let snapshot = observer.snapshot();
        let stuck = snapshot
            .connections
            .iter()
            .filter(|c| c.is_stuck(snapshot.uptime));
        stuck.count() == 1
    });
    let stuck = observer.snapshot().connections[0].clone();
    assert!(stuck.waiting > 0 && stuck.in_flight > 0, "{stuck:?}");
    assert!(
        stuck.replies.occupied() > 4096 && stuck.replies.producer_parked,
        "{stuck:?}"
    );
    assert!(observer.snapshot().total(Counter::FullRingWaits) > 0);
    // It takes them after all.
    while pipeline.in_flight() > 0 {
        pipeline
            .next(|_, reply| assert_eq!(reply.unwrap().len(), 2002))
            .unwrap();
    }
    drop(pipeline);
    client.call_bytes("echo", b"on").unwrap();
    eventually("it is not stuck any more", || {
        let snapshot = observer.snapshot();
        let connection = &snapshot.connections[0];
        connection.waiting == 0 && !connection.is_stuck(snapshot.uptime)
    });
}

fn a_worker_that_is_held_up_shows_while_it_is() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "1")]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let blocked = std::thread::spawn(move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        client.call::<u64, u64>("block_ms", &1500).unwrap();
    });
    let mut earlier = observer.snapshot();
    eventually("it is seen", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = observer.snapshot();
        let held_up = now.held_up_since(&earlier);
        earlier = now;
        held_up == [0]
    });
    blocked.join().unwrap();
    eventually("it is over", || {
        let earlier = observer.snapshot();
        std::thread::sleep(Duration::from_millis(50));
        let now = observer.snapshot();
        now.held_up_since(&earlier).is_empty() && now.total(Counter::Stalls) > 0
    });
}

#[test]
fn who_may_not_connect_may_not_look() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("refuse", "not on Mondays")]);
    let error = Observer::connect(&place.socket(NAME)).unwrap_err();
    let (code, text) = rejected(error);
    assert_eq!(code, RejectCode::Credentials);
    assert!(text.contains("not on Mondays"), "{text}");
    // Nor does an observer look at a server that it does not trust.
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let nobody = nearwire::PeerPolicy::custom(|_| Err("I trust nobody".into()));
    let error = Observer::connect_with(&place.socket(NAME), &nobody, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Credentials { .. }), "{error}");
}

#[test]
fn what_has_no_counters_says_so() {
    let place = Place::new();
    let _messages = Listener::bind(&place.socket("messages")).unwrap();
    let _bytes = ByteListener::bind(&place.socket("bytes")).unwrap();
    for name in ["messages", "bytes"] {
        let (code, text) = rejected(Observer::connect(&place.socket(name)).unwrap_err());
        assert_eq!(code, RejectCode::Mode);
        assert!(text.contains("only servers of calls"), "{text}");
    }
    let error = Observer::connect(&place.socket("nobody")).unwrap_err();
    assert!(matches!(error, Error::NoServer { .. }), "{error}");
}

fn a_full_server_can_be_looked_at() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_connections", "2")]);
    let name = place.socket(NAME);
    let _clients: Vec<_> = (0..2)
        .map(|_| BlockingClient::connect(&name).unwrap())
        .collect();
    let observer = Observer::connect(&name).unwrap();
    eventually("both are listed", || {
        observer.snapshot().connections.len() == 2
    });
    let (code, _) = rejected(BlockingClient::connect(&name).unwrap_err());
    assert_eq!(code, RejectCode::Limits);
}

fn observers_leave_nothing_at_the_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let _client = BlockingClient::connect(&name).unwrap();
    drop(Observer::connect(&name).unwrap());
    eventually("the client is in", || server.report()["connections"] == 1);
    let before = server.report()["descriptors"];
    let observers: Vec<_> = (0..70).map(|_| Observer::connect(&name).unwrap()).collect();
    // Those beyond the limit have the page, and a server that they must think is gone.
    eventually("six are let go", || {
        observers
            .iter()
            .filter(|observer| !observer.is_alive())
            .count()
            == 6
    });
    // A socket; on Windows a pipe, its two events, and the process at its other end, and some that the
    // system's thread pool has, for each 64 events that it waits for.
    let most = if cfg!(windows) { 64 * 4 + 16 } else { 64 };
    let more = server.report()["descriptors"].saturating_sub(before);
    assert!(more <= most, "{more} descriptors for 64 observers");
    assert_eq!(server.report()["connections"], 1);
    drop(observers);
    eventually("their sockets are closed", || {
        server.report()["descriptors"] <= before
    });
}

fn the_end_of_a_server_is_seen_and_its_last_words_stay() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let observer = Observer::connect(&name).unwrap();
    let mut client = BlockingClient::connect(&name).unwrap();
    for _ in 0..10 {
        client.call_bytes("echo", b"x").unwrap();
    }
    eventually("they are counted", || observer.snapshot().calls() == 10);
    assert!(observer.is_alive());
    server.kill();
    server.ended();
    eventually("it is seen", || !observer.is_alive());
    assert_eq!(observer.snapshot().calls(), 10);

    let server = place.start_ready("server", &[]);
    let observer = Observer::connect(&name).unwrap();
    assert!(!observer.snapshot().is_draining);
    assert_eq!(server.ask("shutdown 100"), "shut down");
    eventually("it is seen", || !observer.is_alive());
    assert!(observer.snapshot().is_draining);
}

crate::over_all_transports!(
    every_call_is_counted_once_by_how_it_ended,
    bytes_are_those_of_records_and_not_of_what_a_ring_leaves_out,
    with_one_in_one_every_call_is_in_the_histograms,
    without_sampling_there_are_counters_and_no_times,
    about_one_in_so_many_is_sampled,
    connections_are_listed_with_who_they_are_and_how,
    a_worker_that_is_held_up_shows_while_it_is,
    a_full_server_can_be_looked_at,
    observers_leave_nothing_at_the_server,
    the_end_of_a_server_is_seen_and_its_last_words_stay,
);

crate::over_both_transports_and!(across_threads:
    every_call_is_counted_once_by_how_it_ended,
    bytes_are_those_of_records_and_not_of_what_a_ring_leaves_out,
    with_one_in_one_every_call_is_in_the_histograms,
    without_sampling_there_are_counters_and_no_times,
    about_one_in_so_many_is_sampled,
);
