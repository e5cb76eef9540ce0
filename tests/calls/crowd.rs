//! Many clients at once.

use crate::support::{Place, eventually};
use std::time::Instant;

fn a_thousand_connects_at_once_all_succeed() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let before = server.report();
    let processes: Vec<_> = (0..4)
        .map(|_| place.start_ready("many", &[("count", "250")]))
        .collect();
    let begun = Instant::now();
    processes.iter().for_each(|process| process.tell("go"));
    processes.iter().for_each(|process| process.expect("done"));
    eprintln!(
        "1000 connects and a call on each, from 4 processes: {:?}",
        begun.elapsed()
    );
    let report = server.report();
    assert_eq!(report["connections"], 1000);
    assert_eq!(report["echoed"], 1000);
    let each = (report["descriptors"] - before["descriptors"]) as f64 / 1000.0;
    eprintln!("descriptors per connection at the server: {each}");
    for process in &processes {
        assert_eq!(process.ask("close"), "0", "descriptors leak in a client");
    }
    eventually("all is closed", || {
        let report = server.report();
        report["connections"] == 0 && report["descriptors"] == before["descriptors"]
    });
}

fn many_async_clients_on_one_thread_are_all_served() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let clients = place.start_ready("on one thread", &[("count", "60"), ("calls", "80")]);
    clients.expect("done");
    // Every other call of 40 of them, and of all of them a tenth as many.
    let whole = 40 * (3 * 40 + 10) + 60 * (3 * 4 + 1);
    eventually("all is closed", || {
        let report = server.report();
        report["connections"] == 0 && report["echoed"] >= whole
    });
}

fn an_idle_connection_costs_little_memory() {
    const COUNT: u64 = 1500;
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    // What a process of either kind needs anyway.
    let warm = place.start_ready("hold", &[("count", "10")]);
    let before = (server.resident(), warm.resident());
    let clients = place.start_ready("hold", &[("count", &COUNT.to_string())]);
    clients.tell("call");
    clients.expect("done");
    eventually("all are there", || server.report()["connections"] >= COUNT);
    let at_server = server.resident().saturating_sub(before.0);
    let at_client = clients.resident().saturating_sub(before.1);
    let each = (at_server + at_client) / COUNT;
    eprintln!(
        "resident per idle connection: {} bytes at the server, {} at the client",
        at_server / COUNT,
        at_client / COUNT
    );
    // Over the socket neither side sees the other's rings: it has both of them for itself. With a
    // request queue each has a ring for requests of its own.
    use nearwire::TransportPolicy::{MpmcOnly, SocketOnly};
    let most = match crate::transports::current() {
        // The heap of Windows writes zeros to what it gives out, so there all of them is resident.
        SocketOnly if cfg!(windows) => (96 << 10) + 4 * (64 << 10),
        SocketOnly | MpmcOnly => 48 << 10,
        _ => 24 << 10,
    };
    assert!(each <= most, "{each} bytes per idle connection");
}

crate::over_all_transports!(
    many_async_clients_on_one_thread_are_all_served,
    a_thousand_connects_at_once_all_succeed,
    an_idle_connection_costs_little_memory,
);
