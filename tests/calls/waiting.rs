//! Spinning, sleeping, and being woken.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, current_thread, pattern, within};
use nearwire::{BlockingClient, ClientBuilder, Spin};
use std::time::{Duration, Instant};

/// Spins for as long as any test takes, so that nobody ever sleeps.
#[cfg(feature = "spsc_transport")]
const ALWAYS: Spin = Spin {
    budget: Duration::from_secs(60),
    adaptive: false,
};

fn idle_connections_cost_no_processor_time() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let blocking = place.start_ready("hold", &[("count", "70")]);
    let tasks = place.start_ready("many", &[("count", "30")]);
    tasks.tell("go");
    tasks.expect("done");
    assert_eq!(server.report()["connections"], 100);
    // Until all have stopped to spin.
    std::thread::sleep(Duration::from_millis(500));
    let processes = [("server", &server), ("async clients", &tasks)];
    let before = processes.map(|(_, process)| process.cpu_times());
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    let passed = begun.elapsed();
    for ((what, process), before) in processes.into_iter().zip(before) {
        let used = process.cpu_time_since(&before);
        let share = used.as_secs_f64() / passed.as_secs_f64();
        eprintln!(
            "{what}: {used:?} of processor time in {passed:?}, {:.4} %",
            share * 100.0
        );
        assert!(share < 0.001, "{what} used {used:?}");
    }
    // They were not just dead.
    blocking.tell("call");
    blocking.expect("done");
}

/// Over the socket each batch is a system call.
#[cfg(feature = "spsc_transport")]
#[test]
fn nobody_is_woken_who_is_awake() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("spin", "always"), ("workers", "1")]);
    let name = place.socket(NAME);
    within(PATIENCE, "both sides spin", move || {
        let builder = ClientBuilder::new().spin(ALWAYS);
        let mut client = builder.connect_blocking(&name).unwrap();
        let echo = client.method("echo_into").unwrap();
        let mut reply = Vec::new();
        let mut call = |n: u64| {
            let request = n.to_le_bytes();
            client.call_into(echo, &request, &mut reply).unwrap();
            assert_eq!(reply, request);
        };
        call(0);
        // Few: on a machine with other work, two sides that never sleep take turns.
        (0..200).for_each(&mut call);
        let stats = client.wait_stats();
        // That the server rings no awake client is seen at a doorbell: tests/hostile/doorbells.rs.
        assert_eq!(stats.wakeups, 0, "the client rang an awake server");
        assert_eq!(stats.sleeps, 0);
        assert!(stats.spins_paid > 0, "it never waited: {stats:?}");
    });
}

fn a_sleeper_is_woken_once_per_sleep() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("spin", "never"), ("workers", "1")]);
    let name = place.socket(NAME);
    within(PATIENCE, "both sides sleep", move || {
        let builder = ClientBuilder::new().spin(Spin::NEVER);
        let mut client = builder.connect_blocking(&name).unwrap();
        let echo = client.method("echo_into").unwrap();
        // Once, so that the worker has the connection; to be sent it is a wake-up as well.
        client.call_bytes("echo", b"").unwrap();
        for n in 0..2000u64 {
            let request = pattern(n, 64);
            let mut reply = Vec::new();
            client.call_into(echo, &request, &mut reply).unwrap();
            assert_eq!(reply, request);
        }
        let stats = client.wait_stats();
        eprintln!("2000 calls between sleepers: {stats:?}");
        assert!(
            stats.wakeups <= 2001 && stats.sleeps <= 2 * 2001,
            "{stats:?}"
        );
        assert!(stats.sleeps > 0 && stats.wakeups > 0, "{stats:?}");
        assert_eq!((stats.spins_paid, stats.spins_wasted), (0, 0));
        // How often the server rings for one sleep: tests/hostile/doorbells.rs.
    });
}

/// Clients of several kinds hammer a server; a lost wake-up would hang one of them.
fn hammer(server_spin: &str, client_spin: &str, calls: &str, workers: &str) {
    let place = Place::new();
    let server = [("spin", server_spin), ("workers", workers)];
    let server = place.start_ready("server", &server);
    let begun = Instant::now();
    let clients = ["blocking", "blocking", "async", "pipeline"].map(|kind| {
        let settings = [
            ("kind", kind),
            ("calls", calls),
            ("spin", client_spin),
            ("method", "echo_into"),
            ("len", "64"),
            ("progress", "500"),
        ];
        place.start_ready("echoes", &settings)
    });
    // So much work takes minutes where a sanitizer watches and others want the processors too. Who hangs
    // says nothing any more.
    for client in &clients {
        let last = std::iter::repeat_with(|| client.hear()).find(|said| said != "on");
        assert_eq!(last.as_deref(), Some("done"));
    }
    eprintln!(
        "4 clients ({client_spin}) and a server ({server_spin}), {calls} calls each: {:?}",
        begun.elapsed()
    );
    drop(server);
}

/// Calls of each client. Where a pipe's wake-ups go through several processes (wine), more take minutes.
fn calls(usual: &'static str) -> &'static str {
    match crate::transports::current() {
        nearwire::TransportPolicy::SocketOnly if cfg!(windows) => "1000",
        _ => usual,
    }
}

fn no_wakeup_is_lost_between_sleepers() {
    hammer("never", "never", calls("20000"), "1");
}

fn no_wakeup_is_lost_between_a_sleeper_and_a_spinner() {
    hammer("never", "default", calls("10000"), "2");
    hammer("default", "never", calls("10000"), "2");
}

fn no_wakeup_is_lost_when_the_ring_is_full() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("spin", "never"), ("workers", "1")]);
    let clients = ["blocking", "async", "pipeline"].map(|kind| {
        let settings = [
            ("kind", kind),
            ("calls", "400"),
            ("spin", "never"),
            ("method", "echo_into"),
            ("len", "20000"),
            ("ring", "4096"),
        ];
        place.start_ready("echoes", &settings)
    });
    for client in &clients {
        client.expect("done");
    }
}

fn an_async_client_that_never_spins_works() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("spin", "never")]);
    let name = place.socket(NAME);
    within(PATIENCE, "async, never spinning", move || {
        current_thread().block_on(async {
            let client = ClientBuilder::new().spin(Spin::NEVER).connect(&name).await;
            let client = client.unwrap();
            for n in 0..500u64 {
                let request = pattern(n, 64);
                let reply = client.call_bytes("echo_later", &request).await.unwrap();
                assert_eq!(reply, request);
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    });
    let mut blocking = BlockingClient::connect(&place.socket(NAME)).unwrap();
    assert_eq!(blocking.call_bytes("echo", b"on").unwrap(), b"on");
}

crate::over_all_transports!(
    idle_connections_cost_no_processor_time,
    a_sleeper_is_woken_once_per_sleep,
    no_wakeup_is_lost_between_sleepers,
    no_wakeup_is_lost_between_a_sleeper_and_a_spinner,
    no_wakeup_is_lost_when_the_ring_is_full,
    an_async_client_that_never_spins_works,
);

crate::over_both_transports_and!(across_threads:
    a_sleeper_is_woken_once_per_sleep,
    no_wakeup_is_lost_between_sleepers,
    no_wakeup_is_lost_between_a_sleeper_and_a_spinner,
    no_wakeup_is_lost_when_the_ring_is_full,
    an_async_client_that_never_spins_works,
);
