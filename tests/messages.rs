//! Connections of messages between two processes.

#![cfg(feature = "tokio")]

mod peer;
mod transports;

use nearwire::stream::{Receiver, Sender};
use nearwire::{
    AsyncConnection, ClientBuilder, CloseReason, Connection, Error, Limits, Received, Spin,
    Transport,
};
use peer::{OtherSide, PATIENCE, Peer, Place, eventually, kill_self, pattern, soon_after};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Sizes around what could matter with rings of 64 KiB: words, records, half the ring, the ring.
const SIZES: [usize; 25] = [
    0,
    1,
    7,
    8,
    9,
    15,
    16,
    17,
    63,
    64,
    65,
    255,
    256,
    257,
    1000,
    4096,
    16_319,
    16_320,
    32_703,
    32_704,
    32_705,
    65_535,
    65_536,
    300_000,
    1 << 20,
];

/// Spins for as long as any test takes, so that nobody ever sleeps.
const ALWAYS: Spin = Spin {
    budget: Duration::from_secs(60),
    adaptive: false,
};

/// Plays the other process.
#[test]
fn peer_process() {
    if let Some((role, name)) = peer::role() {
        play(&role, &name);
    }
}

/// As long as it is held, the other side of this thread's test is a thread.
fn across_threads() -> impl Drop {
    peer::put(OtherSide::OnThread(play))
}

/// As long as it is held, the other side of this thread's test is a task on this thread.
fn on_one_thread() -> impl Drop {
    peer::put(OtherSide::OnThisThread(|role, name| {
        Box::pin(play_in_tokio(role, name))
    }))
}

/// The other side.
fn play(role: &str, name: &str) {
    let connect = || Connection::connect(name).unwrap();
    let with = |spin| {
        ClientBuilder::new()
            .spin(spin)
            .connect_messages_blocking(name)
            .unwrap()
    };
    match role {
        "echo" => echo(connect()),
        "echo, spinning" => echo(with(ALWAYS)),
        "echo, sleeping" => echo(with(Spin::NEVER)),
        "echo over the smallest rings" => {
            echo(
                ClientBuilder::new()
                    .ring(4096)
                    .connect_messages_blocking(name)
                    .unwrap(),
            );
        }
        "batches" => {
            let mut connection = connect();
            let numbered = (0..BATCHED).map(|n| pattern(n, batched_len(n)));
            assert_eq!(connection.send_batch(numbered).unwrap(), BATCHED as usize);
            connection.finish();
        }
        "send ten and die" => {
            let mut connection = connect();
            for n in 0..10 {
                connection.send(&pattern(n, 2000)).unwrap();
            }
            kill_self();
        }
        "do nothing" => {
            let _connection = connect();
            std::thread::sleep(PATIENCE);
        }
        "receive for ever" => {
            let mut connection = connect();
            let _ = connection.recv(&mut Vec::new());
        }
        "listen and do nothing" => {
            let listener = peer::listener().bind(name).unwrap();
            let _connection = listener.accept().unwrap();
            std::thread::sleep(PATIENCE);
        }
        "finish, then count" => {
            let mut connection = connect();
            for n in 0..3 {
                connection.send(&pattern(n, 100)).unwrap();
            }
            connection.finish();
            let error = connection.send(b"more").unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Closed {
                        reason: CloseReason::Local,
                        ..
                    }
                ),
                "{error}"
            );
            let mut message = Vec::new();
            for n in 0..5 {
                assert!(connection.recv(&mut message).unwrap());
                assert_eq!(message, pattern(n, 1000));
            }
            assert!(!connection.recv(&mut message).unwrap());
            assert!(!connection.recv(&mut message).unwrap());
        }
        _ => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(play_in_tokio(role.to_owned(), name.to_owned()));
        }
    }
}

