//! The consuming end of a ring.

use super::{
    CLOSE, COMMITTED, Cursors, FILLER, LEN_MASK, LINE, RingError, Source, TAG_SHIFT,
    check_capacity, hot_bytes,
};
use crate::layout::{WORD, max_body, record_size};
use crate::sync::Ordering::{Acquire, Relaxed, Release};

/// How many records one [`Consumer::drain`] takes at most unless told otherwise: enough to spread
/// the cost of a round over, few enough to keep a neighbour waiting only microseconds.
pub const RECORDS_PER_DRAIN: usize = 256;

/// Records found in a row from which on lines are fetched ahead (docs: tuning).
const STREAM: u32 = 16;

/// How far ahead of the head lines are fetched while records stream, in bytes (docs: tuning).
const PREFETCH_AHEAD: usize = 512;

/// Pauses before a ring that has run dry is looked at again (docs: tuning).
const GATHERING_PAUSES: u32 = 32;

/// Records that must be found behind such pauses for them to have paid: as many as come at the
/// rate of a stream, more than come at that of calls and answers.
const GATHERED: u32 = 8;

/// After so many vain pauses in a row, one in `1 << MAX_MISSES` looks at an empty ring still pauses.
const MAX_MISSES: u32 = 10;

/// Looks at an empty ring before the first pause.
const FIRST_SKIP: u32 = 15;

/// The one consumer of a ring.
///
/// # Streams
/// Where the next record begins is known only once this one's commit word has arrived, so a
/// consumer that merely walks pays the whole way from core to core for every line, one after the
/// other. After `STREAM` records in a row it therefore asks for lines ahead of the head. It
/// begins anew when it has found the ring empty: lines that the producer is still writing would
/// be torn from it.
///
/// # Gathering
/// A consumer that has caught up with a busy producer must not look again at once: each look takes
/// the line from the producer, which is then slowed down to the pace of those looks, so that the
/// consumer keeps catching up with it. It pauses for some hundred nanoseconds instead, in which many
/// records come, and both run on at a distance that leaves either its lines. Nobody can say
/// beforehand whether it is a stream that has run dry or a peer that waits for an answer, so a
/// consumer that gathers at all learns it from whether it paid: a pause behind which fewer than
/// `GATHERED` records lay puts off the next one for 2, 4, … up to 1024 looks at an empty ring. A
/// caller who waits for answers loses about a nanosecond per call that way.
#[derive(Debug)]
pub struct Consumer<S, O> {
    /// The producer's bytes: hostile, and possibly changing.
    source: S,
    /// This side's own words, of which the head is stored here.
    own: O,
    /// Bytes in the ring, a power of two. This side's own copy.
    capacity: usize,
    /// Position of the next record. Exact.
    head: u64,
    /// The head as the producer may see it. Lags by at most a quarter of the ring.
    published: u64,
    /// How far the head may get ahead of `published`.
    release_after: u64,
    /// Records found since the ring was last found empty.
    run: u32,
    /// Whether the ring, when it was last found empty, was given time to gather.
    gathered: bool,
    /// Looks at an empty ring without a pause that are still to come before the next one with.
    /// `u32::MAX`: there will be none.
    skip: u32,
    /// Pauses in a row that did not pay.
    misses: u32,
    /// Bytes of the head that were fillers.
    skipped: u64,
}

/// What lies at the consumer's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Nothing yet.
    Empty,
    /// At least one record.
    Data,
    /// Nothing any more: the producer closed the ring and everything was consumed.
    Closed,
}

impl<S: Source, O: Cursors> Consumer<S, O> {
    /// A consumer at the start of a ring of `capacity` bytes.
    ///
    /// # Panics
    /// If `capacity` is not a power of two from 32 to [`MAX_CAPACITY`](crate::layout::MAX_CAPACITY).
    pub fn new(source: S, own: O, capacity: usize) -> Self {
        check_capacity(capacity);
        Self {
            source,
            own,
            capacity,
            head: 0,
            published: 0,
            release_after: (hot_bytes(capacity) / 4) as u64,
            run: 0,
            gathered: false,
            skip: u32::MAX,
            misses: 0,
            skipped: 0,
        }
    }

    /// Whether to pause for a microsecond at most where that was seen to let records gather; at first
    /// it does not. Right for who does nothing but receive. Wrong for who has other rings to look
    /// at meanwhile, and where the producer waits for answers with many calls in flight: there many
    /// records lie behind every pause, and yet it only adds to the time of the round.
    pub fn set_gathering(&mut self, gathering: bool) {
        self.skip = if gathering { FIRST_SKIP } else { u32::MAX };
        self.misses = 0;
        self.gathered = false;
    }

