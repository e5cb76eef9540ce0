//! The producing end of a ring.

use super::{
    CLOSE, COMMITTED, Cursors, FILLER, InPlace, PushError, RingError, Sink, TAG_SHIFT,
    check_capacity, hot_bytes,
};
use crate::layout::{WORD, max_body, record_size};
use crate::sync::Ordering::{Acquire, Relaxed, Release};

/// How far ahead of the tail lines are fetched for writing, in bytes (docs: tuning).
const PREFETCH_AHEAD: u64 = 1024;

/// The one producer of a ring.
///
/// Records are *staged* and become visible together by [`publish`](Self::publish); nothing here
/// blocks or makes a system call, and nobody is woken: that is the layer above, which knows who
/// sleeps.
#[derive(Debug)]
pub struct Producer<S, P> {
    /// The ring's bytes, written only through this.
    sink: S,
    /// The consumer's words. Read only; its head is the only one used here.
    peer: P,
    /// Bytes in the ring, a power of two. This side's own copy.
    capacity: usize,
    /// Where the next record goes. Exact.
    tail: u64,
    /// End of what the consumer can see. Exact; `tail` if nothing is staged.
    published: u64,
    /// The commit word of the first staged record, held back until `publish`. Valid if
    /// `published != tail`.
    held_back: u64,
    /// The consumer's head as last loaded. May lag behind the real one, never runs ahead of it.
    cached_head: u64,
    /// A record that ends at or before this position fits without any further look: the nearest of
    /// the space known to be free, the end of this lap, and where to think about going back to the
    /// ring's start.
    limit: u64,
    /// Bytes at the ring's start that small records keep to; the capacity if there is no such part.
    hot: usize,
    /// Bytes of the tail that are fillers.
    skipped: u64,
    /// Whether CLOSE was written.
    closed: bool,
}

impl<S: Sink, P: Cursors> Producer<S, P> {
    /// A producer at the start of an empty, zeroed ring of `capacity` bytes.
    ///
    /// # Panics
    /// If `capacity` is not a power of two from 32 to [`MAX_CAPACITY`](crate::layout::MAX_CAPACITY).
    pub fn new(sink: S, peer: P, capacity: usize) -> Self {
        Self::with_hot_bytes(sink, peer, capacity, hot_bytes(capacity))
    }

    /// As [`new`](Self::new), with so many bytes for small records to keep to.
    pub(super) fn with_hot_bytes(sink: S, peer: P, capacity: usize, hot: usize) -> Self {
        check_capacity(capacity);
        let mut producer = Self {
            sink,
            peer,
            capacity,
            tail: 0,
            published: 0,
            held_back: 0,
            cached_head: 0,
            limit: 0,
            hot,
            skipped: 0,
            closed: false,
        };
        producer.set_limit();
        producer
    }

    /// Bytes in the ring.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The longest body of one record, in bytes.
    pub fn max_body(&self) -> usize {
        max_body(self.capacity)
    }

    /// End of what was staged so far, in bytes since the ring began.
    pub fn position(&self) -> u64 {
        self.tail
    }

    /// Bytes of the records staged so far: what [`position`](Self::position) says, without fillers.
    pub fn bytes(&self) -> u64 {
        self.tail - self.skipped
    }

    /// Whether something is staged that the consumer cannot see yet.
    #[inline(always)]
    pub fn has_staged(&self) -> bool {
        self.tail != self.published
    }

    #[inline(always)]
    fn offset(&self, position: u64) -> usize {
        position as usize & (self.capacity - 1)
    }