/// The other side, as a task.
async fn play_in_tokio(role: String, name: String) {
    let settings = match role.as_str() {
        "echo in Tokio, sleeping, over the smallest rings" => {
            ClientBuilder::new().spin(Spin::NEVER).ring(4096)
        }
        "fill, finish and exit" => ClientBuilder::new().ring(4096),
        _ => ClientBuilder::new(),
    };
    let mut connection = settings.connect_messages(&name).await.unwrap();
    let mut message = Vec::new();
    match role.as_str() {
        "echo in Tokio" | "echo in Tokio, sleeping, over the smallest rings" => {
            while connection.recv(&mut message).await.unwrap() {
                connection.send(&message).await.unwrap();
            }
            // This process exits at once.
            connection.finish().await.unwrap();
        }
        "fill, finish and exit" => {
            let mut sent = 0;
            while connection.try_send(&pattern(sent, 1000)).unwrap() {
                sent += 1;
            }
            connection.finish().await.unwrap();
        }
        "receive for ever in Tokio" => drop(connection.recv(&mut message).await),
        other => panic!("no role {other:?}"),
    }
}

fn echo(mut connection: Connection) {
    let mut message = Vec::new();
    while connection.recv(&mut message).unwrap() {
        connection.send(&message).unwrap();
    }
    // This process exits at once.
    connection.finish();
}

/// A listener's end of a connection to the other process.
fn accepted(place: &Place, role: &str, spin: Spin) -> (Peer, Connection) {
    let listener = place.listener().spin(spin).bind(&place.name()).unwrap();
    let peer = place.start(role);
    let connection = listener
        .accept_timeout(PATIENCE)
        .unwrap()
        .expect("a connection");
    assert_eq!(connection.peer().pid, peer.id());
    (peer, connection)
}

fn peer_gone<T: std::fmt::Debug>(result: nearwire::Result<T>) {
    let error = result.unwrap_err();
    let gone = matches!(
        error,
        Error::Closed {
            reason: CloseReason::PeerGone,
            ..
        }
    );
    assert!(gone, "{error}");
}

fn messages_of_all_sizes_come_back_as_they_were() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "echo", Spin::default());
    let mut answer = Vec::new();
    for (seed, len) in SIZES.into_iter().chain(SIZES.into_iter().rev()).enumerate() {
        let message = pattern(seed as u64, len);
        connection.send(&message).unwrap();
        assert!(connection.recv(&mut answer).unwrap());
        assert!(
            answer == message,
            "{len} bytes came back as {} others",
            answer.len()
        );
    }
    connection.finish();
    assert!(!connection.recv(&mut answer).unwrap());
    peer.join();
}

fn messages_far_larger_than_the_ring_come_back_as_they_were() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "echo over the smallest rings", Spin::default());
    let mut answer = Vec::new();
    for len in [2_000, 5_000, 1 << 20, 3, 700_001] {
        let message = pattern(7, len);
        connection.send(&message).unwrap();
        assert!(connection.recv(&mut answer).unwrap());
        assert!(
            answer == message,
            "{len} bytes came back as {} others",
            answer.len()
        );
    }
    drop(connection);
    peer.join();
}

const BATCHED: u64 = 20_000;

/// Mostly small, now and then larger than a record.
fn batched_len(n: u64) -> usize {
    if n % 1000 == 999 {
        50_000
    } else {
        (n * 37 % 300) as usize
    }
}

fn batches_keep_the_order() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "batches", Spin::default());
    let mut next = 0;
    let mut largest = 0;
    loop {
        let taken = connection.recv_batch(100, |message| {
            assert!(
                message == pattern(next, batched_len(next)),
                "message {next}"
            );
            next += 1;
        });
        let taken = taken.unwrap();
        assert!(taken <= 100);
        largest = largest.max(taken);
        if taken == 0 {
            break;
        }
    }
    assert_eq!(next, BATCHED);
    assert!(largest > 1, "no batch held more than one message");
    peer.join();
}

