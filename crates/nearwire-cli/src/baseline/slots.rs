//! The least that calls of many threads to one server cost: bare slots in shared memory, of the yardstick.
//!
//! The server's memory has no name; what stands where other servers have their sockets is a link to its
//! descriptor.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::sync::Arc;

use anyhow::{Context, Result};
use nearwire_floor::slots::Slots;
use serde::{Deserialize, Serialize};

use crate::private;
use crate::process::Parent;

/// The role of the server's process; a [`PrivateServer`](crate::private::PrivateServer) that echoes.
pub const SLOTS_ROLE: &str = "slots-echo";

/// What the server is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Connections.
    pub slots: usize,
    /// Bytes of the longest request.
    pub longest: usize,
}

/// The role of the server: one thread for all slots, as one worker of Nearwire's is.
///
/// # Errors
/// If it cannot serve.
pub fn serve_slots(parent: Parent) -> Result<()> {
    private::serve(&parent, start, Served::stop)
}

/// A server's slots, which are there until it ends.
struct Served {
    slots: Arc<Slots>,
    /// What the link leads to.
    _memory: Vec<OwnedFd>,
}

impl Served {
    fn stop(self) {
        if let Err(error) = self.slots.stop() {
            tracing::warn!(%error, "the slots' server cannot be woken");
        }
    }
}

fn start(settings: Settings, path: &str) -> Result<Served> {
    let (slots, memory) = Slots::create(settings.slots, settings.longest)?;
    for descriptor in &memory {
        let number = descriptor.as_raw_fd();
        symlink(format!("/proc/{}/fd/{number}", std::process::id()), path)
            .context("cannot name the slots' memory")?;
    }
    let slots = Arc::new(slots);
    let answering = Arc::clone(&slots);
    std::thread::Builder::new()
        .name("slots".into())
        .spawn(move || {
            if let Err(error) = answering.answer() {
                tracing::error!(%error, "the slots' server has failed");
            }
        })?;
    Ok(Served {
        slots,
        _memory: memory,
    })
}

/// The slots of the server at `path`.
///
/// # Errors
/// If there is none.
pub fn open(path: &str) -> Result<Slots> {
    let memory = OpenOptions::new().read(true).write(true).open(path);
    let memory = memory.context("cannot open the slots' memory")?;
    Ok(Slots::open(vec![memory.into()])?)
}
