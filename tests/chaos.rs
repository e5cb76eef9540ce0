//! Chaos: processes that are killed, frozen and starved at moments that nobody chose.
//!
//! Servers write down what they execute, callers what they were told, both in files that outlive
//! them ([`ledger`]). A test is over when the two have been compared, and when what survived uses
//! exactly what it used before ([`census`]).
//!
//! `NEARWIRE_CHAOS_KILLS` sets how many processes the tests of kills kill together (200 if it is not
//! set, 10000 in the long form), `NEARWIRE_CHAOS_SEED` where their dice begin, and
//! `NEARWIRE_CHAOS_P99_MS` how soon 99 of 100 kills must be noticed (on a machine that does nothing else).

#![cfg(all(target_os = "linux", feature = "tokio", feature = "serde"))]

#[path = "chaos/caller.rs"]
mod caller;
#[path = "chaos/census.rs"]
mod census;
#[path = "chaos/clocks.rs"]
mod clocks;
#[path = "chaos/descriptors.rs"]
mod descriptors;
#[path = "chaos/directory.rs"]
mod directory;
#[path = "chaos/freezes.rs"]
mod freezes;
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
#[path = "chaos/jumping.rs"]
mod jumping;
#[path = "chaos/kills.rs"]
mod kills;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/memory.rs"]
mod memory;
#[path = "chaos/server.rs"]
mod server;
mod support;
mod transports;

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(&[
        ("server", server::serve),
        ("caller", caller::run),
        ("starved server", descriptors::server),
        ("starved client", descriptors::client),
        ("server with limit", memory::server),
        ("client with limit", memory::client),
        ("one call", memory::caller),
        ("directory", directory::server),
        #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
        ("server whose clock jumps", jumping::server),
        #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
        ("caller whose clock jumps", jumping::caller),
    ]);
}
