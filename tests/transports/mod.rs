//! Runs a test's body once over each transport. The test's name says which: `over_shared_memory::…`,
//! `over_socket::…`, `over_mpmc::…`.
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
pub fn run<T>(policy: TransportPolicy, body: impl FnOnce() -> T) -> T {
    if policy == TransportPolicy::MpmcOnly {
        // Clients say nothing, and take what the server takes; this they must be told of.
        let said = std::env::var("NEARWIRE_TRANSPORT");
        assert_eq!(said.as_deref(), Ok("prefer-mpmc"), "set NEARWIRE_TRANSPORT");
    }
    CURRENT.set(policy);
    body()
}

/// Runs an async body, on a runtime that has this thread only.
pub fn on_one_thread(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(body);
}

/// Runs an async body, on a runtime with threads of its own.
pub fn on_threads(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(body);
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
        TransportPolicy::MpmcOnly => "mpmc",
        _ => "any",
    }
}

/// What another process was told.
pub fn of_name(name: &str) -> TransportPolicy {
    match name {
        "shared memory" => TransportPolicy::SharedMemoryOnly,
        "socket" => TransportPolicy::SocketOnly,
        "mpmc" => TransportPolicy::MpmcOnly,
        "prefer mpmc" => TransportPolicy::PreferMpmc,
        "any" => TransportPolicy::PreferSharedMemory,
        other => panic!("no transport {other:?}"),
    }
}

/// Makes two tests of each body; async ones say which runtime they run on.
#[macro_export]
macro_rules! over_both_transports {
    ($($body:ident),* $(,)? $(; $runtime:ident: $($task:ident),* $(,)?)*) => {
        #[cfg(feature = "spsc_transport")]
        mod over_shared_memory {
            $crate::over_a_transport!(SharedMemoryOnly: $($body),* $(; $runtime: $($task),*)*);
        }
        mod over_socket {
            $crate::over_a_transport!(SocketOnly: $($body),* $(; $runtime: $($task),*)*);
        }
    };
}

/// As [`over_both_transports`], and over the request queue if the feature is there. Its clients are
/// told by the environment: `NEARWIRE_TRANSPORT=prefer-mpmc`, with which the others go on as ever.
#[macro_export]
macro_rules! over_all_transports {
    ($($body:ident),* $(,)? $(; $runtime:ident: $($task:ident),* $(,)?)*) => {
        $crate::over_both_transports!($($body),* $(; $runtime: $($task),*)*);
        #[cfg(all(feature = "mpmc_transport", target_os = "linux"))]
        mod over_mpmc {
            $crate::over_a_transport!(MpmcOnly: $($body),* $(; $runtime: $($task),*)*);
        }
    };
}

/// Makes a test of each body, over one transport.
#[macro_export]
macro_rules! over_a_transport {
    ($policy:ident: $($body:ident),* $(; $runtime:ident: $($task:ident),*)*) => {
        $(
            #[test]
            fn $body() {
                $crate::transports::run(nearwire::TransportPolicy::$policy, super::$body);
            }
        )*
        $($(
            #[test]
            fn $task() {
                $crate::transports::run(nearwire::TransportPolicy::$policy, || {
                    $crate::transports::$runtime(super::$task());
                });
            }
        )*)*
    };
}
