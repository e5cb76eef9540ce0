//! One cache line thrown back and forth: the latency that nothing between two cores can beat.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{LINE, Word};
use crate::{Arena, Descriptors, take};

/// The turn that ends the game.
const STOP: u64 = u64::MAX;

/// One side of a ping-pong of one 64-bit word each way, each on a 128-byte line of its own.
pub struct PingPong {
    mine: Word<AtomicU64>,
    theirs: Word<AtomicU64>,
    turn: u64,
}

impl PingPong {
    /// The near side, and what the far side needs.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    pub fn create() -> io::Result<(Self, Descriptors)> {
        let arena = Arena::create(2 * LINE)?;
        let near = Self {
            mine: arena.word(0),
            theirs: arena.word(LINE),
            turn: 0,
        };
        Ok((near, vec![arena.descriptor()?]))
    }

    /// The far side.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    pub fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("a ping-pong", descriptors)?;
        let arena = Arena::open(memory)?;
        Ok(Self {
            mine: arena.word(LINE),
            theirs: arena.word(0),
            turn: 0,
        })
    }

    /// One round trip. Spins until the far side has answered.
    #[inline]
    pub fn round_trip(&mut self) {
        self.turn += 1;
        self.throw(self.turn);
        while self.look() != self.turn {
            std::hint::spin_loop();
        }
    }

    /// Ends the far side's [`answer`](Self::answer).
    pub fn stop(self) {
        self.throw(STOP);
    }

    /// The far side: answers each turn, spinning, until the near side stops. Returns the number of
    /// round trips.
    pub fn answer(mut self) -> u64 {
        loop {
            let turn = self.look();
            if turn == STOP {
                return self.turn;
            }
            if turn != self.turn {
                self.turn = turn;
                self.throw(turn);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    #[inline]
    fn throw(&self, turn: u64) {
        // SYNC: ping-pong
        self.mine.store(turn, Ordering::Release);
    }

    #[inline]
    fn look(&self) -> u64 {
        // SYNC: ping-pong
        self.theirs.load(Ordering::Acquire)
    }
}
