//! A bounded queue of many producers and many consumers, in memory that all of its producers may
//! write: where the requests of all clients of a server go with the mpmc transport.
//!
//! It is Dmitry Vyukov's bounded MPMC queue (1024cores.net: a word per slot says whose turn it is),
//! changed in three ways because the producers are processes that can be killed:
//!
//! - A producer claims a slot by a compare-and-swap of *the slot's word*, not of the tail, and leaves
//!   its name there. So when it dies before it has filled the slot, one can see which claims were
//!   its own, and let the consumers skip them ([`Consumer::skip_claims`]).
//! - The tail is a hint where to look. Whoever finds a slot claimed at the tail moves it on, so a
//!   producer that dies between the claim and the tail leaves nothing behind.
//! - The head is not in the shared memory: all consumers are in the server's process.
//!
//! # States
//! A position counts up for ever; its slot is the position modulo the number of slots, its lap the
//! quotient. A slot's word has a lap (32 bits), an owner (30 bits) and a state (2 bits):
//!
//! ```text
//!            claim, by CAS              fill, by CAS              take: CAS of the head, copy out
//! free(lap) ---------------> claimed(lap) ----------> full(lap) ---------------> free(lap + 1)
//!                                  |  owner is dead                                   ^
//!                                  +-----------------> skipped(lap) ------------------+
//! ```
//!
//! # Invariants
//! 1. Position p is claimed before p + 1: the tail passes p only when the slot of p was seen claimed.
//!    So one producer's records are taken in the order in which it pushed them.
//! 2. The body is written between claim and fill by the owner alone, and read between fill and free
//!    by the one consumer whose CAS moved the head past it.
//!
//! # A consumer that is a lap behind
//! One that is off its processor while it copies a record out has not freed the slot when others come
//! round the queue to it again. They would find a word of the lap before, as only a hostile producer
//! writes one, and take the slot for damaged and its next record for lost. So who is about to
//! take a slot counts himself at it first, in memory of this process, and is counted until it is free. Who
//! finds a word of another lap looks there: somebody is at it, and the record is to come; or nobody
//! is, and the word, looked at once more, is either free by now or really damaged. Whoever sees the head
//! moved past the slot sees the count (the CAS of the head releases it), and whoever sees the count
//! gone sees the slot free. One consumer alone need not count.
//!
//! # What it cannot do
//! A producer that is stopped (not dead) between claim and fill holds up everybody behind it. And
//! nothing keeps a hostile producer from writing whatever it likes wherever it likes in the queue:
//! the consumers believe no word of it and come to no harm, but what the others sent may be lost,
//! changed or invented. That is what rings of one producer each are better at. A tail that is where
//! it cannot be is put right ([`Consumer::mend`]), so that the queue is of use again once the hostile
//! producer is gone.

use crate::layout::WORD;
use crate::layout::queue::{BODY, HEAD};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed, Release};

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const FULL: u64 = 2;
const SKIPPED: u64 = 3;
const STATE: u64 = 3;
const OWNER_SHIFT: u32 = 2;
const OWNER: u64 = (1 << 30) - 1;
const LAP_SHIFT: u32 = 32;

/// How often a producer tries anew, because others are at the same slots, before it says that the
/// queue is full. Bounded, for a hostile producer could keep an honest one at it for ever.
const TRIES: usize = 64;

/// The words that tell what a slot's body is; the layer above knows what they mean.
pub(crate) type Head = [u64; HEAD];

/// What the queue's algorithm needs of the memory it runs over.
pub(crate) trait Memory {
    /// How many slots there are, a power of two.
    fn slots(&self) -> usize;
    /// Where to look for a free slot.
    fn tail(&self) -> &AtomicU64;
    /// A slot's words: its state, then its head, then its body.
    ///
    /// # Panics
    /// If there is no such word; the queue masks its positions, so no value that a producer wrote
    /// can cause it.
    fn word(&self, slot: usize, word: usize) -> &AtomicU64;

    /// Puts a head and a body, of whole words, into a slot.
    #[inline(always)]
    fn fill(&self, slot: usize, head: &Head, body: &[u8]) {
        for (at, value) in head.iter().enumerate() {
            self.word(slot, 1 + at).store(*value, Relaxed);
        }
        for (at, bytes) in body.as_chunks::<WORD>().0.iter().enumerate() {
            let value = u64::from_ne_bytes(*bytes);
            self.word(slot, 1 + HEAD + at).store(value, Relaxed);
        }
    }

    /// Copies a head out.
    #[inline(always)]
    fn head(&self, slot: usize) -> Head {
        std::array::from_fn(|at| self.word(slot, 1 + at).load(Relaxed))
    }

    /// Copies as much of a body out as `body`, of whole words, has space for.
    #[inline(always)]
    fn body(&self, slot: usize, body: &mut [u8]) {
        for (at, bytes) in body.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
            *bytes = self.word(slot, 1 + HEAD + at).load(Relaxed).to_ne_bytes();
        }
    }
}

/// The owner by which the queue knows a producer of this name.
pub(crate) fn owner(name: u64) -> u64 {
    name & OWNER
}

