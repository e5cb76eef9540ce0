//! The ring that publishes by a commit word: the record's own header, stored last.
//!
//! The header behind the newest record is always zero, so the consumer looks at one word, the one
//! at its head, and finds a small record together with its publication in one cache line.

use std::sync::atomic::Ordering;

use super::{PREFETCH, RingMemory, Scheme, Space, Taking, record_bytes};
use crate::memory::Circle;

/// Bit of a header that is set in every record, also in an empty one.
const PRESENT: u64 = 1 << 32;

/// Publishing by a commit word.
pub struct Commit;

impl Scheme for Commit {
    type Producer = Producer;
    type Consumer = Consumer;
}

/// The sending end.
pub struct Producer {
    data: Circle,
    space: Space,
    tail: u64,
}

impl Producer {
    /// Whether a record of `payload`, and the zero behind it, fits as far as is known.
    #[inline]
    fn fits(&self, payload: &[u8]) -> bool {
        self.space
            .holds(self.tail + record_bytes(payload.len()) + 8)
    }

    #[cold]
    fn make_room(&mut self, payload: &[u8]) {
        assert!(
            payload.len() <= self.data.longest(),
            "the payload is too long for the ring"
        );
        self.space.wait(self.tail + record_bytes(payload.len()) + 8);
    }

    /// Writes a record at the tail, all but its header, and moves the tail behind it.
    #[inline]
    fn write(&mut self, payload: &[u8]) {
        self.data.prefetch_to_write(self.tail + PREFETCH);
        self.data.copy_in(self.tail + 8, payload);
        self.tail += record_bytes(payload.len());
    }

    /// Publishes everything from the record at `first` to the tail.
    #[inline]
    fn publish(&self, first: u64, header: u64) {
        self.data.word(self.tail).store(0, Ordering::Relaxed);
        // SYNC: commit
        self.data.word(first).store(header, Ordering::Release);
    }
}

impl super::Producer for Producer {
    fn new(memory: &RingMemory) -> Self {
        Self {
            data: memory.data(),
            space: Space::new(memory),
            tail: 0,
        }
    }

    #[inline]
    fn push(&mut self, payload: &[u8]) {
        if !self.fits(payload) {
            self.make_room(payload);
        }
        let first = self.tail;
        self.write(payload);
        self.publish(first, header_of(payload));
    }

    #[inline]
    fn push_batch<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) {
        let mut payloads = payloads.into_iter();
        let mut next = payloads.next();
        while let Some(payload) = next {
            if !self.fits(payload) {
                self.make_room(payload);
            }
            let (first, header) = (self.tail, header_of(payload));
            self.write(payload);
            next = payloads.next();
            // What does not fit waits for the consumer, which must first see what is written.
            while let Some(payload) = next
                && self.fits(payload)
            {
                self.data
                    .word(self.tail)
                    .store(header_of(payload), Ordering::Relaxed);
                self.write(payload);
                next = payloads.next();
            }
            self.publish(first, header);
        }
    }
}

#[inline]
fn header_of(payload: &[u8]) -> u64 {
    PRESENT | payload.len() as u64
}

/// The receiving end.
pub struct Consumer {
    data: Circle,
    taking: Taking,
}

impl Consumer {
    #[inline]
    fn look(&self) -> u64 {
        // SYNC: commit
        self.data.word(self.taking.head).load(Ordering::Acquire)
    }

    fn wait(&mut self) -> u64 {
        self.taking.found_empty();
        loop {
            let header = self.look();
            if header != 0 {
                return header;
            }
            // The record's second line, so that both come at once.
            self.data.prefetch_to_read(self.taking.head + 64);
            std::hint::spin_loop();
        }
    }
}

impl super::Consumer for Consumer {
    fn new(memory: &RingMemory) -> Self {
        Self {
            data: memory.data(),
            taking: Taking::new(memory),
        }
    }

    #[inline]
    fn pop(&mut self, into: &mut [u8]) -> usize {
        let mut header = self.look();
        if header == 0 {
            header = self.wait();
        }
        let length = (header & (PRESENT - 1)) as usize;
        self.taking.prefetch(&self.data, record_bytes(length));
        self.data
            .copy_out(self.taking.head + 8, &mut into[..length]);
        self.taking.advance(record_bytes(length));
        length
    }
}
