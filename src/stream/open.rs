//! What the halves of a connection have in common.

use crate::error::{CloseReason, Error, Identity};
use crate::link::Shared;
use crate::settings::Transport;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// One of a listener's connections, as long as it is kept.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Counts one more.
    pub(crate) fn take(counted: &Arc<AtomicUsize>) -> Self {
        counted.fetch_add(1, Relaxed);
        Self(counted.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Keeps a connection open: it is closed when the last half drops its copy.
#[derive(Debug, Clone)]
pub(crate) struct Open(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Given back when the connection is closed.
    _place: Option<Place>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close(CloseReason::Local);
    }
}

impl Open {
    pub(crate) fn new(shared: Arc<Shared>, place: Option<Place>) -> Self {
        Self(Arc::new(Inner {
            shared,
            _place: place,
        }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(super) fn peer(&self) -> Identity {
        self.0.shared.peer
    }

    pub(super) fn transport(&self) -> Transport {
        self.0.shared.transport()
    }

    pub(super) fn peer_label(&self) -> &str {
        &self.0.shared.terms.peer_label
    }

    /// The largest message that the peer takes, in bytes.
    pub(super) fn max_message_out(&self) -> usize {
        as_len(self.0.shared.terms.max_message_out)
    }

    /// The largest message that this side takes, in bytes.
    pub(super) fn max_message_in(&self) -> usize {
        as_len(self.0.shared.terms.max_message_in)
    }

    /// Whether the connection is known to be over.
    #[inline(always)]
    pub(super) fn is_closed(&self) -> bool {
        self.0.shared.closed().is_some()
    }

    /// The error for a connection that is over.
    #[cold]
    pub(super) fn closed_error(&self) -> Error {
        self.0.shared.read_last_word();
        self.0.shared.closed_error()
    }
}

/// How far a receiving half is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More may come.
    Open,
    /// The peer has finished and everything was taken.
    Finished,
    /// The peer broke the protocol; nothing more is read.
    Broken,
}

fn as_len(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How a half of a connection has waited so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WaitStats {
    /// Wake-ups of the peer, one system call each.
    pub wakeups: u64,
    /// Sleeps in the kernel, or in Tokio's reactor.
    pub sleeps: u64,
    /// Spins that found what they waited for.
    pub spins_paid: u64,
    /// Spins that ended in a sleep.
    pub spins_wasted: u64,
}

impl WaitStats {
    pub(crate) fn new(wakeups: u64, sleeps: u64, (spins_paid, spins_wasted): (u64, u64)) -> Self {
        Self {
            wakeups,
            sleeps,
            spins_paid,
            spins_wasted,
        }
    }

    /// The sums for both halves of a connection.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            wakeups: self.wakeups + other.wakeups,
            sleeps: self.sleeps + other.sleeps,
            spins_paid: self.spins_paid + other.spins_paid,
            spins_wasted: self.spins_wasted + other.spins_wasted,
        }
    }
}