    /// Reserves space for a record with a body of `len` bytes, to be written in place.
    ///
    /// Dropping the reservation without a commit gives the space back.
    ///
    /// # Errors
    /// [`PushError::Full`] if there is no space at the moment, [`PushError::TooLong`] if there
    /// never will be, [`PushError::Closed`] after [`close`](Self::close), [`PushError::Broken`]
    /// if the peer wrote an impossible head.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_, S, P>, PushError> {
        // A length near usize::MAX would wrap in `record_size`; both paths check against the
        // longest body first.
        if len > self.max_body() || self.tail + record_size(len) as u64 > self.limit {
            self.make_room(len)?;
        }
        // The consumer's core owns the lines that it read a lap ago, and stores retire in order: one
        // that waits for its line holds up the commit word behind it. So they are asked for early.
        let ahead = self.tail + PREFETCH_AHEAD;
        self.sink.prefetch(self.offset(ahead));
        if len > 64 - WORD {
            self.sink.prefetch(self.offset(ahead + 64));
        }
        let body = self.offset(self.tail) + WORD;
        Ok(Reservation {
            producer: self,
            body,
            len,
        })
    }

    /// Stages one record.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline(always)]
    pub fn stage(&mut self, tag: u32, body: &[u8]) -> Result<(), PushError> {
        let mut reservation = self.reserve(body.len())?;
        reservation.write(0, body);
        reservation.commit(tag);
        Ok(())
    }

    /// Stages and publishes one record.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline(always)]
    pub fn push(&mut self, tag: u32, body: &[u8]) -> Result<(), PushError> {
        let mut reservation = self.reserve(body.len())?;
        reservation.write(0, body);
        reservation.publish(tag);
        Ok(())
    }

    /// Stages as many of `bodies` as fit and publishes them with one store. Returns how many.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), but a full ring is no error: the count says how far it got.
    /// What was staged before an error is published.
    pub fn push_batch<B: AsRef<[u8]>>(
        &mut self,
        tag: u32,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<usize, PushError> {
        let mut count = 0;
        let mut outcome = Ok(());
        for body in bodies {
            match self.stage(tag, body.as_ref()) {
                Ok(()) => count += 1,
                Err(PushError::Full) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.publish();
        outcome.map(|()| count)
    }

    /// Makes everything staged visible to the consumer. Returns whether there was anything.
    #[inline(always)]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        // Invariant 1: the word behind the batch ends it.
        self.sink.word(self.offset(self.tail)).store(0, Relaxed);
        // SYNC: commit-publish (invariant 3)
        self.sink
            .word(self.offset(self.published))
            .store(self.held_back, Release);
        self.published = self.tail;
        true
    }

    /// Publishes what is staged and ends the ring: the consumer sees [`Record`]s up to here and
    /// then the end. Needs no space and cannot fail. Does nothing when repeated.
    ///
    /// [`Record`]: super::Record
    pub fn close(&mut self) {
        if !self.closed {
            self.publish();
            // SYNC: commit-publish
            self.sink.word(self.offset(self.tail)).store(CLOSE, Release);
            self.closed = true;
            self.limit = 0;
        }
    }

    /// Whether a record with a body of `len` bytes fits right now. Looks at the consumer's head.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), except that "full" is `Ok(false)`.
    pub fn has_space(&mut self, len: usize) -> Result<bool, PushError> {
        match self.reserve(len) {
            Ok(_) => Ok(true),
            Err(PushError::Full) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Free bytes as known without a look at the consumer. At most what is really free.
    pub fn known_space(&self) -> usize {
        (self.cached_head + (self.capacity - WORD) as u64 - self.tail) as usize
    }

    /// Writes the tail mirror that observers read, into `own`, this side's words.
    pub fn mirror_tail(&self, own: &impl Cursors) {
        own.tail().store(self.published, Relaxed);
    }

    /// The slow half of `reserve`: refreshes the head, goes round the end of the ring.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, len: usize) -> Result<(), PushError> {
        if self.closed {
            return Err(PushError::Closed);
        }
        if len > self.max_body() {
            return Err(PushError::TooLong {
                len,
                max: self.max_body(),
            });
        }
        let need = record_size(len);
        let offset = self.offset(self.tail);
        let to_end = self.capacity - offset;
        let filler = if need > to_end || self.goes_back(need)? {
            to_end
        } else {
            0
        };
        let end = self.tail + (filler + need) as u64;
        if end > self.known_end() {
            self.refresh_head()?;
            if end > self.known_end() {
                self.set_limit();
                return Err(PushError::Full);
            }
        }
        if filler > 0 {
            self.put_word(COMMITTED | FILLER | (filler - WORD) as u64, filler);
            self.skipped += filler as u64;
        }
        self.set_limit();
        Ok(())
    }

    /// The position up to which bytes may be written, as far as the cached head tells. One word
    /// less than the ring holds (invariant 2).
    fn known_end(&self) -> u64 {
        self.cached_head + (self.capacity - WORD) as u64
    }

    fn set_limit(&mut self) {
        let offset = self.offset(self.tail);
        let next_thought = if offset < self.hot {
            self.hot
        } else {
            offset + self.hot / 4
        };
        let stretch = next_thought.min(self.capacity) - offset;
        self.limit = self.known_end().min(self.tail + stretch as u64);
    }

    /// Whether a record of `need` bytes goes to the ring's start although there is space here: it
    /// is small, would leave the hot bytes, and enough of them was consumed.
    fn goes_back(&mut self, need: usize) -> Result<bool, RingError> {
        let offset = self.offset(self.tail);
        if offset + need <= self.hot || need > self.hot / 4 || self.hot == self.capacity {
            return Ok(false);
        }
        let end = self.tail + (self.capacity - offset + self.hot / 2) as u64;
        if end > self.known_end() {
            self.refresh_head()?;
        }
        Ok(end <= self.known_end())
    }

    fn refresh_head(&mut self) -> Result<(), RingError> {
        // SYNC: head-release (invariant 4)
        let head = self.peer.head().load(Acquire);
        // The consumer cannot be behind where it was, nor beyond what it was shown, nor inside a
        // word.
        if head < self.cached_head || head > self.published || !head.is_multiple_of(WORD as u64) {
            return Err(RingError::BadHead {
                head,
                last: self.cached_head,
                tail: self.published,
            });
        }
        self.cached_head = head;
        Ok(())
    }

    /// Puts a commit word at the tail and moves the tail behind its record. The first word of a
    /// batch is held back; the others become visible through it.
    #[inline(always)]
    fn put_word(&mut self, word: u64, size: usize) {
        if self.published == self.tail {
            self.held_back = word;
        } else {
            self.sink.word(self.offset(self.tail)).store(word, Relaxed);
        }
        self.tail += size as u64;
    }
}

/// Space for one record, not yet part of the ring.
#[derive(Debug)]
pub struct Reservation<'a, S, P> {
    producer: &'a mut Producer<S, P>,
    /// Offset of the body's first byte.
    body: usize,
    len: usize,
}

impl<S: Sink, P: Cursors> Reservation<'_, S, P> {
    /// Copies `bytes` into the body, `at` bytes from its start.
    ///
    /// # Panics
    /// If they leave the reserved body.
    #[inline(always)]
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(
            at <= self.len && bytes.len() <= self.len - at,
            "write beyond the reservation"
        );
        self.producer.sink.copy_in(self.body + at, bytes);
    }

    /// Stores `value`, little endian, `at` bytes from the body's start.
    ///
    /// # Panics
    /// If `at` is not a multiple of eight or the word leaves the reserved body.
    #[inline(always)]
    pub fn write_u64(&mut self, at: usize, value: u64) {
        assert!(
            at.is_multiple_of(WORD) && self.len >= WORD && at <= self.len - WORD,
            "word beyond the reservation"
        );
        self.producer
            .sink
            .word(self.body + at)
            .store(value.to_le(), Relaxed);
    }

    /// Length of the reserved body in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the reserved body is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stages the record with its whole body.
    #[inline(always)]
    pub fn commit(self, tag: u32) {
        let len = self.len;
        self.commit_prefix(tag, len);
    }

    /// Stages the record with its whole body and publishes it, with what was staged before it.
    ///
    /// The same as a commit and [`Producer::publish`], in fewer stores: those that wait for their
    /// line fill the processor's queue, and every other store takes a place in it (docs: tuning).
    #[inline(always)]
    pub fn publish(self, tag: u32) {
        let Self { producer, len, .. } = self;
        let word = COMMITTED | len as u64 | (tag as u64) << TAG_SHIFT;
        if producer.published != producer.tail {
            producer.put_word(word, record_size(len));
            producer.publish();
            return;
        }
        let first = producer.offset(producer.tail);
        let tail = producer.tail + record_size(len) as u64;
        // Invariant 1.
        producer.sink.word(producer.offset(tail)).store(0, Relaxed);
        // SYNC: commit-publish (invariant 3)
        producer.sink.word(first).store(word, Release);
        producer.tail = tail;
        producer.published = tail;
    }

    /// Stages the record with the first `len` bytes of its body.
    ///
    /// # Panics
    /// If `len` is more than was reserved.
    #[inline(always)]
    pub fn commit_prefix(self, tag: u32, len: usize) {
        assert!(len <= self.len, "commit beyond the reservation");
        let word = COMMITTED | len as u64 | (tag as u64) << TAG_SHIFT;
        self.producer.put_word(word, record_size(len));
    }
}

impl<S: InPlace, P: Cursors> Reservation<'_, S, P> {
    /// The reserved body, to be written in place. Holds old bytes at first.
    #[inline(always)]
    pub fn body_mut(&mut self) -> &mut [u8] {
        self.producer.sink.slice_mut(self.body, self.len)
    }
}
