//! Runs a test's body once over each transport. The test's name says which: `over_shared_memory::…`,
//! `over_socket::…`.
//!
//! The transport goes to the body's place, and from there to the processes that it starts: one side
//! of each connection takes nothing else, so that there is no other way.

// Each test binary uses a part of this.
#![allow(dead_code)]

use nearwire::TransportPolicy;
use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<TransportPolicy> = const { Cell::new(TransportPolicy::PreferSharedMemory) };
}

/// Runs a body whose processes take this transport.
pub fn run(policy: TransportPolicy, body: fn()) {
    CURRENT.set(policy);
    body();
}

/// What the body that runs on this thread is to take.
pub fn current() -> TransportPolicy {
    CURRENT.get()
}

/// How it is told to another process.
pub fn name(policy: TransportPolicy) -> &'static str {
    match policy {
        TransportPolicy::SharedMemoryOnly => "shared memory",
        TransportPolicy::SocketOnly => "socket",
        _ => "any",
    }
}

/// What another process was told.
pub fn of_name(name: &str) -> TransportPolicy {
    match name {
        "shared memory" => TransportPolicy::SharedMemoryOnly,
        "socket" => TransportPolicy::SocketOnly,
        "any" => TransportPolicy::PreferSharedMemory,
        other => panic!("no transport {other:?}"),
    }
}

/// Makes two tests of each body.
#[macro_export]
macro_rules! over_both_transports {
    ($($(#[$attribute:meta])* $body:ident),* $(,)?) => {
        #[cfg(feature = "spsc_transport")]
        mod over_shared_memory {
            $(
                #[test]
                $(#[$attribute])*
                fn $body() {
                    $crate::transports::run(nearwire::TransportPolicy::SharedMemoryOnly, super::$body);
                }
            )*
        }
        mod over_socket {
            $(
                #[test]
                $(#[$attribute])*
                fn $body() {
                    $crate::transports::run(nearwire::TransportPolicy::SocketOnly, super::$body);
                }
            )*
        }
    };
}
