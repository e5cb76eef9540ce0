//! What becomes of a client that sends what was not agreed on.

use crate::client::BlockingClient;
use crate::error::CloseReason;
use crate::link::{Wishes, connect, stage_frame};
use crate::metrics::Counter;
use crate::name::Place;
use crate::proto::frame::{Header, TraceContext};
use crate::proto::handshake::FEATURE_TRACE_CONTEXT;
use crate::proto::mode::Mode;
use crate::server::Server;
use crate::settings::{Memory, PeerPolicy, TransportPolicy};
use std::time::{Duration, Instant};

#[test]
fn a_trace_context_that_was_not_agreed_on_ends_its_connection_alone() {
    let directory = std::env::temp_dir().join(format!("nearwire-worker-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("server.sock");
    let path = path.to_str().unwrap();
    let server = Server::builder()
        .method_into("trace", |context, _, reply| {
            reply.extend(
                context
                    .trace
                    .map_or("none".into(), |t| t.to_string())
                    .bytes(),
            );
            Ok(())
        })
        .bind(path)
        .unwrap();
    let mut other = BlockingClient::connect(path).unwrap();
    let wishes = Wishes {
        mode: Mode::Calls,
        withheld: FEATURE_TRACE_CONTEXT,
        ring_to_server: 65536,
        ring_to_client: 65536,
        max_message: 1 << 20,
        stream_credits: 1,
        memory: Memory::default(),
        transports: TransportPolicy::default(),
        label: "hostile".into(),
        timeout: Duration::from_secs(30),
        policy: PeerPolicy::same_user(),
    };
    let mut link = connect(&Place::of(path).unwrap(), &wishes).unwrap();
    assert!(!link.shared.terms.carry_traces());
    let context = TraceContext::new([1; 16], [2; 8], true);
    let mut header = Header::request(0, 1);
    header.trace = Some(context);
    assert!(stage_frame(&mut link.tx, &header, b"x").unwrap());
    link.tx.publish();
    let deadline = Instant::now() + Duration::from_secs(30);
    let reason = loop {
        link.shared.read_control();
        if let Some(reason) = link.shared.closed() {
            break reason.clone();
        }
        assert!(Instant::now() < deadline, "the server says nothing");
        std::thread::sleep(Duration::from_millis(5));
    };
    let says = matches!(&reason, CloseReason::PeerSays(text) if text.contains("trace context"));
    assert!(says, "{reason}");
    while server.metrics().total(Counter::ClosedViolation) == 0 {
        assert!(Instant::now() < deadline, "the violation is not counted");
        std::thread::sleep(Duration::from_millis(5));
    }
    other.set_trace(Some(context));
    let said = other.call_bytes("trace", b"").unwrap();
    assert_eq!(said, context.to_string().as_bytes());
    drop((other, server));
    let _ = std::fs::remove_dir_all(directory);
}

// On Windows a sleep of 200 µs takes a step of the clock, far longer than a connection may be quiet.
#[cfg(not(windows))]
#[test]
fn after_a_short_sleep_one_ring_is_enough_for_all_that_were_active() {
    /// Clients that call one after the other.
    const CLIENTS: usize = 64;
    /// More than come about by accident.
    const GOOD_ROUNDS: u64 = 100;

    let directory = std::env::temp_dir().join(format!("nearwire-rest-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("server.sock");
    let path = path.to_str().unwrap();
    let server = Server::builder()
        .workers(1)
        .method("echo", |request| Ok(request.to_vec()))
        .bind(path)
        .unwrap();
    let connect = || BlockingClient::connect(path).unwrap();
    let mut clients: Vec<_> = std::iter::repeat_with(connect).take(CLIENTS).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    // On a machine that is busy otherwise many a round takes longer than a connection may be quiet.
    let (mut good, mut slept) = (0, 0);
    while good < GOOD_ROUNDS {
        assert!(Instant::now() < deadline, "{good} of {slept} rounds");
        // The worker falls asleep.
        std::thread::sleep(Duration::from_micros(200));
        let mut rings = clients.iter_mut().map(|client| {
            let before = client.metrics().wakeups_sent;
            assert_eq!(client.call_bytes("echo", b"x").unwrap(), b"x");
            client.metrics().wakeups_sent - before
        });
        let first = rings.next().unwrap();
        let all = first + rings.sum::<u64>();
        slept += first;
        good += u64::from(first > 0 && all <= CLIENTS as u64 / 8);
    }
    drop((clients, server));
    let _ = std::fs::remove_dir_all(directory);
}
