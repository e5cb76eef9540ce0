//! The server's threads: where they run, and how connections are spread over them.

use crate::server::NAME;
#[cfg(target_os = "linux")]
use crate::support::Process;
use crate::support::{Place, eventually};
use nearwire::{BlockingClient, Error, Pin, Server};

/// The processors that each thread of this name in a process may run on.
#[cfg(target_os = "linux")]
fn allowed(process: &Process, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    let mut lists = Vec::new();
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        if field("Name").starts_with(name) {
            lists.push(field("Cpus_allowed_list"));
        }
    }
    lists.sort();
    lists
}

/// The processors that this process may run on.
#[cfg(target_os = "linux")]
fn own_processors() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    let cpus = 0..rustix::thread::CpuSet::MAX_CPU;
    cpus.filter(|&cpu| set.is_set(cpu)).collect()
}

#[cfg(target_os = "linux")]
fn workers_are_pinned_where_they_say_they_are() {
    let cpus = own_processors();
    let last = cpus.last().unwrap().to_string();
    let place = Place::new();
    let server = place.start_ready("server", &[("pin", &last), ("workers", "1")]);
    let said = server.ask("workers");
    assert!(
        said.contains(&format!("processors: Some([{last}])")),
        "{said}"
    );
    assert_eq!(allowed(&server, "nearwire-0"), [&*last]);
    // Handlers' other threads are nobody's business.
    let everywhere = allowed(&server, "tokio-rt-worker");
    assert!(cpus.len() == 1 || everywhere.iter().all(|list| *list != last));

    let server = place.start_ready(
        "server",
        &[("name", "auto"), ("pin", "auto"), ("workers", "2")],
    );
    for (worker, cpu) in ["nearwire-0", "nearwire-1"].iter().zip(cpus.iter().cycle()) {
        assert_eq!(allowed(&server, worker), [cpu.to_string()]);
    }
    let server = place.start_ready("server", &[("name", "free"), ("workers", "2")]);
    assert!(server.ask("workers").contains("processors: None"));
    assert_eq!(
        allowed(&server, "nearwire-0"),
        allowed(&server, "tokio-rt-worker")
    );
}

/// A client whose handlers are slow, and who always has more calls: others wait for a few of them,
/// not for as many as a turn of quick ones has.
fn a_flood_of_slow_calls_keeps_others_waiting_for_few_of_them() {
    const CALLS: usize = 800;
    // Two turns of 256 until the worker knows.
    const UNTIL: usize = 560;
    let place = Place::new();
    let _server = place.start_ready("server", &[("workers", "1")]);
    let mut other = BlockingClient::connect(&place.socket(NAME)).unwrap();
    other.call_bytes("echo", b"here").unwrap();
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    let slow = client.method("block_ms").unwrap();
    let mut flood = client.pipeline();
    for _ in 0..CALLS {
        // One millisecond.
        flood.submit(slow, &[1]).unwrap();
    }
    while flood.in_flight() > CALLS - UNTIL {
        flood
            .next(|_, reply| reply.map(drop))
            .unwrap()
            .unwrap()
            .unwrap();
    }
    // One call would not do: whoever is off its processor for a while sees all that ended meanwhile.
    let mut waits = Vec::new();
    while flood.in_flight() > 0 {
        assert_eq!(other.call_bytes("echo", b"quick").unwrap(), b"quick");
        let before = flood.in_flight();
        while let Some(reply) = flood.try_next(|_, reply| reply.map(drop)).unwrap() {
            reply.unwrap();
        }
        waits.push(before - flood.in_flight());
    }
    // A single one, for all of them, if the other waits until the flood is over.
    waits.sort_unstable();
    let usual = waits[waits.len() / 2];
    assert!(usual < 20, "{usual} of {}: {waits:?}", CALLS - UNTIL);
}

fn a_handler_that_blocks_shows() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "1")]);
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    for _ in 0..1000 {
        client.call_bytes("echo", b"quick").unwrap();
    }
    for _ in 0..3 {
        client.call::<u64, u64>("block_ms", &30).unwrap();
        client.call_bytes("echo", b"quick").unwrap();
    }
    let said = server.ask("workers");
    assert!(!said.contains("stalls: 0"), "{said}");
}

fn a_processor_that_is_not_this_processs_is_refused() {
    let place = Place::new();
    let server = Server::builder().pin(Pin::List(vec![0, 100_000]));
    let error = server.bind(&place.socket("x")).unwrap_err();
    assert!(
        matches!(error, Error::Setting { setting: "pin", .. }),
        "{error}"
    );
}

fn connections_are_spread_over_the_workers() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "3")]);
    let connect = || BlockingClient::connect(&place.socket(NAME)).unwrap();
    let mut clients: Vec<_> = (0..30).map(|_| connect()).collect();
    let spread = |each: usize| {
        let said = server.ask("workers");
        said.matches(&format!("connections: {each},")).count() == 3
    };
    // A client is through the handshake a moment before the server counts it.
    eventually("ten each", || spread(10));
    for client in &mut clients {
        assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
    }
    clients.truncate(15);
    eventually("they are gone", || server.report()["connections"] == 15);
    clients.extend((0..15).map(|_| connect()));
    eventually("ten each, for new ones go to the emptiest", || spread(10));
}

crate::over_all_transports!(
    a_handler_that_blocks_shows,
    a_flood_of_slow_calls_keeps_others_waiting_for_few_of_them,
    a_processor_that_is_not_this_processs_is_refused,
    connections_are_spread_over_the_workers,
);

crate::over_both_transports_and!(across_threads:
    a_handler_that_blocks_shows,
    connections_are_spread_over_the_workers,
);

/// Apart, because only Linux tells where a thread of another process may run.
#[cfg(target_os = "linux")]
mod pinned {
    use super::workers_are_pinned_where_they_say_they_are;

    crate::over_all_transports!(workers_are_pinned_where_they_say_they_are);
}
