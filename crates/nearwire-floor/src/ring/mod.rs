//! The barest ring of byte records that is worth the name: copy in, copy out.
//!
//! A record is an 8-byte header and the payload, padded to 8 bytes. It never wraps: a quarter of the
//! capacity lies spare behind the physical end, so a record that starts before the end is written
//! straight on, and the next one starts where its successor would if it had wrapped. Both schemes
//! keep a private copy of the other side's cursor, and the consumer gives space back a quarter of
//! the ring at a time:
//!
//! - [`tail`]: the producer publishes a cursor, once per record or once per batch;
//! - [`commit`]: the record's own header is its publication, stored last.
//!
//! Memory: the tail's line, the head's line, then the data and the spare quarter.

pub mod commit;
pub mod tail;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{Circle, LINE, Word};
use crate::{Arena, Descriptors, take};

/// Bytes of a record's header.
const HEADER: usize = 8;

/// Pauses before an empty ring is looked at again, if that was seen to let records gather: looking at
/// once would take the line from the producer while it is still filling it.
const EMPTY_PAUSES: u32 = 32;

/// Records taken in a row that count as streaming.
const STREAMING: u32 = 16;

/// Records that must have gathered for a pause to have paid.
const GATHERED: u32 = 8;

/// After so many pauses in a row that did not pay, one in `1 << MAX_MISSES` empty looks still pauses.
const MAX_MISSES: u32 = 10;

/// While records stream the consumer asks for the line this many bytes ahead of its head: where a
/// record begins is known only once the one before it has arrived.
const PREFETCH_TO_READ: u64 = 512;

/// The producer asks for the line this many bytes ahead of its tail: the consumer's core owns it, and
/// stores retire in order, so a store that waits for its line holds up all behind it.
const PREFETCH: u64 = 1024;

/// Looks at a full ring are this many pauses apart.
const FULL_PAUSES: u32 = 8;

/// The sending end of a ring.
pub trait Producer: Sized {
    /// The producer of the ring in `memory`.
    fn new(memory: &RingMemory) -> Self;

    /// Copies one record in and publishes it. Spins while the ring is full.
    ///
    /// # Panics
    /// If the payload is longer than [`longest_payload`] for the ring's capacity.
    fn push(&mut self, payload: &[u8]);

    /// Copies records in and publishes them once (more often only when the ring fills up).
    ///
    /// # Panics
    /// As [`push`](Self::push).
    fn push_batch<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>);
}

/// The receiving end of a ring.
pub trait Consumer: Sized {
    /// The consumer of the ring in `memory`.
    fn new(memory: &RingMemory) -> Self;

    /// Copies the next record out and returns its length. Spins while the ring is empty.
    ///
    /// # Panics
    /// If `into` is shorter than the record.
    fn pop(&mut self, into: &mut [u8]) -> usize;
}

/// A publishing scheme: its two ends.
pub trait Scheme {
    /// The sending end.
    type Producer: Producer;
    /// The receiving end.
    type Consumer: Consumer;
}

/// Memory of one ring, from which each process makes its end.
pub struct RingMemory {
    arena: Arc<Arena>,
}

impl RingMemory {
    /// Memory for a ring of `capacity` bytes, a power of two.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    ///
    /// # Panics
    /// If `capacity` is not a power of two of 128 bytes or more.
    pub fn create(capacity: usize) -> io::Result<(Self, Descriptors)> {
        assert!(
            capacity.is_power_of_two() && capacity >= LINE,
            "a power of two from {LINE}"
        );
        let arena = Arena::create(2 * LINE + capacity + capacity / 4)?;
        let descriptors = vec![arena.descriptor()?];
        Ok((Self { arena }, descriptors))
    }

    /// The same memory in the other process.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    pub fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("a ring", descriptors)?;
        Ok(Self {
            arena: Arena::open(memory)?,
        })
    }

    fn tail(&self) -> Word<AtomicU64> {
        self.arena.word(0)
    }

    fn head(&self) -> Word<AtomicU64> {
        self.arena.word(LINE)
    }

    fn capacity(&self) -> usize {
        (self.arena.length() - 2 * LINE) / 5 * 4
    }

    fn data(&self) -> Circle {
        let longest = longest_payload(self.capacity());
        self.arena.circle(2 * LINE, self.capacity(), longest)
    }
}

/// One end of a pair of rings: sends on one, receives on the other.
pub struct Exchange<S: Scheme> {
    producer: S::Producer,
    consumer: S::Consumer,
}

impl<S: Scheme> Exchange<S> {
    /// The near side, over two rings of `capacity` bytes each, and what the far side needs.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    ///
    /// # Panics
    /// If `capacity` is not a power of two of 128 bytes or more.
    pub fn create(capacity: usize) -> io::Result<(Self, Descriptors)> {
        let (there, mut descriptors) = RingMemory::create(capacity)?;
        let (back, more) = RingMemory::create(capacity)?;
        descriptors.extend(more);
        let near = Self {
            producer: S::Producer::new(&there),
            consumer: S::Consumer::new(&back),
        };
        Ok((near, descriptors))
    }