fn a_message_above_the_limit_is_refused_before_anything_is_sent() {
    let place = Place::new();
    let listener = place
        .listener()
        .limits(Limits {
            max_message: 100_000,
            ..Limits::default()
        })
        .bind(&place.name())
        .unwrap();
    let mut client = Connection::connect(&place.name()).unwrap();
    let mut server = listener.accept().unwrap();
    assert_eq!(client.max_message(), 100_000);
    let error = client.send(&pattern(1, 100_001)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                len: 100_001,
                limit: 100_000
            }
        ),
        "{error}"
    );
    let mut message = Vec::new();
    assert_eq!(server.try_recv(&mut message).unwrap(), Received::Nothing);
    // The limit itself is fine, and try_send has its own.
    let sending = std::thread::spawn(move || {
        client.send(&pattern(2, 100_000)).unwrap();
        let (mut sender, _receiver) = client.split();
        let limit = sender.max_try_send();
        let error = sender.try_send(&vec![0; limit + 1]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    });
    assert!(server.recv(&mut message).unwrap());
    assert!(message == pattern(2, 100_000));
    assert!(!server.recv(&mut message).unwrap());
    sending.join().unwrap();
}

#[cfg(feature = "spsc_transport")]
#[test]
fn try_send_says_when_the_shared_ring_is_full_and_try_recv_when_it_is_empty() {
    transports::run(nearwire::TransportPolicy::SharedMemoryOnly, || {
        try_until_full_and_empty(125..131);
    });
}

/// Both sides' rings, what each pump has at hand, and the kernel's buffer.
#[test]
fn try_send_says_when_the_socket_is_full_and_try_recv_when_it_is_empty() {
    transports::run(nearwire::TransportPolicy::SocketOnly, || {
        try_until_full_and_empty(60..600);
    });
}

fn try_until_full_and_empty(fits: std::ops::Range<u32>) {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let mut client = Connection::connect(&place.name()).unwrap();
    let mut server = listener.accept().unwrap();
    let message = pattern(3, 1000);
    let mut sent = 0;
    while client.try_send(&message).unwrap() {
        sent += 1;
    }
    assert!(fits.contains(&sent), "{sent} messages fit");
    let mut received = Vec::new();
    for _ in 0..sent {
        // Over the socket the last ones are on their way when there is room for them.
        let next = match client.transport() {
            Transport::Socket => server.recv_timeout(&mut received, PATIENCE),
            _ => server.try_recv(&mut received),
        };
        assert_eq!(next.unwrap(), Received::Message);
        assert_eq!(received, message);
    }
    let waited = server.recv_timeout(&mut received, Duration::from_millis(1));
    assert_eq!(waited.unwrap(), Received::Nothing);
    assert!(client.try_send(&message).unwrap());
    drop(client);
    assert_eq!(server.try_recv(&mut received).unwrap(), Received::Message);
    assert_eq!(server.try_recv(&mut received).unwrap(), Received::Finished);
}

fn what_a_thread_sent_that_has_ended_arrives() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let name = place.name();
    let sending = std::thread::spawn(move || {
        let mut client = Connection::connect(&name).unwrap();
        let message = pattern(4, 1000);
        let mut sent = 0;
        while client.try_send(&message).unwrap() {
            sent += 1;
        }
        (client, sent)
    });
    let mut server = listener.accept().unwrap();
    // Joined: it has ended for the system too. Nothing was received so far.
    let (mut client, sent) = sending.join().unwrap();
    let mut message = Vec::new();
    for _ in 0..sent {
        let next = server.recv_timeout(&mut message, PATIENCE);
        assert_eq!(next.unwrap(), Received::Message);
        assert_eq!(message, pattern(4, 1000));
    }
    server.send(b"answer").unwrap();
    assert!(client.recv(&mut message).unwrap());
    assert_eq!(message, b"answer");
}

