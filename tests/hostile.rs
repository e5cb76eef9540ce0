//! Peers that mean harm, as processes of their own: they speak the handshake by hand and then do
//! what no honest peer does. What they must not reach: their victim's process, and its neighbours.
//!
//! `NEARWIRE_HOSTILE_OPERATIONS` sets how many words the storms write altogether (default:
//! 20 million).

#![cfg(all(
    target_os = "linux",
    feature = "spsc_transport",
    feature = "tokio",
    feature = "serde"
))]

#[path = "hostile/bystander.rs"]
mod bystander;
#[path = "hostile/doorbells.rs"]
mod doorbells;
#[path = "hostile/handshakes.rs"]
mod handshakes;
#[cfg(feature = "mpmc_transport")]
#[path = "hostile/queue.rs"]
mod queue;
#[path = "hostile/raw.rs"]
mod raw;
// The server of the calls' tests, with all its methods.
#[allow(dead_code)]
#[path = "calls/server.rs"]
mod server;
#[path = "hostile/servers.rs"]
mod servers;
#[path = "hostile/storm.rs"]
mod storm;
mod support;
mod transports;
#[path = "hostile/violations.rs"]
mod violations;

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(&[
        ("server", server::serve),
        ("bystander", bystander::call),
        ("doorbell", doorbells::abuse),
        ("storm", storm::rage),
        #[cfg(feature = "mpmc_transport")]
        ("queue storm", queue::rage),
        #[cfg(feature = "mpmc_transport")]
        ("queue scribbler", queue::scribble),
        ("hostile server", servers::serve),
        ("victims", servers::suffer),
    ]);
}
