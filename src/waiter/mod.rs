//! Waiting: spin while that pays, then sleep in the kernel, and be woken only when asleep.
//!
//! # The parked word
//! Each side of a connection has two words that only it writes: *data-parked* and *space-parked*.
//! A word is a counter with two flags in its lowest bits. *Parked* means "I sleep, or am about to,
//! until there is data (space)". The other side looks at it after it has published something and
//! rings the sleeper's doorbell if it is parked and not the value for which it rang last. So a sleep
//! costs at most one ring, however much is published before the sleeper is back, and an awake peer
//! costs none. The other flag, *asks*, is about fences (below).
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
//! # Who sleeps often asks for fences
//! A heavy fence interrupts the other processor if it is running the peer: 10 µs where a fence of
//! the producer's own is some nanoseconds (docs: tuning). Right for who sleeps once in a thousand
//! messages, wrong for who sleeps for each. So a side that sleeps often sets *asks* in its word. The
//! producer, which looks at that word after each publish anyhow, then fences between the two, looks
//! again, and *grants*: it stores the value that it saw in its own *fenced* word. A sleeper that
//! finds there a value no older than its asking fences for itself only.
//!
//! ```text
//!   word, by the sleeper   0 .. asks at v .............. asks no more at w ...
//!   fenced, by the peer    0 ......... any value from v to w ...
//! ```
//!
//! Invariant: if `fenced >= v` and *asks* has been set in every value since `v`, every publish that
//! the sleeper does not see already is followed by a fence. For the peer has loaded a value of `v` or
//! later behind a fence; what it published before that is seen by who has seen the grant (Acquire,
//! Release); what it publishes later, it looks at the word after, and that look finds *asks*, because
//! a word's values are never seen going backwards, and fences. A sleeper that has asked no more and
//! asks again takes a new `v`, to which no old grant is good.
//!
//! The doorbell itself remembers a ring (its watch keeps the edge), so a ring between the last
//! look and the sleep is not lost either.

#[cfg(not(loom))]
mod crowd;
#[cfg(all(test, loom))]
mod models;
#[cfg(not(loom))]
mod spin;

#[cfg(not(loom))]
pub(crate) use crowd::{Crowd, Member};
#[cfg(not(loom))]
pub(crate) use spin::Spinner;
#[cfg(all(feature = "tokio", not(loom)))]
pub(crate) use spin::{Looker, Slice};

use crate::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
#[cfg(loom)]
use crate::sync::processors::heavy_fence;
use crate::sync::{AtomicU64, compiler_fence, fence};
#[cfg(not(loom))]
use crate::sys::heavy_fence;

/// In a parked word: the owner sleeps, or is about to.
const PARKED: u64 = 1;

/// In a parked word: the owner asks the other side to fence after each publish.
const ASKS: u64 = 2;

/// From one value of a parked word's counter to the next.
const STEP: u64 = 4;

/// Who found something at most so many times since the last sleep sleeps often.
const OFTEN: u32 = 8;

/// Who found something so many times since the last sleep does not.
const SELDOM: u32 = if cfg!(loom) { 1 } else { 256 };

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
    /// What the word holds.
    value: u64,
    fences: Fences,
    /// Whether to ask the other side for fences while this one sleeps often.
    may_ask: bool,
    /// The value at which that was asked last. Valid while `value` has [`ASKS`].
    asked: u64,
    /// How often something was found since the last sleep.
    found: u32,
}

impl Parking {
    pub(crate) fn new(fences: Fences) -> Self {
        Self {
            value: 0,
            fences,
            may_ask: false,
            asked: 0,
            found: 0,
        }
    }

    /// One that asks the other side for fences while this one sleeps often. Its owner says when it
    /// does not: [`found`](Self::found).
    pub(crate) fn asking(fences: Fences) -> Self {
        Self {
            may_ask: fences == Fences::Asymmetric,
            ..Self::new(fences)
        }
    }

    /// Announces a sleep. The caller must look at the ring again before it sleeps. False: the
    /// announcement may go unseen, sleep only for a moment. `fenced` is the other side's word.
    #[must_use]
    pub(crate) fn arm(&mut self, word: &AtomicU64, fenced: &AtomicU64) -> bool {
        self.announce(word, fenced).sleeper()
    }

    /// As [`arm`](Self::arm), without the fence, and says which it must be: who sleeps on many words
    /// announces all of them, and then one [`Fences::sleeper`] of each kind serves for all.
    #[must_use]
    pub(crate) fn announce(&mut self, word: &AtomicU64, fenced: &AtomicU64) -> Fences {
        debug_assert!(!self.is_parked(), "armed twice");
        let mut value = ((self.value & !PARKED) + STEP) | PARKED;
        if self.may_ask {
            if value & ASKS == 0 && self.found <= OFTEN {
                value |= ASKS;
                self.asked = value;
            }
            self.found = 0;
        }
        self.set(word, value);
        // SYNC: fence-grant
        if value & ASKS != 0 && fenced.load(Acquire) >= self.asked {
            return Fences::Symmetric;
        }
        self.fences
    }