fn what_was_sent_before_a_kill_arrives_and_then_the_error() {
    for spin in [Spin::default(), Spin::NEVER] {
        let place = Place::new();
        let (mut peer, mut connection) = accepted(&place, "send ten and die", spin);
        let mut message = Vec::new();
        for n in 0..10 {
            assert!(connection.recv(&mut message).unwrap());
            assert_eq!(message, pattern(n, 2000));
        }
        peer_gone(connection.recv(&mut message));
        peer_gone(connection.recv(&mut message));
        peer_gone(connection.send(b"too late"));
        peer.wait();
    }
}

fn a_kill_is_noticed_by_a_poller() {
    let place = Place::new();
    let (mut peer, mut connection) = accepted(&place, "do nothing", Spin::default());
    let mut message = Vec::new();
    assert_eq!(
        connection.try_recv(&mut message).unwrap(),
        Received::Nothing
    );
    peer.kill();
    peer.wait();
    let noticed = (0..1000).find_map(|_| connection.try_recv(&mut message).err());
    peer_gone::<()>(Err(noticed.expect("an error within 1000 calls")));
}

/// Kills the other process when this one has been blocked for a while.
fn kill_soon(mut peer: Peer) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        let killed = peer.kill();
        peer.wait();
        killed
    })
}

fn a_kill_ends_a_blocked_recv() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "do nothing", Spin::default());
    let killer = kill_soon(peer);
    let received = connection.recv(&mut Vec::new());
    let killed = killer.join().unwrap();
    soon_after(killed, "a blocked recv");
    peer_gone(received);
    assert!(connection.wait_stats().sleeps > 0);
}

fn a_kill_ends_a_blocked_send() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "do nothing", Spin::default());
    let killer = kill_soon(peer);
    let message = pattern(1, 1000);
    let sent = loop {
        if let Err(error) = connection.send(&message) {
            break Err::<(), _>(error);
        }
    };
    soon_after(killer.join().unwrap(), "a blocked send");
    peer_gone(sent);
}

fn a_kill_ends_a_send_of_a_message_larger_than_the_ring() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "do nothing", Spin::default());
    let killer = kill_soon(peer);
    let sent = connection.send(&pattern(1, 1 << 20));
    soon_after(killer.join().unwrap(), "a blocked send in pieces");
    peer_gone(sent);
}

fn a_kill_of_the_listening_process_is_noticed_too() {
    let place = Place::new();
    let peer = place.start("listen and do nothing");
    let mut connection = eventually(|| Connection::connect(&place.name()));
    let killer = kill_soon(peer);
    let received = connection.recv(&mut Vec::new());
    soon_after(killer.join().unwrap(), "a client's recv");
    peer_gone(received);
}

fn a_kill_wakes_both_halves() {
    let place = Place::new();
    let (peer, connection) = accepted(&place, "do nothing", Spin::default());
    let (mut sender, mut receiver): (Sender, Receiver) = connection.split();
    let sending = std::thread::spawn(move || -> nearwire::Result<()> {
        let message = pattern(1, 1000);
        loop {
            sender.send(&message)?;
        }
    });
    let killer = kill_soon(peer);
    peer_gone(receiver.recv(&mut Vec::new()));
    peer_gone(sending.join().unwrap());
    soon_after(killer.join().unwrap(), "both halves");
}

async fn a_kill_ends_waits_in_tokio() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let peer = place.start("do nothing");
    let (mut sender, mut receiver) = listener.accept_async().await.unwrap().split();
    let killer = kill_soon(peer);
    let receiving = tokio::spawn(async move { receiver.recv(&mut Vec::new()).await });
    let sending = tokio::spawn(async move {
        let message = pattern(1, 1000);
        let error = loop {
            if let Err(error) = sender.send(&message).await {
                break error;
            }
        };
        Err::<(), _>(error)
    });
    let (received, sent) = (receiving.await.unwrap(), sending.await.unwrap());
    soon_after(killer.join().unwrap(), "a task's recv and another's send");
    peer_gone(received);
    peer_gone(sent);
}

