//! Calls of many threads to one: a slot for each caller, a thread that sweeps them all, and a futex for who
//! sleeps.
//!
//! It is what a server with a thread for each connection costs if nothing is checked, framed, queued or
//! limited: a request and its reply lie where both sides know, the sweep is a look at one word for each
//! caller, and a caller that finds no reply after a few looks sleeps in a futex.
//!
//! # Sleeping
//! Whoever is about to sleep says so and looks once more; whoever publishes something looks afterwards whether
//! the other side said so. A fence lies between the two steps on both sides, so one of them sees the other's:
//! `slot-sleeps` between a caller that sleeps and the sweep, `slots-asleep` between the sweep that sleeps and
//! a caller. What is slept on (the reply's number, the bell) is compared by the kernel once more.

use std::hint::spin_loop;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::memory::{Circle, LINE, Word};
use crate::{Arena, Descriptors, take};

/// Looks for a reply before its caller sleeps: less than a microsecond of them.
const LOOKS: usize = 24;

/// Looks at slots in which nothing was found before the sweep sleeps: some hundred microseconds of them.
const IDLE_LOOKS: usize = 200_000;

/// What begins the memory: numbers that never change, whether the sweep sleeps, and what wakes it or ends
/// it.
const SLOTS: usize = 0;
const LONGEST: usize = 8;
const ASLEEP: usize = LINE;
const BELL: usize = 2 * LINE;
const STOP: usize = 2 * LINE + 4;
const HEAD: usize = 3 * LINE;

/// What begins a slot, which its caller writes: the request's number, whether the caller sleeps, and how many
/// bytes the request has. The request follows.
const REQUEST: usize = 0;
const SLEEPS: usize = 4;
const LENGTH: usize = 8;

/// A slot for each caller, in memory that they share with who answers.
pub struct Slots {
    arena: Arc<Arena>,
    asleep: Word<AtomicU32>,
    bell: Word<AtomicU32>,
    stop: Word<AtomicU32>,
}

impl Slots {
    /// So many slots for payloads of up to `longest` bytes each way, and what other processes need.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    pub fn create(slots: usize, longest: usize) -> io::Result<(Self, Descriptors)> {
        let longest = longest.next_multiple_of(8);
        let arena = Arena::create(HEAD + slots * stride(longest))?;
        let fixed = |offset| arena.word(offset);
        fixed(SLOTS).store(slots as u64, Ordering::Relaxed);
        fixed(LONGEST).store(longest as u64, Ordering::Relaxed);
        let descriptor = arena.descriptor()?;
        Ok((Self::over(arena), vec![descriptor]))
    }

    /// The same slots in another process.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    pub fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("slots", descriptors)?;
        Ok(Self::over(Arena::open(memory)?))
    }

    fn over(arena: Arc<Arena>) -> Self {
        Self {
            asleep: arena.half_word(ASLEEP),
            bell: arena.half_word(BELL),
            stop: arena.half_word(STOP),
            arena,
        }
    }

    fn fixed(&self, offset: usize) -> usize {
        self.arena.word(offset).load(Ordering::Relaxed) as usize
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fixed(SLOTS)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The caller's side of slot `number`, of which there must be one at a time. Panics if there is no such
    /// slot.
    #[must_use]
    pub fn caller(&self, number: usize) -> Caller {
        let slot = Slot::of(self, number);
        Caller {
            turn: slot.reply.load(Ordering::Relaxed),
            slot,
            asleep: self.arena.half_word(ASLEEP),
            bell: self.arena.half_word(BELL),
        }
    }

    /// Answers every request with its own bytes until [`stop`](Self::stop); for one thread. Spins, and sleeps
    /// if nothing comes for long. Returns the number of calls.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn answer(&self) -> io::Result<u64> {
        let mut slots: Vec<Slot> = (0..self.len()).map(|at| Slot::of(self, at)).collect();
        let mut buffer = vec![0; self.fixed(LONGEST)];
        let (mut answered, mut idle) = (0, 0);
        loop {
            let mut found = 0;
            for slot in &mut slots {
                if slot.is_asked() {
                    slot.answer(&mut buffer)?;
                    found += 1;
                }
            }
            answered += found;
            if found > 0 {
                idle = 0;
                continue;
            }
            if self.stop.load(Ordering::Relaxed) != 0 {
                return Ok(answered);
            }
            spin_loop();
            idle += slots.len().max(1);
            if idle >= IDLE_LOOKS {
                self.sleep(&slots)?;
                idle = 0;
            }
        }
    }

    fn sleep(&self, slots: &[Slot]) -> io::Result<()> {
        let bell = self.bell.load(Ordering::Relaxed);
        self.asleep.store(1, Ordering::Relaxed);
        // SYNC: slots-asleep
        fence(Ordering::SeqCst);
        let is_wanted = self.stop.load(Ordering::Relaxed) != 0 || slots.iter().any(Slot::is_asked);
        if !is_wanted {
            wait(&self.bell, bell)?;
        }
        self.asleep.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Ends [`answer`](Self::answer), wherever it runs, once nothing more is asked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stop(&self) -> io::Result<()> {
        self.stop.store(1, Ordering::Relaxed);
        ring(&self.bell)
    }
}

