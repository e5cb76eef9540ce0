//! Tests across processes: a directory per test, child processes that play roles, and the means to
//! talk to them, kill them and look at what they use.
//!
//! A test binary runs itself again with the name of a *role* in the environment; its test function
//! `child_process` plays the role and does nothing otherwise. Parent and child exchange lines:
//! commands through the child's standard input, answers through its standard output.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod child;
#[path = "../os/mod.rs"]
pub mod os;
pub mod process;

#[allow(unused_imports)]
pub use child::{Roles, Settings, play};
pub use process::Process;

use crate::transports::{self, Set};
use nearwire::TransportPolicy;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Far more than anything takes that is not hung, on a machine that does other things as well. (Under wine each
/// wake-up goes through several processes, and each of them has to wait for its turn on a busy machine.)
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(windows) { 120 } else { 40 });

thread_local! {
    /// The roles that the body on this thread starts on threads of this process, instead of in
    /// processes of their own.
    static ON_THREADS: Cell<Option<Roles>> = const { Cell::new(None) };
}

/// As long as it is held, what the body on this thread starts are threads.
pub fn across_threads(roles: Roles) -> Set<Option<Roles>> {
    Set::new(&ON_THREADS, Some(roles))
}

/// A directory for one test's sockets, in which its children find names. Gone with the test.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    transport: TransportPolicy,
    on_threads: Option<Roles>,
}

impl Place {
    pub fn new() -> Self {
        Self {
            directory: os::private_directory("nearwire-calls"),
            transport: transports::current(),
            on_threads: ON_THREADS.get(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The path of the socket that a server called `name` has here. A client that gives it as a
    /// name finds the server without the environment.
    pub fn socket(&self, name: &str) -> String {
        Self::socket_in(&self.directory, name)
    }

    /// The same, given the directory.
    pub fn socket_in(directory: &Path, name: &str) -> String {
        let socket = directory.join(format!("{name}.sock"));
        socket.to_str().unwrap().to_owned()
    }

    /// Starts a child in this role, which is told the transport that the test runs over.
    pub fn start(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        let mut settings = settings.to_vec();
        if !settings.iter().any(|(name, _)| *name == "transport") {
            settings.push(("transport", transports::name(self.transport)));
        }
        match self.on_threads {
            Some(roles) => Process::start_thread(roles, &self.directory, role, &settings),
            None => Process::start(&self.directory, role, &settings),
        }
    }

    /// Starts a child in this role and waits until it says that it is ready.
    pub fn start_ready(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        let process = self.start(role, settings);
        process.expect("ready");
        process
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs `body` and panics if it is not over in time: a hang becomes a failure that says where.
#[track_caller]
pub fn within<T: Send + 'static>(
    patience: Duration,
    what: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, waiting) = mpsc::channel();
    let thread = std::thread::Builder::new().name(what.to_owned());
    let (transport, on_threads) = (transports::current(), ON_THREADS.get());
    let thread = thread.spawn(move || {
        ON_THREADS.set(on_threads);
        let result = transports::run(transport, body);
        let _ = done.send(());
        result
    });
    let thread = thread.unwrap();
    match waiting.recv_timeout(patience) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: not over after {patience:?}"),
        // Done, or panicked.
        _ => thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Runs a future on a runtime with one thread, with the same watch.
#[track_caller]
pub fn within_async<T: Send + 'static>(
    patience: Duration,
    what: &str,
    body: impl Future<Output = T> + Send + 'static,
) -> T {
    within(patience, what, move || current_thread().block_on(body))
}

/// A Tokio runtime on the thread that blocks on it.
pub fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A Tokio runtime with threads of its own.
pub fn multi_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until `condition` holds; panics with `what` if it never does.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`eventually`], without blocking the thread.
pub async fn eventually_async(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asserts that something ended soon enough after a kill not to have hung, and prints how soon.
#[track_caller]
pub fn soon_after(killed: Instant, what: &str) {
    let took = killed.elapsed();
    eprintln!("{what}: {:.3} ms after the kill", took.as_secs_f64() * 1e3);
    assert!(took < Duration::from_secs(2), "{what} took {took:?}");
}

/// Bytes that tell where they belong: the same for the same `seed` and length.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