/// Where a position lies.
#[inline(always)]
fn place<M: Memory>(memory: &M, position: u64) -> (usize, u64) {
    let slots = memory.slots() as u64;
    let lap = (position / slots) & u64::from(u32::MAX);
    ((position % slots) as usize, lap << LAP_SHIFT)
}

/// One of the producers.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    memory: M,
    /// What it leaves in the slots that it claims, at its place in the word.
    owner: u64,
}

impl<M: Memory> Producer<M> {
    /// A producer that calls itself `owner`, of which the lowest 30 bits count.
    pub(crate) fn new(memory: M, owner: u64) -> Self {
        let owner = (owner & OWNER) << OWNER_SHIFT;
        Self { memory, owner }
    }

    /// Pushes a head and a body: whole words, [`BODY`] bytes at most. False if the queue is full, or
    /// so busy that it might as well be.
    pub(crate) fn push(&self, head: &Head, body: &[u8]) -> bool {
        debug_assert!(body.len() <= BODY && body.len().is_multiple_of(WORD));
        let memory = &self.memory;
        for _ in 0..TRIES {
            let tail = memory.tail().load(Relaxed);
            let (slot, lap) = place(memory, tail);
            let word = memory.word(slot, 0);
            // SYNC: slot-free
            let seen = word.load(Acquire);
            if seen == lap | FREE {
                let claimed = lap | self.owner | CLAIMED;
                if word
                    .compare_exchange(seen, claimed, Relaxed, Relaxed)
                    .is_err()
                {
                    continue;
                }
                self.advance(tail);
                memory.fill(slot, head, body);
                // By a swap, for the server may have freed the slot of a client with which it has
                // broken, and another may have it by now.
                // SYNC: slot-full
                let _ = word.compare_exchange(claimed, lap | self.owner | FULL, Release, Relaxed);
                return true;
            }
            // Positions of the same slot are a lap apart, and laps wrap.
            let ahead = ((seen >> LAP_SHIFT) as u32).wrapping_sub((lap >> LAP_SHIFT) as u32);
            if ahead as i32 >= 0 {
                // Somebody claimed it, or it was even taken; the tail lags.
                self.advance(tail);
            } else if memory.tail().load(Relaxed) == tail {
                return false;
            }
        }
        false
    }

    fn advance(&self, from: u64) {
        let tail = self.memory.tail();
        // If it fails, another one has done it.
        let _ = tail.compare_exchange(from, from.wrapping_add(1), Relaxed, Relaxed);
    }
}

/// What a consumer came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Popped {
    /// Nothing that is ready to be taken.
    Nothing,
    /// This head, with a body of the length that `length` made of it.
    Record(Head, usize),
    /// A slot whose owner was gone before it was filled. It was freed.
    Skipped,
    /// A slot that no honest producer leaves so. It was freed.
    Damaged,
}

/// The consuming end, for any number of threads of one process.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    memory: M,
    /// The position to be taken next. Nobody else has it.
    head: AtomicU64,
    /// How many consumers are at each slot; none is counted if there is one consumer only.
    at: Box<[AtomicU64]>,
}

impl<M: Memory> Consumer<M> {
    /// The consuming end of a queue whose memory is all zero, for so many threads.
    pub(crate) fn new(memory: M, threads: usize) -> Self {
        let head = AtomicU64::new(0);
        let counted = if threads > 1 { memory.slots() } else { 0 };
        let at = (0..counted).map(|_| AtomicU64::new(0)).collect();
        Self { memory, head, at }
    }

    fn come_to(&self, slot: usize) {
        if let Some(at) = self.at.get(slot) {
            at.fetch_add(1, Relaxed);
        }
    }

    fn leave(&self, slot: usize) {
        if let Some(at) = self.at.get(slot) {
            // SYNC: slot-left
            at.fetch_sub(1, Release);
        }
    }

    /// Whether somebody is at a slot.
    fn is_at(&self, slot: usize) -> bool {
        // SYNC: slot-left
        self.at.get(slot).is_some_and(|at| at.load(Acquire) > 0)
    }

    #[cfg(test)]
    #[cfg_attr(loom, allow(dead_code))]
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether a [`pop`](Self::pop) would come by something.
    #[inline(always)]
    pub(crate) fn is_ready(&self) -> bool {
        let (slot, lap) = place(&self.memory, self.head.load(Relaxed));
        // SYNC: slot-full, for who only looks
        let seen = self.memory.word(slot, 0).load(Acquire);
        !waits(seen, lap)
    }

