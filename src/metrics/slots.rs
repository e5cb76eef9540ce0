//! Connections, one by one, in the counters page.

use super::layout::{header, slot};
use super::page::put_text;
use crate::segment::Block;
use std::sync::atomic::{
    AtomicU64, Ordering,
    Ordering::{Relaxed, Release},
    fence,
};
use std::sync::{Arc, Mutex, MutexGuard};

/// Which slots are free. Asked when a connection begins and when it ends.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<Free>,
    limit: usize,
    header: Block<{ header::WORDS }>,
}

#[derive(Debug, Default)]
struct Free {
    /// Given back.
    again: Vec<usize>,
    /// From here on none was used.
    fresh: usize,
}

impl Slots {
    pub(super) fn new(limit: usize, header: Block<{ header::WORDS }>) -> Self {
        Self {
            free: Mutex::default(),
            limit,
            header,
        }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes a free slot, one that was used before if there is one.
    pub(super) fn take(&self) -> Option<usize> {
        let mut free = self.free();
        if let Some(number) = free.again.pop() {
            return Some(number);
        }
        let number = free.fresh;
        if number == self.limit {
            return None;
        }
        free.fresh += 1;
        self.header[header::SLOTS_USED].store(free.fresh as u64, Relaxed);
        Some(number)
    }

    fn give_back(&self, number: usize) {
        self.free().again.push(number);
    }
}

/// Whether a connection is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The worker looks at it in every round.
    Active,
    /// It has been quiet; its client rings when it has something.
    Parked,
    /// It has used up its message rate and is held back: what its client sends stays in the ring.
    Throttled,
}

/// What a slot says once.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) since: u64,
    pub(crate) ring_in: usize,
    pub(crate) ring_out: usize,
    pub(crate) features: u64,
    pub(crate) worker: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) huge_pages: bool,
    pub(crate) label: &'a str,
}

/// What a slot says from time to time. Positions and words as in the connection's segments.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) state: State,
    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) consumed: u64,
    pub(crate) head: u64,
    pub(crate) peer_tail: u64,
    pub(crate) produced: u64,
    pub(crate) peer_head: u64,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
    pub(crate) blocked_since: u64,
    /// This side's parked words for data and space, then the peer's.
    pub(crate) parked: [bool; 4],
    pub(crate) busy_at: u64,
    pub(crate) at: u64,
}

/// A connection's slot, free again when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    words: Block<{ slot::WORDS }>,
    slots: Arc<Slots>,
    number: usize,
}

impl ConnectionSlot {
    pub(super) fn new(words: Block<{ slot::WORDS }>, slots: Arc<Slots>, number: usize) -> Self {
        Self {
            words,
            slots,
            number,
        }
    }

    fn put(&self, at: usize, value: u64) {
        self.words[at].store(value, Relaxed);
    }

    /// Says whose the slot is.
    pub(crate) fn open(&self, opened: &Opened<'_>) {
        for at in 1..slot::WORDS {
            self.put(at, 0);
        }
        self.put(slot::PID, opened.pid.into());
        self.put(slot::SINCE, opened.since);
        self.put(slot::RING_IN, opened.ring_in as u64);
        self.put(slot::RING_OUT, opened.ring_out as u64);
        self.put(slot::FEATURES, opened.features);
        self.put(slot::WORKER, opened.worker as u64);
        self.put(slot::MAX_IN_FLIGHT, opened.max_in_flight as u64);
        self.put(slot::HUGE_PAGES, opened.huge_pages.into());
        put_text(&self.words[slot::LABEL..], opened.label);
        // SYNC: slot-id, the writer's end: who sees the number sees what stands above
        self.words[slot::ID].store(opened.id, Release);
    }

    /// Says how the connection is.
    pub(crate) fn observe(&self, observed: &Observed) {
        let parked = observed.parked.iter().enumerate();
        let parked = parked.fold(0, |bits, (at, &is)| bits | u64::from(is) << at);
        self.put(slot::STATE, observed.state as u64);
        self.put(slot::MESSAGES_RECEIVED, observed.messages_received);
        self.put(slot::MESSAGES_SENT, observed.messages_sent);
        self.put(slot::CONSUMED, observed.consumed);
        self.put(slot::HEAD, observed.head);
        self.put(slot::PEER_TAIL, observed.peer_tail);
        self.put(slot::PRODUCED, observed.produced);
        self.put(slot::PEER_HEAD, observed.peer_head);
        self.put(slot::IN_FLIGHT, observed.in_flight as u64);
        self.put(slot::WAITING, observed.waiting as u64);
        self.put(slot::BLOCKED_SINCE, observed.blocked_since);
        self.put(slot::PARKED, parked);
        self.put(slot::BUSY_AT, observed.busy_at);
        self.put(slot::OBSERVED_AT, observed.at);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.put(slot::ID, 0);
        // The next connection's words come after the zero: a reader that finds the same number
        // before and after read words of that connection only.
        // SYNC: slot-reuse, the writer's end
        fence(Release);
        self.slots.give_back(self.number);
    }
}

/// The words of a slot, if a connection has it all the while that they are read.
pub(super) fn read(word: impl Fn(usize) -> u64, id: &AtomicU64) -> Option<[u64; slot::WORDS]> {
    // SYNC: slot-id, the reader's end
    let number = id.load(Ordering::Acquire);
    if number == 0 {
        return None;
    }
    let mut words = [0; slot::WORDS];
    for (at, to) in words.iter_mut().enumerate() {
        *to = word(at);
    }
    // SYNC: slot-reuse, the reader's end
    fence(Ordering::Acquire);
    words[slot::ID] = number;
    (id.load(Relaxed) == number).then_some(words)
}
