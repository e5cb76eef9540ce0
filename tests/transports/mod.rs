//! Runs a test's body once over each transport. The test's name says which: `over_shared_memory::…`,
//! `over_socket::…`, `over_mpmc::…`.
//!
//! The transport goes to the body's place, and from there to the processes that it starts: one side
//! of each connection takes nothing else, so that there is no other way.
//!
//! The other side of a body is a process of its own. Where that is not the point of it, the same body
//! runs once more with the other side [elsewhere](crate::over_both_transports_and): on threads of this
//! process (`across_threads::over_socket::…`), or on the very same thread (`on_one_thread::…`).

// Each test binary uses a part of this.
#![allow(dead_code)]

use nearwire::TransportPolicy;
use std::cell::Cell;
use std::thread::LocalKey;

/// Sets a variable of this thread, until it is dropped: a thread may run several tests.
#[must_use]
pub struct Set<T: Copy + 'static> {
    variable: &'static LocalKey<Cell<T>>,
    before: T,
}

impl<T: Copy> Set<T> {
    pub fn new(variable: &'static LocalKey<Cell<T>>, value: T) -> Self {
        let before = variable.replace(value);
        Self { variable, before }
    }
}

impl<T: Copy> Drop for Set<T> {
    fn drop(&mut self) {
        self.variable.set(self.before);
    }
}

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
    let _set = Set::new(&CURRENT, policy);
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

/// Makes the tests of these bodies once more, in a module of this name, with the other side where the
/// function of this name at the crate's root puts it.
#[macro_export]
macro_rules! over_both_transports_and {
    ($elsewhere:ident: $($body:ident),* $(,)? $(; $runtime:ident: $($task:ident),* $(,)?)*) => {
        mod $elsewhere {
            $(
                fn $body() {
                    let _set = $crate::$elsewhere();
                    super::$body();
                }
            )*
            $($(
                async fn $task() {
                    let _set = $crate::$elsewhere();
                    super::$task().await;
                }
            )*)*
            $crate::over_both_transports!($($body),* $(; $runtime: $($task),*)*);
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
