//! The other process of a test, or what stands for it in this one, and what both sides agree on.
//!
//! A test runs its own binary again, with the name of a *role* in the environment; the test
//! function `peer_process` of that binary plays the role and does nothing otherwise.

// Each test binary uses a part of this.
#![allow(dead_code)]

#[path = "../os/mod.rs"]
mod os;

pub use os::kill_self;

use crate::transports::{self, Set};
use nearwire::{Listener, ListenerBuilder, TransportPolicy};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task;

const ROLE: &str = "NEARWIRE_TEST_ROLE";
const NAME: &str = "NEARWIRE_TEST_NAME";
const TRANSPORT: &str = "NEARWIRE_TEST_TRANSPORT";

/// Far more than anything takes that is not hung. (Longer under wine, as in `tests/support`.)
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(windows) { 90 } else { 30 });

/// What plays a role, given the role and the name to connect to.
pub type Play = fn(&str, &str);
/// The same for roles that are tasks.
pub type PlayTask = fn(String, String) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the other side of a body is.
#[derive(Clone, Copy)]
pub enum OtherSide {
    InProcess,
    OnThread(Play),
    /// On the thread of the body, which is a task.
    OnThisThread(PlayTask),
}

thread_local! {
    static OTHER_SIDE: Cell<OtherSide> = const { Cell::new(OtherSide::InProcess) };
}

/// As long as it is held, the body on this thread finds its other side there.
pub fn put(other_side: OtherSide) -> Set<OtherSide> {
    Set::new(&OTHER_SIDE, other_side)
}

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

    /// The other side, in this role.
    pub fn start(&self, role: &str) -> Peer {
        let (role, name) = (role.to_owned(), self.name());
        Peer(match OTHER_SIDE.get() {
            OtherSide::InProcess => Runs::InProcess(self.start_process(&role)),
            OtherSide::OnThread(play) => {
                Runs::OnThread(Some(std::thread::spawn(move || play(&role, &name))))
            }
            OtherSide::OnThisThread(play) => Runs::OnThisThread(tokio::spawn(play(role, name))),
        })
    }

    fn start_process(&self, role: &str) -> Child {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["peer_process", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(NAME, self.name())
            .env(TRANSPORT, transports::name(self.1))
            .stdout(Stdio::null())
            .spawn();
        child.unwrap()
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

/// The other side. A process does not outlive this.
pub struct Peer(Runs);

enum Runs {
    InProcess(Child),
    /// There until somebody waits for it.
    OnThread(Option<JoinHandle<()>>),
    OnThisThread(task::JoinHandle<()>),
}

impl Peer {
    pub fn id(&self) -> u32 {
        match &self.0 {
            Runs::InProcess(child) => child.id(),
            Runs::OnThread(_) | Runs::OnThisThread(_) => std::process::id(),
        }
    }

    /// The process, of which the body needs that it is one.
    fn child(&mut self) -> &mut Child {
        match &mut self.0 {
            Runs::InProcess(child) => child,
            Runs::OnThread(_) | Runs::OnThisThread(_) => panic!("the other side is no process"),
        }
    }

    /// SIGKILL. Returns when it was sent.
    pub fn kill(&mut self) -> Instant {
        let now = Instant::now();
        self.child().kill().unwrap();
        now
    }

    /// Waits for the other side to end by itself, and well.
    pub fn join(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match &mut self.0 {
                Runs::InProcess(child) => {
                    if let Some(status) = child.try_wait().unwrap() {
                        assert!(status.success(), "the other process failed: {status}");
                        return;
                    }
                }
                Runs::OnThread(thread) => {
                    if let Some(ended) = thread.take_if(|thread| thread.is_finished()) {
                        return ended.join().expect("the other thread failed");
                    }
                }
                Runs::OnThisThread(_) => panic!("a task must not wait by blocking its thread"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the other side hangs");
    }

    /// As [`join`](Self::join), for a task.
    pub async fn join_async(mut self) {
        if let Runs::OnThisThread(task) = &mut self.0 {
            let ended = tokio::time::timeout(PATIENCE, task).await;
            return ended
                .expect("the other task hangs")
                .expect("the other task failed");
        }
        task::spawn_blocking(|| self.join()).await.unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child().wait().unwrap()
    }

    /// Time that the process has spent on processors, all threads together. A sleeping process has
    /// exactly what it had.
    pub fn cpu_time(&self) -> Duration {
        match &self.0 {
            Runs::InProcess(child) => os::cpu_times(child.id()).values().sum(),
            Runs::OnThread(_) | Runs::OnThisThread(_) => panic!("the other side is no process"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Runs::InProcess(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
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