    /// The far side.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    pub fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [there, back] = take("an exchange", descriptors)?;
        let there = RingMemory::open(vec![there])?;
        let back = RingMemory::open(vec![back])?;
        Ok(Self {
            producer: S::Producer::new(&back),
            consumer: S::Consumer::new(&there),
        })
    }

    /// Sends `payload`, spins for the echo, copies it to `reply` and returns its length.
    ///
    /// # Panics
    /// If `payload` is empty (which would stop the far side), too long for the ring, or longer than
    /// `reply`.
    #[inline]
    pub fn round_trip(&mut self, payload: &[u8], reply: &mut [u8]) -> usize {
        assert!(!payload.is_empty(), "an empty record stops the far side");
        self.producer.push(payload);
        self.consumer.pop(reply)
    }

    /// Ends the far side's [`answer`](Self::answer).
    pub fn stop(mut self) {
        self.producer.push(&[]);
    }

    /// The far side: echoes records of up to `longest` bytes, spinning, until the near side stops.
    /// Returns their number.
    pub fn answer(mut self, longest: usize) -> u64 {
        let mut buffer = vec![0; longest];
        let mut echoed = 0;
        loop {
            let length = self.consumer.pop(&mut buffer);
            if length == 0 {
                return echoed;
            }
            self.producer.push(&buffer[..length]);
            echoed += 1;
        }
    }
}

/// The longest payload, in bytes, that a ring of `capacity` bytes takes: with its header a quarter of
/// the ring.
#[must_use]
pub const fn longest_payload(capacity: usize) -> usize {
    capacity / 4 - HEADER
}

/// Bytes that a record of `payload` bytes takes.
#[inline]
fn record_bytes(payload: usize) -> u64 {
    (HEADER + payload + 7) as u64 & !7
}

/// The producer's view of free space: a stale copy of the head.
struct Space {
    head: Word<AtomicU64>,
    /// Never ahead of the consumer's published head, and at most a capacity behind the tail.
    cached_head: u64,
    capacity: u64,
}

impl Space {
    fn new(memory: &RingMemory) -> Self {
        let capacity = memory.capacity() as u64;
        Self {
            head: memory.head(),
            cached_head: 0,
            capacity,
        }
    }

    /// Whether the ring can hold everything up to position `end`, as far as is known.
    #[inline]
    fn holds(&self, end: u64) -> bool {
        end - self.cached_head <= self.capacity
    }

    /// Spins until the ring can hold everything up to position `end`.
    #[cold]
    fn wait(&mut self, end: u64) {
        loop {
            // SYNC: head
            self.cached_head = self.head.load(Ordering::Acquire);
            if self.holds(end) {
                return;
            }
            pause(FULL_PAUSES);
        }
    }
}

/// The consumer's position and how it gives space back.
struct Taking {
    head: u64,
    /// What the producer knows: at most a quarter of the ring behind `head`.
    published: u64,
    quarter: u64,
    word: Word<AtomicU64>,
    /// Records taken since the ring was last found empty.
    streak: u32,
    /// The ring was given time when it was last found empty.
    gathered: bool,
    /// Empty looks before the next pause.
    skip: u32,
    /// Pauses in a row that did not pay.
    misses: u32,
}

impl Taking {
    fn new(memory: &RingMemory) -> Self {
        let quarter = memory.capacity() as u64 / 4;
        Self {
            head: 0,
            published: 0,
            quarter,
            word: memory.head(),
            streak: 0,
            gathered: false,
            skip: 0,
            misses: 0,
        }
    }

    /// Moves past a record of `bytes`, publishing the head if a quarter of the ring has been taken.
    #[inline]
    fn advance(&mut self, bytes: u64) {
        self.head += bytes;
        self.streak += 1;
        if self.head - self.published >= self.quarter {
            self.publish();
        }
    }

    #[inline]
    fn publish(&mut self) {
        self.published = self.head;
        // SYNC: head
        self.word.store(self.head, Ordering::Release);
    }

    /// The ring is empty: give all space back and, where that was seen to pay, let records gather.
    #[inline]
    fn found_empty(&mut self) {
        if self.published != self.head {
            self.publish();
        }
        if self.skip > 0 {
            self.skip -= 1;
        } else {
            self.gather();
        }
        self.streak = 0;
    }

    #[cold]
    fn gather(&mut self) {
        if self.gathered && self.streak < GATHERED {
            self.gathered = false;
            self.misses = (self.misses + 1).min(MAX_MISSES);
            self.skip = (1 << self.misses) - 1;
            return;
        }
        if self.streak >= GATHERED {
            self.misses = 0;
        }
        self.gathered = true;
        pause(EMPTY_PAUSES);
    }

    /// Asks for what comes next, while records stream.
    #[inline]
    fn prefetch(&self, data: &Circle, bytes: u64) {
        if self.streaming() {
            data.prefetch_to_read(self.head + PREFETCH_TO_READ);
            if bytes > 64 {
                data.prefetch_to_read(self.head + PREFETCH_TO_READ + 64);
            }
        }
    }

    #[inline]
    fn streaming(&self) -> bool {
        self.streak >= STREAMING
    }
}

fn pause(times: u32) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}
