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

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(&[
        ("server", server::serve),
        ("ledger", ledger::serve),
        ("pool", descriptors::pool),
    ]);
}
