//! Waiting: spin while that pays, then sleep in the kernel, and be woken only when asleep.
//!
//! # The parked word
//! Each side of a connection has two words that only it writes: *data-parked* and *space-parked*.
//! A word is a counter; odd means "I sleep, or am about to, until there is data (space)". The other
//! side looks at it after it has published something and rings the sleeper's doorbell if it is odd
//! and not the value for which it rang last. So a sleep costs at most one ring, however much is
//! published before the sleeper is back, and an awake peer costs none.
//!
//! # The race, and why no wake-up is lost
//! The sleeper writes its word and then looks at the ring once more; the producer writes the ring
//! and then looks at the word. If both looks could miss both writes, the sleeper would sleep with
//! data in the ring. That is the store-buffering pattern; Release and Acquire do not forbid it, a
//! full fence between write and look on BOTH sides does: one of the two fences comes first, and
//! the look behind the other one sees the write before it.
//!
//! ```text
//! sleeper                                   producer
//!   parked = odd                              publish record
//!   fence         SYNC: park-publish          fence         SYNC: park-publish
//!   ring still empty?  -> sleep               parked odd?  -> ring the doorbell
//! ```
//!
//! A fence per publish costs more than the publish. Where the system offers it, both processes
//! register for the other's *heavy fence* ([`crate::sys::heavy_fence`]: Linux `membarrier`, global
//! expedited): the sleeper's fence then acts on the producer's processor as well, and the producer
//! only has to keep the compiler from swapping its two accesses. Sleeping gets a little dearer,
//! publishing free. Whether it is so is agreed in the handshake; a peer that lies about it loses
//! only its own connection's wake-ups.
//!
//! The doorbell itself remembers a ring (an eventfd keeps its edge), so a ring between the last
//! look and the sleep is not lost either.

#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
mod spin;

#[cfg(not(loom))]
pub(crate) use spin::Spinner;
#[cfg(all(feature = "tokio", not(loom)))]
pub(crate) use spin::{Looker, Slice};

#[cfg(loom)]
use crate::sync::processors::heavy_fence;
use crate::sync::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, compiler_fence, fence};
#[cfg(not(loom))]
use crate::sys::heavy_fence;

/// Which fences the two sides of a connection agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fences {
    /// Each side fences for itself.
    Symmetric,
    /// The sleeper fences for both.
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    Asymmetric,
}

impl Fences {
    /// The sleeper's fence. False if it could not be done, which after a successful registration
    /// only a system-call filter can cause; the caller then must not sleep for long.
    #[must_use]
    pub(crate) fn sleeper(self) -> bool {
        // SYNC: park-publish, the sleeper's end
        match self {
            Fences::Symmetric => {
                fence(SeqCst);
                true
            }
            Fences::Asymmetric => heavy_fence(),
        }
    }

    /// The producer's fence.
    #[inline(always)]
    fn waker(self) {
        // SYNC: park-publish, the waker's end
        match self {
            Fences::Symmetric => fence(SeqCst),
            Fences::Asymmetric => compiler_fence(),
        }
    }
}

/// The sleeper's side of one parked word.
#[derive(Debug)]
pub(crate) struct Parking {
    /// What the word holds: odd while parked.
    count: u64,
    fences: Fences,
}

impl Parking {
    pub(crate) fn new(fences: Fences) -> Self {
        Self { count: 0, fences }
    }

    /// Announces a sleep. The caller must look at the ring again before it sleeps. False: the
    /// announcement may go unseen, sleep only for a moment.
    #[must_use]
    pub(crate) fn arm(&mut self, word: &AtomicU64) -> bool {
        self.announce(word);
        self.fences.sleeper()
    }

    /// As [`arm`](Self::arm), without the fence: who sleeps on many words announces all of them,
    /// and then one [`Fences::sleeper`] of each kind serves for all.
    pub(crate) fn announce(&mut self, word: &AtomicU64) {
        debug_assert!(self.count & 1 == 0, "armed twice");
        self.count += 1;
        word.store(self.count, Relaxed);
    }

    /// Takes the announcement back. Nothing if there is none.
    pub(crate) fn disarm(&mut self, word: &AtomicU64) {
        if self.count & 1 == 1 {
            self.count += 1;
            word.store(self.count, Relaxed);
        }
    }
}

/// The waker's side of one parked word.
#[derive(Debug)]
pub(crate) struct Waking {
    /// The value for which the bell was rung last; even if never.
    rung: u64,
    fences: Fences,
}

impl Waking {
    pub(crate) fn new(fences: Fences) -> Self {
        Self { rung: 0, fences }
    }

    /// Whether the peer must be woken, now that something was published. Says so once per sleep.
    #[inline(always)]
    pub(crate) fn is_due(&mut self, word: &AtomicU64) -> bool {
        self.fences.waker();
        let seen = word.load(Relaxed);
        if seen & 1 == 0 || seen == self.rung {
            return false;
        }
        self.rung = seen;
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_is_rung_for_once_and_an_awake_peer_never() {
        let word = AtomicU64::new(0);
        let mut parking = Parking::new(Fences::Symmetric);
        let mut waking = Waking::new(Fences::Symmetric);
        for _ in 0..3 {
            assert!(!waking.is_due(&word));
            assert_eq!(parking.count & 1, 0);
            assert!(parking.arm(&word));
            assert_eq!(parking.count & 1, 1);
            assert!(waking.is_due(&word));
            assert!(!waking.is_due(&word));
            parking.disarm(&word);
            parking.disarm(&word);
        }
        // Announced and taken back while nobody looked.
        assert!(parking.arm(&word));
        parking.disarm(&word);
        assert!(!waking.is_due(&word));
    }

    #[cfg(feature = "spsc_transport")]
    #[test]
    fn a_heavy_fence_is_had_where_the_system_offers_it() {
        let word = AtomicU64::new(0);
        let mut parking = Parking::new(Fences::Asymmetric);
        let offered = crate::sys::register_for_heavy_fences();
        assert!(parking.arm(&word) || !offered);
        // Announced in any case: a sleep of a moment may still be cut short.
        assert!(Waking::new(Fences::Asymmetric).is_due(&word));
    }
}
