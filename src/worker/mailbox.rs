//! How other threads hand things to a worker.

use crate::error::Status;
use crate::link::Link;
use crate::sys::MultiplexerWaker;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// What a worker is given.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A connection, to be owned from now on.
    Connection(Box<Link>),
    /// An answer of a handler that did not finish in place.
    Answer(Answer),
    /// An item of a stream.
    #[cfg(feature = "tokio")]
    Item(Item),
    /// Finish what is in flight, at the latest at this time, then end.
    Drain(Instant),
}

/// What a handler that moved to the runtime came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The worker's key of the connection.
    pub(crate) key: usize,
    /// The connection's number, for keys are used again.
    pub(crate) connection: u64,
    /// The call.
    pub(crate) request: u64,
    pub(crate) result: Result<Vec<u8>, Status>,
}

/// What a handler sends before it is done. It was paid for with credits.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) struct Item {
    /// As in [`Answer`].
    pub(crate) key: usize,
    pub(crate) connection: u64,
    pub(crate) request: u64,
    pub(crate) payload: Vec<u8>,
}

/// Mail for one worker, and the means to wake it.
///
/// `asleep` and `full` are a store-buffering pair like the parked words between processes (see
/// `waiter`): the worker sets `asleep`, then looks at `full`; the sender sets `full`, then looks
/// at `asleep`. Both use SeqCst, so at least one sees the other.
#[derive(Debug)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Mail>>,
    full: AtomicBool,
    asleep: AtomicBool,
    waker: MultiplexerWaker,
}

impl Mailbox {
    pub(crate) fn new(waker: MultiplexerWaker) -> Self {
        Self {
            letters: Mutex::new(Vec::new()),
            full: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            waker,
        }
    }

    fn letters(&self) -> MutexGuard<'_, Vec<Mail>> {
        self.letters.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Leaves something for the worker and wakes it if it sleeps.
    pub(crate) fn post(&self, mail: Mail) {
        self.letters().push(mail);
        // SYNC: mailbox-sleep, the sender's end
        self.full.store(true, SeqCst);
        if self.asleep.load(SeqCst) {
            self.waker.wake();
        }
    }

    /// Whether there may be mail. One load; the worker asks once per sweep.
    #[inline(always)]
    pub(super) fn has_mail(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Moves all mail to `to`, which is empty.
    pub(super) fn collect(&self, to: &mut Vec<Mail>) {
        let mut letters = self.letters();
        // Under the lock, so that no letter comes in between; the lock orders the contents.
        self.full.store(false, Relaxed);
        std::mem::swap(&mut *letters, to);
    }

    /// Announces that the worker is about to sleep. False if there is mail: stay awake.
    pub(super) fn fall_asleep(&self) -> bool {
        // SYNC: mailbox-sleep, the worker's end
        self.asleep.store(true, SeqCst);
        if self.full.load(SeqCst) {
            self.wake_up();
            return false;
        }
        true
    }

    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Relaxed);
    }
}