/// Bytes from one slot to the next.
fn stride(longest: usize) -> usize {
    2 * (LINE + payload(longest))
}

/// Bytes of a payload's place.
fn payload(longest: usize) -> usize {
    (LEAST + longest).next_multiple_of(LINE)
}

/// The least that a [`Circle`] goes round; here each payload begins at its beginning.
const LEAST: usize = 8;

/// A caller's place.
struct Slot {
    request: Word<AtomicU32>,
    sleeps: Word<AtomicU32>,
    length: Word<AtomicU64>,
    incoming: Circle,
    reply: Word<AtomicU32>,
    outgoing: Circle,
    /// The last request that was answered, for who answers.
    answered: u32,
}

impl Slot {
    fn of(slots: &Slots, number: usize) -> Self {
        assert!(number < slots.len(), "no slot {number}");
        let longest = slots.fixed(LONGEST);
        let mine = HEAD + number * stride(longest);
        let theirs = mine + LINE + payload(longest);
        let arena = &slots.arena;
        let reply: Word<AtomicU32> = arena.half_word(theirs);
        Self {
            request: arena.half_word(mine + REQUEST),
            sleeps: arena.half_word(mine + SLEEPS),
            length: arena.word(mine + LENGTH),
            incoming: arena.circle(mine + LINE, LEAST, longest),
            answered: reply.load(Ordering::Relaxed),
            reply,
            outgoing: arena.circle(theirs + LINE, LEAST, longest),
        }
    }

    /// Whether there is a request that was not answered.
    #[inline]
    fn is_asked(&self) -> bool {
        // SYNC: slot-request
        self.request.load(Ordering::Acquire) != self.answered
    }

    #[inline]
    fn answer(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let length = self.length.load(Ordering::Relaxed) as usize;
        let payload = &mut buffer[..length];
        self.incoming.copy_out(0, payload);
        self.outgoing.copy_in(0, payload);
        self.answered = self.request.load(Ordering::Relaxed);
        // SYNC: slot-reply
        self.reply.store(self.answered, Ordering::Release);
        // SYNC: slot-sleeps
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.reply, futex::Flags::empty(), 1)?;
        }
        Ok(())
    }
}

/// Who calls over one slot.
pub struct Caller {
    slot: Slot,
    turn: u32,
    asleep: Word<AtomicU32>,
    bell: Word<AtomicU32>,
}

impl Caller {
    /// Sends `request`, waits for the answer (after some looks asleep, for as long as it takes) and copies as many bytes of it into `reply`. Panics if they are
    /// more than the slots are for.
    ///
    /// # Errors
    /// When the kernel refuses.
    #[inline]
    pub fn call(&mut self, request: &[u8], reply: &mut [u8]) -> io::Result<()> {
        let slot = &self.slot;
        slot.incoming.copy_in(0, request);
        slot.length.store(request.len() as u64, Ordering::Relaxed);
        self.turn = self.turn.wrapping_add(1);
        // SYNC: slot-request
        slot.request.store(self.turn, Ordering::Release);
        // SYNC: slots-asleep
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            ring(&self.bell)?;
        }
        if !(0..LOOKS).any(|_| self.is_answered()) {
            self.sleep()?;
        }
        self.slot.outgoing.copy_out(0, reply);
        Ok(())
    }

    #[inline]
    fn is_answered(&self) -> bool {
        spin_loop();
        // SYNC: slot-reply
        self.slot.reply.load(Ordering::Acquire) == self.turn
    }

    fn sleep(&self) -> io::Result<()> {
        let slot = &self.slot;
        slot.sleeps.store(1, Ordering::Relaxed);
        // SYNC: slot-sleeps
        fence(Ordering::SeqCst);
        while !self.is_answered() {
            wait(&slot.reply, self.turn.wrapping_sub(1))?;
        }
        slot.sleeps.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// Sleeps for as long as the word is that.
fn wait(word: &AtomicU32, value: u32) -> io::Result<()> {
    match futex::wait(word, futex::Flags::empty(), value, None) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Wakes who sleeps on the bell.
fn ring(bell: &AtomicU32) -> io::Result<()> {
    bell.fetch_add(1, Ordering::Relaxed);
    futex::wake(bell, futex::Flags::empty(), 1)?;
    Ok(())
}
