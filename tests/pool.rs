//! Pools of connections to servers that are killed, restarted, drained and stopped.

#![cfg(all(feature = "tokio", feature = "serde"))]

#[path = "pool/absence.rs"]
mod absence;
#[cfg(feature = "bb8")]
#[path = "pool/bb8.rs"]
mod bb8;
#[path = "pool/descriptors.rs"]
mod descriptors;
#[path = "pool/health.rs"]
mod health;
#[path = "pool/ledger.rs"]
mod ledger;
#[path = "pool/restarts.rs"]
mod restarts;
#[path = "pool/rotation.rs"]
mod rotation;
// The server of the tests of calls; not all that it offers is called here.
#[allow(dead_code)]
#[path = "calls/server.rs"]
mod server;
#[path = "pool/streams.rs"]
mod streams;
mod support;
mod transports;

/// What processes that tests start do, or threads.
const ROLES: support::Roles = &[
    ("server", server::serve),
    ("ledger", ledger::serve),
    ("pool", descriptors::pool),
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
