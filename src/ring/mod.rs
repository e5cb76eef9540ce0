//! A lock-free ring of byte records between one producer and one consumer, in memory that they
//! share and that only the producer may write.
//!
//! # States
//! A ring is a power-of-two number of bytes. Records follow one another, each aligned to eight
//! bytes: a first word, then the body, padded. The first word is the record's *commit word*:
//!
//! ```text
//! bits 0..=29   length of the body in bytes
//! bit  30       FILLER: no record; skip to the end of the ring (or, tagged CLOSE, the end)
//! bit  31       COMMITTED: always set, so that no commit word is zero
//! bits 32..=63  tag, for the layer above (see `proto::frame`)
//! ```
//!
//! The word at the consumer's position is in one of three states: zero (nothing there yet),
//! committed (a record or a filler), closed (nothing will come any more). Positions are monotonic
//! byte counts, `u64`; an offset is a position masked by the capacity.
//!
//! # Invariants
//! 1. The word behind the last published record is zero, or says CLOSE. The producer writes it
//!    before it publishes, so a consumer that walks from word to word never runs into the bytes of
//!    an earlier lap.
//! 2. The producer therefore always leaves one free word: `tail + 8 - head <= capacity`. Closing
//!    needs no space beyond it and always succeeds.
//! 3. Everything of a batch but its first commit word is written before that word, and that word
//!    is stored with Release. The consumer loads it with Acquire; the rest of the batch is
//!    reachable only through it. So a batch is published by ONE store, and neither side needs the
//!    other's tail.
//! 4. The producer reuses bytes only up to the consumer's head, which the consumer stores with
//!    Release after its last read of them.
//! 5. A record never wraps: what does not fit before the end goes to the start, behind a filler.
//!    A body is at most half the ring less one word, so that a filler and a record always fit
//!    into an empty ring. A filler may come earlier than it must, but never begins the ring.
//!
//! # Hot bytes
//! Small records keep to the first `HOT` bytes of a larger ring: where the next one would leave
//! them, the producer puts a filler over all the rest and goes back to the start, if the consumer
//! has left half of the hot bytes behind by then. If it has not, the ring is used on, and the
//! question is asked again a quarter of the hot bytes later. So a ring of any size costs as much
//! cache and resident memory as is really in flight, and what is in flight stays in the innermost
//! cache of both sides. Nothing else knows of it: to space and positions it is a filler like any.
//!
//! # Why a commit word and not a tail cursor
//! With a tail cursor a small message costs two transfers of cache lines between cores, the
//! cursor's and the record's; here the word that says that there is something lies in the line
//! that the consumer wants anyway. The head travels rarely: the producer looks at it only when
//! the space that it knows of is used up, and the consumer publishes it per quarter of the ring
//! or when it finds the ring empty. `docs/IPC_PERFORMANCE_TUNING.md` has the measurements.
//!
//! # Against a hostile peer
//! A consumer loads each commit word once and checks it before use; the capacity is its own copy.
//! A producer checks each head that it loads. What fails is a [`RingError`], and the connection
//! is closed with it. The peer can spoil only the bytes that it sends anyway.

use crate::layout::{MAX_CAPACITY, WORD};

mod consumer;
mod memory;
#[cfg(all(test, loom))]
pub(crate) mod models;
mod producer;
// Over real segments.
#[cfg(all(test, not(loom), feature = "spsc_transport"))]
mod tests;

pub use consumer::{Consumer, RECORDS_PER_DRAIN, Ready, Record};
#[cfg(all(test, any(loom, feature = "spsc_transport")))]
pub(crate) use memory::heap::HeapSegment;
pub use memory::{Cursors, InPlace, Sink, Source};
pub use producer::{Producer, Reservation};

/// Bits of a commit word that hold the body's length.
pub(crate) const LEN_MASK: u64 = (1 << 30) - 1;
/// Marks what is no record.
pub(crate) const FILLER: u64 = 1 << 30;
/// Set in every commit word.
pub(crate) const COMMITTED: u64 = 1 << 31;
/// How far a commit word's tag is shifted.
pub(crate) const TAG_SHIFT: u32 = 32;
/// A filler with this tag and no length ends the ring.
pub(crate) const CLOSE: u64 = COMMITTED | FILLER | (1 << TAG_SHIFT);

/// Bytes of a cache line. Prefetches step by it; a wrong guess costs speed only.
const LINE: usize = 64;

/// Bytes at a ring's start that small records keep to as long as the consumer keeps up: they fit
/// into every first-level cache together with what else a caller needs (docs: tuning).
pub(crate) const HOT: usize = 16 << 10;

/// The bytes of a ring of `capacity` bytes that small records keep to. A ring that is not at least
/// twice as long as `HOT` is used as a whole.
const fn hot_bytes(capacity: usize) -> usize {
    if capacity >= 2 * HOT { HOT } else { capacity }
}

/// Panics unless a ring can have `capacity` bytes. The upper bound keeps every length within
/// [`LEN_MASK`].
fn check_capacity(capacity: usize) {
    assert!(
        capacity.is_power_of_two() && (4 * WORD..=MAX_CAPACITY).contains(&capacity),
        "capacity {capacity}"
    );
}

/// What is wrong with a ring. Only a peer that breaks the protocol can cause it; the connection is
/// then of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A commit word that no honest producer writes.
    #[error("the peer wrote an impossible commit word {word:#018x} at ring position {position}")]
    BadCommitWord {
        /// The word as loaded.
        word: u64,
        /// The consumer's position in bytes.
        position: u64,
    },
    /// A head behind one seen before, or beyond what was produced, or inside a word.
    #[error("the peer wrote an impossible head {head}: it was {last}, and {tail} was produced")]
    BadHead {
        /// The head as loaded.
        head: u64,
        /// The head as it was loaded last.
        last: u64,
        /// The producer's own position.
        tail: u64,
    },
}

/// Why a record could not be put into a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// No space now. Publish what is staged, wait for the consumer, try again.
    #[error("the ring is full")]
    Full,
    /// The body is longer than this ring can ever take.
    #[error("a record of {len} bytes does not fit: this ring takes at most {max}")]
    TooLong {
        /// The body's length in bytes.
        len: usize,
        /// The longest body that this ring takes, in bytes.
        max: usize,
    },
    /// This side has closed the ring.
    #[error("the ring was closed by this side")]
    Closed,
    /// The peer broke the protocol.
    #[error(transparent)]
    Broken(#[from] RingError),
}