    /// Asks the processor for the line at the head, so that a look in a while finds it here. For
    /// who is about to serve another ring first.
    #[inline(always)]
    pub fn prefetch_next(&self) {
        self.source.prefetch(self.offset());
    }

    /// Bytes in the ring.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How far the ring was consumed, in bytes since it began.
    pub fn position(&self) -> u64 {
        self.head
    }

    /// Bytes of the records consumed so far: what [`position`](Self::position) says, without fillers.
    pub fn bytes(&self) -> u64 {
        self.head - self.skipped
    }

    #[inline(always)]
    fn offset(&self) -> usize {
        self.head as usize & (self.capacity - 1)
    }

    #[inline(always)]
    fn load_word(&self) -> u64 {
        // SYNC: commit-publish (invariant 3)
        self.source.word(self.offset()).load(Acquire)
    }

    /// Looks what lies at the head, without consuming. A filler counts as data.
    #[inline(always)]
    pub fn ready(&self) -> Ready {
        match self.load_word() {
            0 => Ready::Empty,
            CLOSE => Ready::Closed,
            _ => Ready::Data,
        }
    }

    /// As [`ready`](Self::ready), for who does nothing but look, again and again.
    ///
    /// A record of 64 bytes lies on two lines. Who asks for the second one only when the first has
    /// arrived waits for two transfers, one after the other; so every look asks for the line behind
    /// along, and both arrive together (docs: tuning). Wrong for who looks at many rings: there the
    /// lines are more than the cache holds, and most of them come for nothing.
    #[inline(always)]
    pub fn watch(&self) -> Ready {
        let ready = self.ready();
        if ready == Ready::Empty {
            let behind = self.head as usize + LINE;
            self.source.prefetch(behind & (self.capacity - 1));
        }
        ready
    }

