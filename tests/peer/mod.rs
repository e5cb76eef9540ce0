//! The other process of a test, and what both processes agree on.
//!
//! A test runs its own binary again, with the name of a *role* in the environment; the test
//! function `peer_process` of that binary plays the role and does nothing otherwise.

// Each test binary uses a part of this.
#![allow(dead_code)]

#[path = "../os/mod.rs"]
mod os;

pub use os::kill_self;

use crate::transports;
use nearwire::{Listener, ListenerBuilder, TransportPolicy};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const ROLE: &str = "NEARWIRE_TEST_ROLE";
const NAME: &str = "NEARWIRE_TEST_NAME";
const TRANSPORT: &str = "NEARWIRE_TEST_TRANSPORT";

/// Far more than anything takes that is not hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for one test's socket.
pub struct Place(PathBuf, TransportPolicy);

impl Place {
    pub fn new() -> Self {
        Self(
            os::private_directory("nearwire-test"),
            transports::current(),
        )
    }

    /// The name to listen on.
    pub fn name(&self) -> String {
        self.0.join("socket").to_str().unwrap().to_owned()
    }

    /// What to listen with: for the transport that the test runs over.
    pub fn listener(&self) -> ListenerBuilder {
        Listener::builder().transport(self.1)
    }

    /// The other process, in this role.
    pub fn start(&self, role: &str) -> Peer {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["peer_process", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(NAME, self.name())
            .env(TRANSPORT, transports::name(self.1))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Peer(child)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Role and name, in the other process.
pub fn role() -> Option<(String, String)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(NAME).ok()?))
}

/// In the other process: what to listen with, for the transport that the test runs over.
pub fn listener() -> ListenerBuilder {
    let transport = std::env::var(TRANSPORT).unwrap();
    Listener::builder().transport(transports::of_name(&transport))
}

/// The other process. It does not outlive this.
pub struct Peer(Child);

impl Peer {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL. Returns when it was sent.
    pub fn kill(&mut self) -> Instant {
        let now = Instant::now();
        self.0.kill().unwrap();
        now
    }

    /// Waits for the process to end by itself, and well.
    pub fn join(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "the other process failed: {status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the other process hangs");
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Time that the process has spent on processors, all threads together. A sleeping process has
    /// exactly what it had.
    pub fn cpu_time(&self) -> Duration {
        os::cpu_times(self.id()).values().sum()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Blocks until the connection to the other process, which may have to start first, is there.
pub fn eventually<T>(mut connect: impl FnMut() -> nearwire::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Err(nearwire::Error::NoServer { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.unwrap(),
        }
    }
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

/// Asserts that something ended soon enough after a kill not to have hung, and prints how soon.
pub fn soon_after(killed: Instant, what: &str) {
    let took = killed.elapsed();
    eprintln!("{what}: {took:?} after the kill");
    assert!(took < Duration::from_secs(2), "{what} took {took:?}");
}