fn each_direction_ends_by_itself() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "finish, then count", Spin::default());
    let mut message = Vec::new();
    for n in 0..3 {
        assert!(connection.recv(&mut message).unwrap());
        assert_eq!(message, pattern(n, 100));
    }
    message.push(1);
    assert!(!connection.recv(&mut message).unwrap());
    assert_eq!(message.len(), 101, "the end leaves the buffer alone");
    for n in 0..5 {
        connection.send(&pattern(n, 1000)).unwrap();
    }
    connection.finish();
    peer.join();
    // The peer has dropped its end by now.
    let error = connection.send(b"more").unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

fn sending_to_a_peer_that_dropped_the_connection_fails_in_the_end() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let mut client = Connection::connect(&place.name()).unwrap();
    drop(listener.accept().unwrap());
    let message = pattern(1, 1000);
    let error = (0..200)
        .find_map(|_| client.send(&message).err())
        .expect("a full ring ends it");
    assert!(
        matches!(
            error,
            Error::Closed {
                reason: CloseReason::Finished,
                ..
            }
        ),
        "{error}"
    );
    assert!(!client.recv(&mut Vec::new()).unwrap());
}

/// Over the socket each message is a system call.
#[cfg(feature = "spsc_transport")]
#[test]
fn nobody_is_woken_who_is_awake() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "echo, spinning", ALWAYS);
    let mut answer = Vec::new();
    for n in 0..500 {
        let message = pattern(n, 64);
        connection.send(&message).unwrap();
        assert!(connection.recv(&mut answer).unwrap());
        assert_eq!(answer, message);
    }
    let stats = connection.wait_stats();
    assert_eq!((stats.wakeups, stats.sleeps, stats.spins_wasted), (0, 0, 0));
    connection.finish();
    peer.join();
}

fn a_sleeper_is_woken_once_for_each_sleep() {
    let place = Place::new();
    let (peer, mut connection) = accepted(&place, "echo, sleeping", Spin::NEVER);
    let mut answer = Vec::new();
    for n in 0..500 {
        let message = pattern(n, 64);
        connection.send(&message).unwrap();
        assert!(connection.recv(&mut answer).unwrap());
        assert_eq!(answer, message);
    }
    let stats = connection.wait_stats();
    assert!(stats.wakeups <= 500, "{stats:?}");
    assert!(stats.sleeps > 0, "{stats:?}");
    assert_eq!((stats.spins_paid, stats.spins_wasted), (0, 0));
    connection.finish();
    peer.join();
}

fn an_idle_connection_costs_nothing() {
    for role in ["receive for ever", "receive for ever in Tokio"] {
        let place = Place::new();
        let listener = place.listener().bind(&place.name()).unwrap();
        let peer = place.start(role);
        let _connection = listener
            .accept_timeout(PATIENCE)
            .unwrap()
            .expect("a connection");
        // Until it is asleep: not just kept from a processor, or between two steps of the system's count.
        let deadline = Instant::now() + PATIENCE;
        let mut before = peer.cpu_time();
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = peer.cpu_time();
            if now == before {
                break;
            }
            before = now;
            assert!(Instant::now() < deadline, "{role}: never asleep");
        }
        assert!(before > Duration::ZERO, "{role}: the system counts no time");
        std::thread::sleep(Duration::from_millis(700));
        let used = peer.cpu_time() - before;
        // Windows counts in steps (wine of 10 ms), and a thread of the system's own, of which there are some in every
        // process, may take what is left to the next one.
        let step = Duration::from_millis(if cfg!(windows) { 16 } else { 0 });
        assert!(
            used <= step,
            "{role}: not a nanosecond while idle, but {used:?}"
        );
    }
}