    /// Hands the next record to `visit` and consumes it. `None` if there is none, or none any
    /// more; [`ready`](Self::ready) tells which.
    ///
    /// # Errors
    /// [`RingError::BadCommitWord`] if the producer wrote what no honest one writes.
    #[inline(always)]
    pub fn pop<R>(
        &mut self,
        visit: impl FnOnce(Record<'_, S>) -> R,
    ) -> Result<Option<R>, RingError> {
        self.pop_if(|record| (visit(record), true))
    }

    /// Hands the next record to `visit` and consumes it if `visit` says so with a `true`. A record
    /// that stays is handed out again next time; a hostile producer may have changed everything
    /// about it by then, its length included.
    ///
    /// # Errors
    /// As [`pop`](Self::pop).
    #[inline(always)]
    pub fn pop_if<R>(
        &mut self,
        visit: impl FnOnce(Record<'_, S>) -> (R, bool),
    ) -> Result<Option<R>, RingError> {
        let mut word = self.load_word();
        if word == 0 && !self.gather(&mut word) {
            return Ok(None);
        }
        if word & FILLER != 0 && !self.skip_filler(&mut word)? {
            return Ok(None);
        }
        let offset = self.offset();
        let len = (word & LEN_MASK) as usize;
        let size = record_size(len);
        // The length was loaded once and is checked before it is used (design: hostile peer).
        if word & COMMITTED == 0 || len > max_body(self.capacity) || size > self.capacity - offset {
            return Err(RingError::BadCommitWord {
                word,
                position: self.head,
            });
        }
        if self.run >= STREAM {
            let ahead = self.head as usize + PREFETCH_AHEAD;
            self.source.prefetch(ahead & (self.capacity - 1));
            if size > LINE {
                // Steps of more than a line would leave lines out.
                self.source.prefetch((ahead + LINE) & (self.capacity - 1));
            }
        }
        let record = Record {
            source: &self.source,
            tag: (word >> TAG_SHIFT) as u32,
            body: offset + WORD,
            len,
        };
        let (result, consumed) = visit(record);
        if !consumed {
            return Ok(Some(result));
        }
        self.head += size as u64;
        self.run = self.run.saturating_add(1);
        if self.head - self.published >= self.release_after {
            self.release();
        }
        Ok(Some(result))
    }

    /// Hands up to `max` records to `visit` and consumes them. Returns how many there were.
    ///
    /// # Errors
    /// As [`pop`](Self::pop); the records before the bad word were visited.
    #[inline(always)]
    pub fn drain(
        &mut self,
        max: usize,
        mut visit: impl FnMut(Record<'_, S>),
    ) -> Result<usize, RingError> {
        let mut count = 0;
        while count < max && self.pop(&mut visit)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Shows the producer how far the ring was consumed. Returns whether that is news.
    ///
    /// [`pop`](Self::pop) does it by itself per quarter of the ring; who finds the ring empty, or
    /// stops consuming, calls it.
    #[inline(always)]
    pub fn release(&mut self) -> bool {
        if self.published == self.head {
            return false;
        }
        // SYNC: head-release (invariant 4)
        self.own.head().store(self.head, Release);
        self.published = self.head;
        true
    }

    /// Position that the producer may know of: what [`release`](Self::release) stored last.
    pub fn released(&self) -> u64 {
        self.published
    }

    /// The ring was found empty. True if there is something after all, because it was given time;
    /// `word` is what.
    #[inline(always)]
    fn gather(&mut self, word: &mut u64) -> bool {
        if self.skip == 0 {
            return self.pause(word);
        }
        if self.skip != u32::MAX {
            self.skip -= 1;
        }
        self.run = 0;
        false
    }

    #[cold]
    #[inline(never)]
    fn pause(&mut self, word: &mut u64) -> bool {
        let paid = self.run >= GATHERED;
        self.run = 0;
        if self.gathered && !paid {
            self.gathered = false;
            self.misses = (self.misses + 1).min(MAX_MISSES);
            self.skip = (1 << self.misses) - 1;
            return false;
        }
        if paid {
            self.misses = 0;
        }
        self.gathered = true;
        // In a model time does not pass; any record may come between two looks as it is.
        if cfg!(not(loom)) {
            for _ in 0..GATHERING_PAUSES {
                std::hint::spin_loop();
            }
        }
        *word = self.load_word();
        *word != 0
    }

    /// Goes over a filler to the ring's start and loads the word there. False at the end: CLOSE,
    /// or nothing behind the filler yet (the producer published after it had dropped the
    /// reservation for which the filler was made).
    #[cold]
    #[inline(never)]
    fn skip_filler(&mut self, word: &mut u64) -> Result<bool, RingError> {
        if *word == CLOSE {
            return Ok(false);
        }
        let to_end = self.capacity - self.offset();
        let size = WORD as u64 + (*word & LEN_MASK);
        // A filler ends exactly at the ring's end, carries no tag and never begins the ring; so no
        // two fillers can follow one another.
        if *word >> TAG_SHIFT != 0
            || *word & COMMITTED == 0
            || size != to_end as u64
            || to_end == self.capacity
        {
            return Err(RingError::BadCommitWord {
                word: *word,
                position: self.head,
            });
        }
        self.head += size;
        self.skipped += size;
        if self.run >= STREAM {
            // What was fetched ahead of the filler lies behind it.
            for line in (0..PREFETCH_AHEAD.min(self.capacity)).step_by(LINE) {
                self.source.prefetch(line);
            }
        }
        *word = self.load_word();
        if *word == CLOSE {
            return Ok(false);
        }
        if *word & FILLER != 0 {
            return Err(RingError::BadCommitWord {
                word: *word,
                position: self.head,
            });
        }
        Ok(*word != 0)
    }
}

/// One record, still in the ring. Its bytes may change under a hostile producer, so they can only
/// be copied out.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a, S> {
    source: &'a S,
    tag: u32,
    /// Offset of the body's first byte; the body was checked to lie inside the ring.
    body: usize,
    len: usize,
}

impl<S: Source> Record<'_, S> {
    /// The tag that the producer gave.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// Length of the body in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the body is empty.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the body from `at` on into `to`, as many bytes as `to` has.
    ///
    /// # Panics
    /// If the body is shorter than `at + to.len()`.
    #[inline(always)]
    pub fn read(&self, at: usize, to: &mut [u8]) {
        assert!(
            at <= self.len && to.len() <= self.len - at,
            "read beyond the record"
        );
        self.source.copy_out(self.body + at, to);
    }

    /// The little-endian word `at` bytes from the body's start, or `None` if it is not inside.
    ///
    /// # Panics
    /// If `at` is not a multiple of eight.
    #[inline(always)]
    pub fn read_u64(&self, at: usize) -> Option<u64> {
        assert!(at.is_multiple_of(WORD), "unaligned word");
        if self.len < WORD || at > self.len - WORD {
            return None;
        }
        Some(u64::from_le(self.source.word(self.body + at).load(Relaxed)))
    }

    /// Appends the body from `at` on to `to`; nothing if the body is shorter.
    #[inline(always)]
    pub fn append_to(&self, at: usize, to: &mut Vec<u8>) {
        if at < self.len {
            self.source.append_out(self.body + at, self.len - at, to);
        }
    }
}