    /// Takes the next record. `length` makes the body's length of the head, or nothing if that
    /// cannot be; `body` has the body then.
    #[inline(always)]
    pub(crate) fn pop(
        &self,
        body: &mut [u8; BODY],
        length: impl Fn(&Head) -> Option<usize>,
    ) -> Popped {
        loop {
            // SYNC: queue-head
            let head = self.head.load(Acquire);
            let (slot, lap) = place(&self.memory, head);
            let word = self.memory.word(slot, 0);
            // SYNC: slot-full
            let seen = word.load(Acquire);
            if waits(seen, lap) {
                return Popped::Nothing;
            }
            if seen >> LAP_SHIFT != lap >> LAP_SHIFT && !self.at.is_empty() {
                if self.is_at(slot) {
                    return Popped::Nothing;
                }
                // SYNC: slot-full
                if word.load(Acquire) != seen {
                    continue;
                }
            }
            self.come_to(slot);
            let next = head.wrapping_add(1);
            // SYNC: queue-head
            if self
                .head
                .compare_exchange(head, next, Release, Relaxed)
                .is_err()
            {
                // Another consumer has it; what was seen may already be of the next lap.
                self.leave(slot);
                continue;
            }
            // From here on the slot is this consumer's, whatever its word says.
            let mut popped = Popped::Damaged;
            if seen & STATE == FULL && seen >> LAP_SHIFT == lap >> LAP_SHIFT {
                let head = self.memory.head(slot);
                let len = length(&head).filter(|&len| len <= BODY && len.is_multiple_of(WORD));
                if let Some(len) = len {
                    self.memory.body(slot, &mut body[..len]);
                    popped = Popped::Record(head, len);
                }
            }
            let (_, next_lap) = place(&self.memory, head.wrapping_add(self.memory.slots() as u64));
            // SYNC: slot-free
            word.store(next_lap | FREE, Release);
            self.leave(slot);
            // Not the next one at once: who writes such slots all the time must not keep this one at it.
            if seen & STATE == SKIPPED && seen >> LAP_SHIFT == lap >> LAP_SHIFT {
                return Popped::Skipped;
            }
            return popped;
        }
    }

    /// Who has claimed the next slot and not filled it yet, if that is what
    /// [`pop`](Self::pop) waits for.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        let (slot, lap) = place(&self.memory, self.head.load(Relaxed));
        let seen = self.memory.word(slot, 0).load(Relaxed);
        let claimed = seen & STATE == CLAIMED && seen >> LAP_SHIFT == lap >> LAP_SHIFT;
        claimed.then_some(seen >> OWNER_SHIFT & OWNER)
    }

    /// Puts a tail right that only a hostile producer can have written: beyond a slot that is free
    /// (invariant 1), or further behind than its slots go. Else producers would go on behind a slot
    /// that nobody fills, and take the queue for full for ever. True if there was something to do.
    ///
    /// All that is done here honest producers can live with at any moment, so it need not be proved
    /// that no other thread has moved the head meanwhile.
    pub(crate) fn mend(&self) -> bool {
        let head = self.head.load(Relaxed);
        let (slot, lap) = place(&self.memory, head);
        let tail = self.memory.tail().load(Relaxed);
        let ahead = tail.wrapping_sub(head).cast_signed();
        let slots = self.memory.slots() as i64;
        let is_free = self.memory.word(slot, 0).load(Relaxed) == lap | FREE;
        if !is_free || (-slots..=0).contains(&ahead) {
            return false;
        }
        // What was pushed there is not to lie until others have filled what is before it.
        let free = |ahead: u64| {
            let (slot, lap) = place(&self.memory, head.wrapping_add(ahead));
            let word = self.memory.word(slot, 0);
            (word.load(Relaxed) == lap | FREE).then_some((word, lap))
        };
        let gap = (1..slots as u64).find(|&ahead| free(ahead).is_none());
        for ahead in 0..gap.unwrap_or(0) {
            if let Some((word, lap)) = free(ahead) {
                // A producer that claims it first fills it.
                let _ = word.compare_exchange(lap | FREE, lap | SKIPPED, Relaxed, Relaxed);
            }
        }
        // From the gap's end producers move it on themselves.
        let right = head.wrapping_add(gap.unwrap_or(0));
        let tail_word = self.memory.tail();
        let _ = tail_word.compare_exchange(tail, right, Relaxed, Relaxed);
        true
    }

    /// Lets consumers skip what `owner` has claimed and not filled. It should be known not to write
    /// any more: a body that it still writes may be in a slot that has become another's.
    pub(crate) fn skip_claims(&self, owner: u64) {
        let claimed = (owner & OWNER) << OWNER_SHIFT | CLAIMED;
        let mask = OWNER << OWNER_SHIFT | STATE;
        let head = self.head.load(Relaxed);
        for ahead in 0..self.memory.slots() as u64 {
            let (slot, lap) = place(&self.memory, head.wrapping_add(ahead));
            let word = self.memory.word(slot, 0);
            let seen = word.load(Relaxed);
            if seen == lap | FREE {
                // Nothing is claimed behind this one (invariant 1).
                break;
            }
            if seen & mask == claimed {
                let skipped = seen & !mask | SKIPPED;
                // Only a hostile producer can have changed it meanwhile.
                let _ = word.compare_exchange(seen, skipped, Relaxed, Relaxed);
            }
        }
    }
}

/// Whether a slot with this word has nothing for the consumers in this lap, but will have.
#[inline(always)]
fn waits(word: u64, lap: u64) -> bool {
    word == lap | FREE || (word & STATE == CLAIMED && word >> LAP_SHIFT == lap >> LAP_SHIFT)
}