/// Both halves asleep much of the time, on one doorbell.
fn two_threads_share_a_connection() {
    const COUNT: u64 = 10_000;
    for (role, spin) in [
        ("echo", Spin::default()),
        ("echo over the smallest rings", Spin::NEVER),
    ] {
        let place = Place::new();
        let (peer, connection) = accepted(&place, role, spin);
        let (mut sender, mut receiver) = connection.split();
        let sending = std::thread::spawn(move || {
            for n in 0..COUNT {
                sender.send(&pattern(n, (n % 500) as usize)).unwrap();
            }
        });
        let mut message = Vec::new();
        for n in 0..COUNT {
            assert!(receiver.recv(&mut message).unwrap());
            assert!(message == pattern(n, (n % 500) as usize), "message {n}");
        }
        // The sender is dropped: this direction is finished and the other process ends its own.
        sending.join().unwrap();
        assert!(!receiver.recv(&mut message).unwrap());
        peer.join();
    }
}

async fn tasks_that_always_sleep_miss_no_wakeup() {
    const COUNT: u64 = 5_000;
    let place = Place::new();
    let listener = place
        .listener()
        .spin(Spin::NEVER)
        .bind(&place.name())
        .unwrap();
    let peer = place.start("echo in Tokio, sleeping, over the smallest rings");
    let connection = listener.accept_async().await.unwrap();
    let (mut sender, mut receiver) = connection.split();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let (start, started) = tokio::sync::oneshot::channel();
    let sending = tokio::spawn(async move {
        started.await.unwrap();
        for n in 0..COUNT {
            sender.send(&pattern(n, (n % 700) as usize)).await.unwrap();
            counted.store(n + 1, Relaxed);
        }
        sender
    });
    // Both are made to sleep: beside a fast peer the one, behind a slow one the other may never have to.
    let mut message = Vec::new();
    tokio::select! {
        biased;
        _ = receiver.recv(&mut message) => panic!("nothing was sent"),
        () = std::future::ready(()) => start.send(()).unwrap(),
    }
    let (mut seen, mut still) = (0, 0);
    while still < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = sent.load(Relaxed);
        still = if now == seen && now > 0 { still + 1 } else { 0 };
        seen = now;
    }
    assert!(seen < COUNT, "there was room for everything");
    for n in 0..COUNT {
        assert!(receiver.recv(&mut message).await.unwrap());
        assert!(message == pattern(n, (n % 700) as usize), "message {n}");
    }
    // Finished only now: the other process ends then, and what sockets have no room for with it.
    let sender = sending.await.unwrap();
    let stats = sender.wait_stats();
    drop(sender);
    let received = receiver.wait_stats();
    assert!(
        stats.sleeps > 0 && received.sleeps > 0,
        "{stats:?}, {received:?}"
    );
    assert!(!receiver.recv(&mut message).await.unwrap());
    peer.join_async().await;
}

async fn what_was_finished_arrives_although_its_process_exits() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let peer = place.start("fill, finish and exit");
    let mut connection = listener.accept_async().await.unwrap();
    // Long enough for it to fill whatever lies between, and to exit if it does not wait.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut message, mut count) = (Vec::new(), 0);
    while connection.recv(&mut message).await.unwrap() {
        assert!(message == pattern(count, 1000), "message {count}");
        count += 1;
    }
    assert!(count > 0);
    peer.join_async().await;
}

async fn tasks_echo_messages_of_all_sizes() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let peer = place.start("echo in Tokio");
    let mut connection = listener.accept_async().await.unwrap();
    let mut answer = Vec::new();
    for (seed, len) in SIZES.into_iter().enumerate() {
        let message = pattern(seed as u64, len);
        connection.send(&message).await.unwrap();
        assert!(connection.recv(&mut answer).await.unwrap());
        assert!(
            answer == message,
            "{len} bytes came back as {} others",
            answer.len()
        );
    }
    // Batches, with what comes back received in another task.
    let (mut sender, mut receiver) = connection.split();
    let receiving = tokio::spawn(async move {
        let mut next = 0;
        loop {
            let taken = receiver.recv_batch(64, |message| {
                assert!(
                    message == pattern(next, batched_len(next)),
                    "message {next}"
                );
                next += 1;
            });
            if taken.await.unwrap() == 0 {
                return next;
            }
        }
    });
    let numbered = (0..5000).map(|n| pattern(n, batched_len(n)));
    assert_eq!(sender.send_batch(numbered).await.unwrap(), 5000);
    sender.finish().await.unwrap();
    assert_eq!(receiving.await.unwrap(), 5000);
    peer.join_async().await;
}

