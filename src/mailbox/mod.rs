//! How other threads hand things to one that sleeps when it has nothing to do: connections to the worker
//! that is to own them, what calls come to, the word to end.

use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::{AtomicBool, Mutex, MutexGuard, fence};

#[cfg(all(test, any(loom, shuttle)))]
mod bell;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, shuttle))]
mod schedules;

/// What ends the sleep of the one that mail is for. A wake-up that comes before the sleep is kept for it.
pub(crate) trait Wake {
    fn wake(&self);
}

/// Letters for one thread, and the means to wake it.
///
/// `asleep` and `full` are a store-buffering pair like the parked words between processes (see
/// `waiter`): the sleeper sets `asleep`, then looks at `full`; the sender sets `full`, then looks
/// at `asleep`. Each has a fence in between, so at least one sees the other.
#[derive(Debug)]
pub(crate) struct Mailbox<L, W> {
    letters: Mutex<Vec<L>>,
    /// Whether there are letters. Written under their lock, which orders the contents as well.
    full: AtomicBool,
    asleep: AtomicBool,
    waker: W,
}

impl<L, W: Wake> Mailbox<L, W> {
    pub(crate) fn new(waker: W) -> Self {
        Self {
            letters: Mutex::new(Vec::new()),
            full: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            waker,
        }
    }

    fn letters(&self) -> MutexGuard<'_, Vec<L>> {
        self.letters.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Leaves a letter, and wakes whom it is for if it sleeps.
    pub(crate) fn post(&self, letter: L) {
        let mut letters = self.letters();
        letters.push(letter);
        self.full.store(true, Relaxed);
        drop(letters);
        // SYNC: mailbox-sleep, the sender's end
        fence(SeqCst);
        if self.asleep.load(Relaxed) {
            self.waker.wake();
        }
    }

    /// Whether there may be mail. One load; a worker asks once per sweep.
    #[inline(always)]
    pub(crate) fn has_mail(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Moves all letters to `to`, which is empty.
    pub(crate) fn collect(&self, to: &mut Vec<L>) {
        let mut letters = self.letters();
        self.full.store(false, Relaxed);
        std::mem::swap(&mut *letters, to);
    }

    /// Announces that its owner is about to sleep. False if there is mail: stay awake.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Relaxed);
        // SYNC: mailbox-sleep, the sleeper's end
        fence(SeqCst);
        if self.full.load(Relaxed) {
            self.wake_up();
            return false;
        }
        true
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Relaxed);
    }
}
