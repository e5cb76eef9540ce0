//! Where what lies in the counters page. All words are `u64`, native endian: only processes of one
//! machine read them.
//!
//! ```text
//! 0x000   header (256 bytes): what the page is, who writes it, where the rest lies
//! 0x100   a block per worker, in its own lines: counters, gauges, three histograms
//!         a slot of 256 bytes per connection, up to the limit; not touched, not resident
//! ```
//!
//! Every word has one writer: the worker, or whoever takes a connection on and gives it up. A reader
//! sees each word whole, but words of different moments beside each other.

use super::histogram;
use super::names::{Counter, Distribution, Gauge, exported};
use crate::layout::WORD;

/// First word of a counters page: the bytes `NEARSTAT`.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"NEARSTAT");

/// Words of the header.
pub(super) mod header {
    pub(in crate::metrics) const MAGIC: usize = 0;
    /// What the words mean: a hash of all names and places. Readers of another build refuse.
    pub(in crate::metrics) const LAYOUT: usize = 1;
    pub(in crate::metrics) const PID: usize = 2;
    /// Nanoseconds since the Unix epoch.
    pub(in crate::metrics) const STARTED: usize = 3;
    /// One call in so many is sampled.
    pub(in crate::metrics) const SAMPLING: usize = 4;
    /// 0 serving, 1 shutting down.
    pub(in crate::metrics) const DRAINING: usize = 5;
    pub(in crate::metrics) const WORKERS: usize = 6;
    pub(in crate::metrics) const WORKERS_AT: usize = 7;
    pub(in crate::metrics) const WORKER_LEN: usize = 8;
    pub(in crate::metrics) const SLOTS: usize = 9;
    pub(in crate::metrics) const SLOTS_AT: usize = 10;
    pub(in crate::metrics) const SLOT_LEN: usize = 11;
    /// Slots that were ever used: readers need look no further.
    pub(in crate::metrics) const SLOTS_USED: usize = 12;
    /// `STARTED` by the clock that nobody sets.
    pub(in crate::metrics) const STARTED_MONOTONIC: usize = 13;
    /// The server's label, 64 bytes, filled up with zeros.
    pub(in crate::metrics) const LABEL: usize = 16;
    pub(in crate::metrics) const WORDS: usize = 32;
}

/// Words of a connection's slot. The first sixteen, two lines, are written from time to time; the
/// rest once.
pub(super) mod slot {
    /// The connection's number; 0 while the slot is free.
    pub(in crate::metrics) const ID: usize = 0;
    /// See [`State`](super::super::slots::State).
    pub(in crate::metrics) const STATE: usize = 1;
    pub(in crate::metrics) const MESSAGES_RECEIVED: usize = 2;
    pub(in crate::metrics) const MESSAGES_SENT: usize = 3;
    /// The server's position in the ring that it consumes.
    pub(in crate::metrics) const CONSUMED: usize = 4;
    /// As much of it as the client may know of: the head.
    pub(in crate::metrics) const HEAD: usize = 5;
    /// The client's tail mirror.
    pub(in crate::metrics) const PEER_TAIL: usize = 6;
    /// The server's position in the ring that it fills.
    pub(in crate::metrics) const PRODUCED: usize = 7;
    /// The client's head.
    pub(in crate::metrics) const PEER_HEAD: usize = 8;
    pub(in crate::metrics) const IN_FLIGHT: usize = 9;
    /// Answers that found no space, waiting.
    pub(in crate::metrics) const WAITING: usize = 10;
    /// Since when answers have waited without one leaving; 0 if none does. Nanoseconds since the
    /// server's start, as all times here.
    pub(in crate::metrics) const BLOCKED_SINCE: usize = 11;
    /// The parked words: server's for data and for space, client's for data and for space.
    pub(in crate::metrics) const PARKED: usize = 12;
    /// When something happened last.
    pub(in crate::metrics) const BUSY_AT: usize = 13;
    /// When these words were written.
    pub(in crate::metrics) const OBSERVED_AT: usize = 14;
    pub(in crate::metrics) const PID: usize = 16;
    pub(in crate::metrics) const SINCE: usize = 17;
    pub(in crate::metrics) const RING_IN: usize = 18;
    pub(in crate::metrics) const RING_OUT: usize = 19;
    pub(in crate::metrics) const FEATURES: usize = 20;
    pub(in crate::metrics) const WORKER: usize = 21;
    pub(in crate::metrics) const MAX_IN_FLIGHT: usize = 22;
    /// 1 if the server's ring lies in huge pages.
    pub(in crate::metrics) const HUGE_PAGES: usize = 23;
    /// The client's label, as in the header.
    pub(in crate::metrics) const LABEL: usize = 24;
    pub(in crate::metrics) const WORDS: usize = 32;
}

/// Words of a worker's counters and gauges.
pub(super) const COUNTER_WORDS: usize = (Counter::COUNT + Gauge::COUNT).next_multiple_of(16);
/// Words of a worker's block.
pub(super) const WORKER_WORDS: usize = COUNTER_WORDS + Distribution::COUNT * histogram::WORDS;

pub(super) const WORKERS_AT: usize = header::WORDS * WORD;
pub(super) const WORKER_LEN: usize = WORKER_WORDS * WORD;
pub(super) const SLOT_LEN: usize = slot::WORDS * WORD;

/// The most connections that have a slot; more are counted and not listed.
pub(super) const MAX_SLOTS: usize = 1 << 16;
/// The most workers that a reader believes in.
pub(super) const MAX_WORKERS: usize = 1 << 12;
/// The longest page that a reader maps, in bytes.
#[cfg(any(feature = "spsc_transport", test))]
pub(crate) const MAX_PAGE: usize = 64 << 20;

/// How much a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) workers: usize,
    pub(super) slots: usize,
}

impl Geometry {
    pub(super) fn worker_at(self, worker: usize) -> usize {
        WORKERS_AT + worker * WORKER_LEN
    }

    pub(super) fn slot_at(self, slot: usize) -> usize {
        self.worker_at(self.workers) + slot * SLOT_LEN
    }

    pub(super) fn len(self) -> usize {
        self.slot_at(self.slots)
    }

    /// The header's words about it.
    pub(super) fn words(self) -> [(usize, usize); 6] {
        [
            (header::WORKERS, self.workers),
            (header::WORKERS_AT, WORKERS_AT),
            (header::WORKER_LEN, WORKER_LEN),
            (header::SLOTS, self.slots),
            (header::SLOTS_AT, self.slot_at(0)),
            (header::SLOT_LEN, SLOT_LEN),
        ]
    }
}

/// Two builds agree on it if they agree on what every word means. FNV-1a over names and sizes, with a
/// revision for what they do not show.
pub(super) fn layout_hash() -> u64 {
    const REVISION: u64 = 2;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for number in [
        REVISION,
        header::WORDS as u64,
        COUNTER_WORDS as u64,
        histogram::WORDS as u64,
        slot::WORDS as u64,
    ] {
        add(&number.to_le_bytes());
    }
    for metric in exported() {
        add(metric.key().as_bytes());
        add(b"\n");
    }
    hash
}