/// On one thread: waiting must let the timers, and the other end, run.
async fn dropped_futures_lose_and_tear_nothing() {
    let place = Place::new();
    let listener = place.listener().bind(&place.name()).unwrap();
    let client = AsyncConnection::connect(&place.name()).await.unwrap();
    let server = listener.accept_async().await.unwrap();
    let over_a_pipe = cfg!(windows) && client.transport() == Transport::Socket;
    let (mut sender, _client_receiver) = client.split();
    let (_server_sender, mut receiver) = server.split();
    let mut message = Vec::new();
    let short = Duration::from_millis(1);

    // Receives that end early, spinning or asleep.
    for n in 0..20 {
        let received = tokio::time::timeout(short, receiver.recv(&mut message)).await;
        assert!(received.is_err(), "nothing was sent");
        sender.send(&pattern(n, 100)).await.unwrap();
        if n % 2 == 0 {
            let mut tried = receiver.try_recv(&mut message).unwrap();
            // What went into a pipe is on its way for a moment; it is there at once otherwise.
            let sent = Instant::now();
            while over_a_pipe && tried == Received::Nothing && sent.elapsed() < PATIENCE {
                tokio::task::yield_now().await;
                tried = receiver.try_recv(&mut message).unwrap();
            }
            assert_eq!(tried, Received::Message);
        } else {
            assert!(receiver.recv(&mut message).await.unwrap());
        }
        assert_eq!(message, pattern(n, 100));
    }

    // A message in pieces whose future is dropped half way is sent whole, before the next one.
    for n in 0..3 {
        let large = pattern(n, 1 << 20);
        let sent = tokio::time::timeout(short, sender.send(&large)).await;
        assert!(sent.is_err(), "nobody receives");
        drop(large);
        assert!(
            !sender.try_send(b"ahead").unwrap(),
            "nothing overtakes the rest"
        );
        let next = async {
            sender.send(b"next").await.unwrap();
            sender.flush().await.unwrap();
        };
        let both = async {
            assert!(receiver.recv(&mut message).await.unwrap());
            assert!(message == pattern(n, 1 << 20), "the rest of message {n}");
            assert!(receiver.recv(&mut message).await.unwrap());
            assert_eq!(message, b"next");
        };
        tokio::join!(next, both);
    }

    // A message that never gets out whole is not an orderly end.
    let large = pattern(9, 1 << 20);
    assert!(
        tokio::time::timeout(short, sender.send(&large))
            .await
            .is_err()
    );
    drop(sender);
    let error = receiver.recv(&mut message).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

/// Over the socket nobody spins.
#[cfg(feature = "spsc_transport")]
#[tokio::test]
async fn a_waiting_task_lets_others_run() {
    let place = Place::new();
    let listener = place.listener().spin(ALWAYS).bind(&place.name()).unwrap();
    let mut client = ClientBuilder::new()
        .spin(ALWAYS)
        .connect_messages(&place.name())
        .await
        .unwrap();
    let mut server = listener.accept_async().await.unwrap();
    // Both ends, and a timer, on one thread, and nobody ever sleeps.
    let serving = tokio::spawn(async move {
        let mut message = Vec::new();
        while server.recv(&mut message).await.unwrap() {
            server.send(&message).await.unwrap();
        }
        server.wait_stats()
    });
    let ticking = tokio::spawn(async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut answer = Vec::new();
    for n in 0..200 {
        client.send(&pattern(n, 64)).await.unwrap();
        assert!(client.recv(&mut answer).await.unwrap());
        assert_eq!(answer, pattern(n, 64));
    }
    ticking.await.unwrap();
    client.finish().await.unwrap();
    let stats = serving.await.unwrap().sleeps + client.wait_stats().sleeps;
    assert_eq!(stats, 0);
}

fn a_listener_has_limits_and_says_so() {
    let place = Place::new();
    let listener = place
        .listener()
        .limits(Limits {
            max_connections: 3,
            ..Limits::default()
        })
        .max_pending(2)
        .bind(&place.name())
        .unwrap();
    assert!(
        listener
            .accept_timeout(Duration::from_millis(1))
            .unwrap()
            .is_none()
    );
    let connect = || Connection::connect(&place.name());
    let refused = |what: &str| {
        let error = connect().unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    let _one = connect().unwrap();
    let _two = connect().unwrap();
    refused("2 connections wait");
    let accepted = [listener.accept().unwrap(), listener.accept().unwrap()];
    let _three = connect().unwrap();
    let _accepted = listener.accept().unwrap();
    assert_eq!(listener.connections(), 3);
    refused("3 connections");
    // A place becomes free when a connection's last half is dropped.
    let [first, second] = accepted;
    let (sender, receiver) = first.split();
    drop(sender);
    assert_eq!(listener.connections(), 3);
    drop(receiver);
    assert_eq!(listener.connections(), 2);
    let mut four = connect().unwrap();
    drop(second);
    // Whoever waits is turned away when the listener goes.
    drop(listener);
    assert!(four.recv(&mut Vec::new()).is_err());
    assert!(matches!(connect(), Err(Error::NoServer { .. })));
}

fn a_listener_refuses_other_modes() {
    let place = Place::new();
    let _listener = place.listener().bind(&place.name()).unwrap();
    let error = nearwire::ByteStream::connect(&place.name()).unwrap_err();
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    let error = nearwire::BlockingClient::connect(&place.name()).unwrap_err();
    assert!(matches!(error, Error::Handshake(_)), "{error}");
}

crate::over_both_transports!(
    messages_of_all_sizes_come_back_as_they_were,
    messages_far_larger_than_the_ring_come_back_as_they_were,
    batches_keep_the_order,
    a_message_above_the_limit_is_refused_before_anything_is_sent,
    what_a_thread_sent_that_has_ended_arrives,
    what_was_sent_before_a_kill_arrives_and_then_the_error,
    a_kill_is_noticed_by_a_poller,
    a_kill_ends_a_blocked_recv,
    a_kill_ends_a_blocked_send,
    a_kill_ends_a_send_of_a_message_larger_than_the_ring,
    a_kill_of_the_listening_process_is_noticed_too,
    a_kill_wakes_both_halves,
    each_direction_ends_by_itself,
    sending_to_a_peer_that_dropped_the_connection_fails_in_the_end,
    a_sleeper_is_woken_once_for_each_sleep,
    an_idle_connection_costs_nothing,
    two_threads_share_a_connection,
    a_listener_has_limits_and_says_so,
    a_listener_refuses_other_modes;
    on_one_thread:
    a_kill_ends_waits_in_tokio,
    tasks_that_always_sleep_miss_no_wakeup,
    what_was_finished_arrives_although_its_process_exits,
    dropped_futures_lose_and_tear_nothing;
    on_threads:
    tasks_echo_messages_of_all_sizes,
);

crate::over_both_transports_and!(across_threads:
    messages_of_all_sizes_come_back_as_they_were,
    messages_far_larger_than_the_ring_come_back_as_they_were,
    batches_keep_the_order,
    each_direction_ends_by_itself,
    a_sleeper_is_woken_once_for_each_sleep,
    two_threads_share_a_connection;
    on_one_thread:
    tasks_that_always_sleep_miss_no_wakeup;
    on_threads:
    tasks_echo_messages_of_all_sizes,
);

crate::over_both_transports_and!(on_one_thread:;
    on_one_thread:
    tasks_that_always_sleep_miss_no_wakeup,
    tasks_echo_messages_of_all_sizes,
);
