//! Who may touch what nearly always the same thread touches: *biased locking*.
//!
//! One thread, the *owner*, enters and leaves without a locked instruction, by a flag of its own. Any other
//! one *revokes* the bias, once and for all, and from then on everybody goes by a lock. (The idea is
//! that of Java's virtual machines: Kawachiya and others, "Lock Reservation", 2002; Russell and Detlefs,
//! "Eliminating Synchronization-Related Atomic Operations with Biased Locking and Bulk Rebiasing", 2006.)
//!
//! Four locked instructions of each async call were two such locks, in a runtime of one thread where nobody
//! else ever wants one (docs: tuning).
//!
//! # States
//! ```text
//!   biased, free  <---->  biased, held          by the owner: held = true, held = false
//!        |                     |
//!        |  revoked = true     |                by the first other thread, which has the lock
//!        v                     v
//!   revoked       <-----  revoked, held         when the owner leaves, or sees `revoked` and draws back
//! ```
//!
//! # Invariant: at most one is inside
//! Who goes by the lock is alone among those who do, and enters only when the bias is revoked and the
//! owner outside; the owner, once it can see that, goes by the lock itself.
//!
//! # The race
//! The owner sets `held`, then looks at `revoked`; the other one sets `revoked`, then looks at `held`. If both
//! looks could miss both writes, both would be inside. It is the store-buffering pattern, as between
//! a sleeper and who wakes it (see `waiter`), and is met in the same way: the other thread's fence is a
//! heavy one, which acts on the owner's processor as well, and the owner only keeps the compiler
//! from swapping the two.
//!
//! ```text
//! owner                                     the first other thread
//!   held = true                               revoked = true
//!   compiler fence   SYNC: bias-revoke        heavy fence       SYNC: bias-revoke
//!   not revoked?  -> inside                   held?  -> wait until it is not
//! ```
//!
//! The fence falls either before the owner's look, which then sees `revoked`; or behind it, and then
//! `held` was set before the fence, and the other thread sees that.

#[cfg(all(test, loom))]
mod models;

use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, compiler_fence, rest};

/// No thread's name.
pub(crate) const NOBODY: u64 = 0;

/// Who is inside, and how to enter. Threads have names here, which no two threads have at the same time.
#[derive(Debug)]
pub(crate) struct Bias {
    /// Who enters by `held`. Becomes [`NOBODY`] behind a revocation, which spares the owner its look.
    owner: AtomicU64,
    /// Whether the owner is inside, or about to find out that it may not be. Written by the owner.
    held: AtomicBool,
    /// Written once, under the lock.
    revoked: AtomicBool,
    lock: Mutex<()>,
    heavy_fence: fn() -> bool,
}

impl Bias {
    /// In favour of the thread of this name, or of [`NOBODY`]. The fence is a full one here and
    /// on the processor that runs the owner, and says whether it took place.
    pub(crate) fn new(owner: u64, heavy_fence: fn() -> bool) -> Self {
        Self {
            owner: AtomicU64::new(owner),
            held: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            lock: Mutex::new(()),
            heavy_fence,
        }
    }

    /// Waits until nobody is inside, and enters. `thread` is the calling thread's name.
    ///
    /// # Panics
    /// If the owner is inside already.
    #[inline(always)]
    pub(crate) fn enter(&self, thread: u64) -> Entry<'_> {
        let by_bias = self.owner.load(Relaxed) == thread && self.try_hold();
        Entry {
            bias: self,
            lock: (!by_bias).then(|| self.enter_by_lock()),
        }
    }

    /// Enters as the owner, unless the bias is revoked.
    #[inline(always)]
    fn try_hold(&self) -> bool {
        // The owner's own store, or that of a thread which had its name before.
        // SYNC: bias-held, who enters next
        assert!(
            !self.held.load(Acquire),
            "a thread waits for what it holds itself"
        );
        self.held.store(true, Relaxed);
        // SYNC: bias-revoke, the owner's end
        compiler_fence();
        if !self.revoked.load(Relaxed) {
            return true;
        }
        // SYNC: bias-held, who leaves
        self.held.store(false, Release);
        false
    }

    #[inline]
    fn enter_by_lock(&self) -> MutexGuard<'_, ()> {
        let lock = crate::sync::lock(&self.lock);
        if self.owner.load(Relaxed) != NOBODY {
            self.revoke();
        }
        lock
    }

    /// To be called by who has the lock.
    #[cold]
    fn revoke(&self) {
        self.revoked.store(true, Relaxed);
        // SYNC: bias-revoke, the other end
        if !(self.heavy_fence)() {
            // A filter of system calls that was set up later. The store above is everywhere, and the owner's
            // in sight, long before this is over; only nobody guarantees it in writing.
            rest();
        }
        // SYNC: bias-held, who enters next
        while self.held.load(Acquire) {
            rest();
        }
        self.owner.store(NOBODY, Relaxed);
    }
}

/// Being inside. To be dropped by the thread that entered.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    bias: &'a Bias,
    /// Unless it is the owner, and by the bias. Not to be sent to another thread, which a lock's guard
    /// is not either.
    lock: Option<MutexGuard<'a, ()>>,
}

impl Drop for Entry<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.lock.is_none() {
            // SYNC: bias-held, who leaves
            self.bias.held.store(false, Release);
        }
    }
}
