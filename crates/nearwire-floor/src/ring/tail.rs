//! The ring that publishes by a tail cursor.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{EMPTY_PAUSES, PREFETCH, RingMemory, Scheme, Space, Taking, pause, record_bytes};
use crate::memory::{Circle, Word};

/// Bytes that are too few to go on with while records are streaming: another look at the tail takes
/// its line from the producer, so let more gather first.
const FEW: u64 = 2048;

/// Publishing by a tail cursor.
pub struct Tail;

impl Scheme for Tail {
    type Producer = Producer;
    type Consumer = Consumer;
}

/// The sending end.
pub struct Producer {
    data: Circle,
    space: Space,
    word: Word<AtomicU64>,
    tail: u64,
    published: u64,
}

impl Producer {
    #[cold]
    fn make_room(&mut self, payload: &[u8]) {
        assert!(
            payload.len() <= self.data.longest(),
            "the payload is too long for the ring"
        );
        // The consumer must see what waits to be published, or it never makes room.
        self.publish();
        self.space.wait(self.tail + record_bytes(payload.len()));
    }

    #[inline]
    fn write(&mut self, payload: &[u8]) {
        let end = self.tail + record_bytes(payload.len());
        if !self.space.holds(end) {
            self.make_room(payload);
        }
        self.data.prefetch_to_write(self.tail + PREFETCH);
        self.data
            .word(self.tail)
            .store(payload.len() as u64, Ordering::Relaxed);
        self.data.copy_in(self.tail + 8, payload);
        self.tail = end;
    }

    #[inline]
    fn publish(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            // SYNC: tail
            self.word.store(self.tail, Ordering::Release);
        }
    }
}

impl super::Producer for Producer {
    fn new(memory: &RingMemory) -> Self {
        Self {
            data: memory.data(),
            space: Space::new(memory),
            word: memory.tail(),
            tail: 0,
            published: 0,
        }
    }

    #[inline]
    fn push(&mut self, payload: &[u8]) {
        self.write(payload);
        self.publish();
    }

    #[inline]
    fn push_batch<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) {
        for payload in payloads {
            self.write(payload);
        }
        self.publish();
    }
}

/// The receiving end.
pub struct Consumer {
    data: Circle,
    taking: Taking,
    word: Word<AtomicU64>,
    /// Never ahead of the producer's published tail.
    cached_tail: u64,
}

impl Consumer {
    /// Looks for the tail beyond the head, once.
    #[inline]
    fn found(&mut self) -> bool {
        // SYNC: tail
        self.cached_tail = self.word.load(Ordering::Acquire);
        self.cached_tail != self.taking.head
    }

    fn wait(&mut self) {
        if self.found() {
            if self.cached_tail - self.taking.head < FEW && self.taking.streaming() {
                pause(EMPTY_PAUSES);
                self.found();
            }
            return;
        }
        self.taking.found_empty();
        while !self.found() {
            std::hint::spin_loop();
        }
    }
}

impl super::Consumer for Consumer {
    fn new(memory: &RingMemory) -> Self {
        Self {
            data: memory.data(),
            taking: Taking::new(memory),
            word: memory.tail(),
            cached_tail: 0,
        }
    }

    #[inline]
    fn pop(&mut self, into: &mut [u8]) -> usize {
        let head = self.taking.head;
        if head == self.cached_tail {
            self.wait();
        }
        let length = self.data.word(head).load(Ordering::Relaxed) as usize;
        self.taking.prefetch(&self.data, record_bytes(length));
        self.data.copy_out(head + 8, &mut into[..length]);
        self.taking.advance(record_bytes(length));
        length
    }
}
