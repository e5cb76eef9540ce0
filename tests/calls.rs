//! Calls between processes: servers and clients as users would run them, also when they die.

#![cfg(all(feature = "tokio", feature = "serde"))]

mod transports;

#[path = "calls/cancellation.rs"]
mod cancellation;
#[path = "calls/clients.rs"]
mod clients;
#[path = "calls/crowd.rs"]
mod crowd;
// Pipes live in none.
#[cfg(unix)]
#[path = "calls/directories.rs"]
mod directories;
#[path = "calls/drain.rs"]
mod drain;
#[path = "calls/faults.rs"]
mod faults;
// They speak over a socket by hand, as clients and servers that share memory.
#[cfg(all(unix, feature = "spsc_transport"))]
#[path = "calls/handshakes.rs"]
mod handshakes;
#[path = "calls/limits.rs"]
mod limits;
// They are read in shared memory.
#[cfg(feature = "spsc_transport")]
#[path = "calls/metrics.rs"]
mod metrics;
#[path = "calls/permissions.rs"]
mod permissions;
#[path = "calls/rates.rs"]
mod rates;
#[path = "calls/server.rs"]
mod server;
#[path = "calls/spans.rs"]
mod spans;
#[path = "calls/streams.rs"]
mod streams;
mod support;
#[path = "calls/traces.rs"]
mod traces;
#[path = "calls/unary.rs"]
mod unary;
#[path = "calls/uploads.rs"]
mod uploads;
#[path = "calls/waiting.rs"]
mod waiting;

// By hand, over a socket.
#[cfg(target_os = "linux")]
#[path = "calls/wire.rs"]
mod wire;
#[path = "calls/workers.rs"]
mod workers;

/// What processes that tests start do, or threads.
const ROLES: support::Roles = &[
    ("server", server::serve),
    ("bind", server::bind),
    ("echoes", clients::echoes),
    ("hold", clients::hold),
    #[cfg(unix)]
    ("comes and goes", clients::comes_and_goes),
    ("give up", clients::give_up),
    ("many", clients::many),
    ("on one thread", clients::on_one_thread),
    ("in flight", clients::in_flight),
    ("hang", clients::hang),
    ("deadline", clients::deadline),
    #[cfg(all(target_os = "linux", feature = "spsc_transport"))]
    ("cramped", clients::cramped),
];

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(ROLES);
}

/// As long as it is held, this thread's test starts threads instead of processes.
fn across_threads() -> impl Drop {
    support::across_threads(ROLES)
}
