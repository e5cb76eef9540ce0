//! How other threads hand things to a worker.

#[cfg(feature = "tokio")]
use crate::error::Status;
use crate::link::Link;
use crate::sync::{AtomicBool, Mutex, MutexGuard};
use crate::sys::MultiplexerWaker;
#[cfg(feature = "tokio")]
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

/// What a worker is given.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A connection, to be owned from now on.
    Connection(Box<Link>),
    /// Something happened to a call that went to the runtime.
    #[cfg(feature = "tokio")]
    Call {
        /// The worker's key of the connection.
        key: usize,
        /// The connection's number, for keys are used again.
        connection: u64,
        /// The call.
        request: u64,
        /// What happened.
        event: CallEvent,
    },
    /// Finish what is in flight, at the latest at this time, then end.
    Drain(Instant),
}

/// What a handler in the runtime does.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) enum CallEvent {
    /// It is done.
    Ended(Result<Vec<u8>, Status>),
    /// It sends an item of a stream, which was paid for with credits.
    Item(Vec<u8>),
    /// It has taken items of the caller's stream, of so many credits.
    Credits(u32),
}

/// Where a call belongs.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) key: usize,
    pub(super) connection: u64,
    pub(super) request: u64,
}

#[cfg(feature = "tokio")]
impl Address {
    /// Tells the worker what the call does.
    pub(crate) fn post(&self, event: CallEvent) {
        self.mailbox.post(Mail::Call {
            key: self.key,
            connection: self.connection,
            request: self.request,
            event,
        });
    }
}

/// What ends a worker's sleep.
pub(crate) trait Wake {
    fn wake(&self);
}

impl Wake for MultiplexerWaker {
    fn wake(&self) {
        MultiplexerWaker::wake(self);
    }
}

/// Mail for one worker, and the means to wake it.
///
/// `asleep` and `full` are a store-buffering pair like the parked words between processes (see
/// `waiter`): the worker sets `asleep`, then looks at `full`; the sender sets `full`, then looks
/// at `asleep`. Both use SeqCst, so at least one sees the other.
#[derive(Debug)]
pub(crate) struct Mailbox<W = MultiplexerWaker> {
    letters: Mutex<Vec<Mail>>,
    full: AtomicBool,
    asleep: AtomicBool,
    waker: W,
}

impl<W: Wake> Mailbox<W> {
    pub(super) fn new(waker: W) -> Self {
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
