//! The process at the other end of the messages.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nearwire::{Connection, Limits, Listener};
use serde::{Deserialize, Serialize};

use super::super::floor::fingerprint;
use crate::private;
use crate::process::Parent;
use crate::serve::spin;

/// The role of the process.
pub const MESSAGES_ROLE: &str = "messages";

/// The most messages taken at a time.
const TAKEN_TOGETHER: usize = 64;

/// How to listen.
#[derive(Serialize, Deserialize)]
pub(super) struct Opening {
    pub(super) spin: Option<u64>,
}

/// What a connection is for: its first message.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Job {
    /// Send everything back.
    Echo,
    /// Take all messages, one by one, and say what came.
    Take,
    /// Take all messages, as many at a time as there are, and say what came.
    TakeBatches,
}

/// What came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// Messages.
    pub(super) count: u64,
    /// The sum of what [`fingerprint`] says of each.
    pub(super) sum: u64,
}

impl Done {
    #[inline]
    fn add(&mut self, message: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(fingerprint(message));
    }
}

/// The role of the process: serves one connection after the other.
///
/// # Errors
/// If it cannot listen.
pub fn serve_messages(parent: Parent) -> Result<()> {
    let start = |opening: Opening, path: &str| {
        let listener = Listener::builder()
            .limits(Limits {
                max_ring: 256 << 20,
                ..Limits::default()
            })
            .spin(spin(opening.spin))
            .bind(path)?;
        let listener = Arc::new(listener);
        let accepting = Arc::clone(&listener);
        std::thread::spawn(move || {
            while let Ok(connection) = accepting.accept() {
                if let Err(error) = take_part(connection) {
                    tracing::warn!("a connection failed: {error:#}");
                }
            }
        });
        Ok(listener)
    };
    // The thread goes with the process.
    private::serve(&parent, start, drop)
}

fn take_part(mut connection: Connection) -> Result<()> {
    let mut message = Vec::new();
    ensure!(connection.recv(&mut message)?, "no job came");
    let mut done = Done::default();
    match serde_json::from_slice(&message).context("no job came")? {
        Job::Echo => {
            while connection.recv(&mut message)? {
                connection.send(&message)?;
            }
            return Ok(());
        }
        Job::Take => {
            while connection.recv(&mut message)? {
                done.add(&message);
            }
        }
        Job::TakeBatches => {
            while connection.recv_batch(TAKEN_TOGETHER, |message| done.add(message))? > 0 {}
        }
    }
    connection.send(&serde_json::to_vec(&done)?)?;
    // The client closes; what was sent is not lost.
    while connection.recv(&mut message)? {}
    Ok(())
}