    /// Takes the announcement back. Nothing if there is none.
    pub(crate) fn disarm(&mut self, word: &AtomicU64) {
        if self.is_parked() {
            self.set(word, (self.value & !PARKED) + STEP);
        }
    }

    /// Notes that what this side waits for was there without a sleep.
    #[inline(always)]
    pub(crate) fn found(&mut self, word: &AtomicU64) {
        self.found = self.found.saturating_add(1);
        if self.found >= SELDOM && self.value & (ASKS | PARKED) == ASKS {
            self.ask_no_more(word);
        }
    }

    #[cold]
    fn ask_no_more(&mut self, word: &AtomicU64) {
        self.set(word, (self.value & !ASKS) + STEP);
    }

    fn is_parked(&self) -> bool {
        self.value & PARKED != 0
    }

    fn set(&mut self, word: &AtomicU64, value: u64) {
        self.value = value;
        word.store(value, Relaxed);
    }
}

/// The waker's side of one parked word.
#[derive(Debug)]
pub(crate) struct Waking {
    /// The value for which the bell was rung last; not parked if never.
    rung: u64,
    /// The value for which fences were granted last.
    granted: u64,
    fences: Fences,
}

impl Waking {
    pub(crate) fn new(fences: Fences) -> Self {
        Self {
            rung: 0,
            granted: 0,
            fences,
        }
    }

    /// Whether the peer must be woken, now that something was published. Says so once per sleep.
    /// `fenced` is this side's word.
    #[inline(always)]
    pub(crate) fn is_due(&mut self, word: &AtomicU64, fenced: &AtomicU64) -> bool {
        self.fences.waker();
        let seen = word.load(Relaxed);
        seen & (PARKED | ASKS) != 0 && self.is_rung(seen, word, fenced)
    }

    #[cold]
    fn is_rung(&mut self, mut seen: u64, word: &AtomicU64, fenced: &AtomicU64) -> bool {
        if seen & ASKS != 0 {
            // SYNC: park-publish, the end of a waker that was asked
            fence(SeqCst);
            seen = word.load(Relaxed);
            if seen & ASKS != 0 && seen != self.granted {
                self.granted = seen;
                // SYNC: fence-grant
                fenced.store(seen, Release);
            }
        }
        if seen & PARKED == 0 || seen == self.rung {
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
        let (word, fenced) = (AtomicU64::new(0), AtomicU64::new(0));
        for parking in [Parking::new, Parking::asking] {
            let mut parking = parking(Fences::Symmetric);
            let mut waking = Waking::new(Fences::Symmetric);
            for _ in 0..3 {
                assert!(!waking.is_due(&word, &fenced));
                assert!(!parking.is_parked());
                assert!(parking.arm(&word, &fenced));
                assert!(parking.is_parked());
                assert!(waking.is_due(&word, &fenced));
                assert!(!waking.is_due(&word, &fenced));
                parking.disarm(&word);
                parking.disarm(&word);
            }
            // Announced and taken back while nobody looked.
            assert!(parking.arm(&word, &fenced));
            parking.disarm(&word);
            assert!(!waking.is_due(&word, &fenced));
            assert_eq!(fenced.load(Relaxed), 0, "nothing was asked");
        }
    }

    #[test]
    fn who_sleeps_often_is_granted_fences_and_who_does_not_gives_them_back() {
        let (word, fenced) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut parking = Parking::asking(Fences::Asymmetric);
        let mut waking = Waking::new(Fences::Asymmetric);
        for _ in 0..3 {
            // Nothing was granted yet, or for another asking.
            let fences = parking.announce(&word, &fenced);
            assert_eq!(fences, Fences::Asymmetric);
            parking.disarm(&word);
            for _ in 0..3 {
                parking.found(&word);
                assert!(!waking.is_due(&word, &fenced));
                assert_eq!(parking.announce(&word, &fenced), Fences::Symmetric);
                assert!(waking.is_due(&word, &fenced));
                assert!(!waking.is_due(&word, &fenced));
                parking.disarm(&word);
            }
            let asking = word.load(Relaxed);
            (0..2 * SELDOM).for_each(|_| parking.found(&word));
            assert_eq!((asking & ASKS, word.load(Relaxed) & ASKS), (ASKS, 0));
            assert!(!waking.is_due(&word, &fenced));
            // The first sleep after long is a rare one.
            assert_eq!(parking.announce(&word, &fenced), Fences::Asymmetric);
            assert_eq!(word.load(Relaxed) & ASKS, 0);
            parking.disarm(&word);
        }
    }

    #[cfg(feature = "spsc_transport")]
    #[test]
    fn a_heavy_fence_is_had_where_the_system_offers_it() {
        let (word, fenced) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut parking = Parking::new(Fences::Asymmetric);
        let offered = crate::sys::register_for_heavy_fences();
        assert!(parking.arm(&word, &fenced) || !offered);
        // Announced in any case: a sleep of a moment may still be cut short.
        assert!(Waking::new(Fences::Asymmetric).is_due(&word, &fenced));
    }
}
