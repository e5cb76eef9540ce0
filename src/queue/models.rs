//! The queue under loom: every interleaving with up to three preemptions, and every stale value that
//! the orderings allow.
//!
//! A queue of two slots, one word to a body. Besides what is asserted, loom finds bodies that are
//! read while they may be written (the cells of [`Heap`]).

use super::{CLAIMED, Consumer, Head, Memory, OWNER_SHIFT, Popped, Producer};
use crate::layout::queue::{BODY, HEAD};
use crate::ring::models::explore;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const SLOTS: usize = 2;

#[derive(Debug, Clone)]
struct Heap(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tail: AtomicU64,
    /// Of each slot the state, and one word that stands for the whole record.
    slots: Vec<[AtomicU64; 2]>,
    /// One cell per slot, empty: to loom the records are plain memory.
    accesses: Vec<UnsafeCell<()>>,
}

impl Heap {
    fn new() -> Self {
        Self(Arc::new(Inner {
            tail: AtomicU64::new(0),
            slots: (0..SLOTS)
                .map(|_| [AtomicU64::new(0), AtomicU64::new(0)])
                .collect(),
            accesses: (0..SLOTS).map(|_| UnsafeCell::new(())).collect(),
        }))
    }
}

impl Memory for Heap {
    fn slots(&self) -> usize {
        SLOTS
    }
    fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.0.slots[slot][word]
    }
    fn fill(&self, slot: usize, head: &Head, _: &[u8]) {
        self.0.accesses[slot].with_mut(|_| ());
        self.word(slot, 1).store(head[0], Relaxed);
    }
    fn head(&self, slot: usize) -> Head {
        self.0.accesses[slot].with(|_| ());
        [self.word(slot, 1).load(Relaxed); HEAD]
    }
    fn body(&self, _: usize, _: &mut [u8]) {}
}

fn pop(consumer: &Consumer<Heap>) -> Option<u64> {
    loop {
        match consumer.pop(&mut [0; BODY], |_| Some(0)) {
            Popped::Record(head, _) => return Some(head[0]),
            Popped::Nothing => return None,
            Popped::Skipped => {}
            Popped::Damaged => panic!("damaged"),
        }
    }
}

fn push(producer: &Producer<Heap>, value: u64) -> bool {
    producer.push(&[value; HEAD], &[])
}

/// Two producers and a consumer, through two slots: each record arrives once, and those of one
/// producer in its order.
#[test]
fn two_producers() {
    let [full] = explore(|[full]| {
        let heap = Heap::new();
        let consumer = Consumer::new(heap.clone(), 1);
        let other = Producer::new(heap.clone(), 2);
        let pushing = thread::spawn(move || push(&other, 20));
        let producer = Producer::new(heap, 1);
        let mut sent = vec![];
        let mut got = vec![];
        for value in [10, 11] {
            if push(&producer, value) {
                sent.push(value);
            } else {
                full.fetch_add(1, Relaxed);
                got.extend(pop(&consumer));
            }
        }
        got.extend(pop(&consumer));
        if pushing.join().unwrap() {
            sent.push(20);
        }
        while let Some(value) = pop(&consumer) {
            got.push(value);
        }
        let order = |values: &[u64]| {
            values
                .iter()
                .copied()
                .filter(|v| *v < 20)
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&got), order(&sent));
        got.sort_unstable();
        sent.sort_unstable();
        assert_eq!(got, sent);
    });
    assert!(full > 0, "the queue was never full");
}

/// Two consumers, and a producer that goes round the queue: nothing is taken twice, or overwritten
/// while it is taken.
#[test]
fn two_consumers() {
    explore::<0>(|[]| {
        let heap = Heap::new();
        let consumer = Arc::new(Consumer::new(heap.clone(), 2));
        let producer = Producer::new(heap, 1);
        assert!(push(&producer, 1));
        let other = consumer.clone();
        let popping = thread::spawn(move || pop(&other));
        assert!(push(&producer, 2));
        let mut sent = vec![1, 2];
        if push(&producer, 3) {
            sent.push(3);
        }
        let mut got = vec![];
        got.extend(pop(&consumer));
        got.extend(popping.join().unwrap());
        while let Some(value) = pop(&consumer) {
            got.push(value);
        }
        got.sort_unstable();
        assert_eq!(got, sent);
    });
}

/// Two consumers of which one goes round the queue while the other is still at the slot where it comes to
/// again: that is no damage.
#[test]
fn a_consumer_is_a_lap_behind() {
    explore::<0>(|[]| {
        let heap = Heap::new();
        let consumer = Arc::new(Consumer::new(heap.clone(), 2));
        let producer = Producer::new(heap, 1);
        assert!(push(&producer, 1) && push(&producer, 2));
        let other = consumer.clone();
        let popping = thread::spawn(move || pop(&other));
        let mut got = vec![];
        got.extend(pop(&consumer));
        got.extend(pop(&consumer));
        let mut sent = vec![1, 2];
        if push(&producer, 3) {
            sent.push(3);
        }
        got.extend(pop(&consumer));
        got.extend(popping.join().unwrap());
        while let Some(value) = pop(&consumer) {
            got.push(value);
        }
        got.sort_unstable();
        assert_eq!(got, sent);
    });
}

/// A producer dies with a claim: what others have pushed behind it comes through once it is skipped,
/// also if they go round the queue meanwhile.
#[test]
fn a_dead_claim_is_skipped() {
    explore::<0>(|[]| {
        let heap = Heap::new();
        let consumer = Consumer::new(heap.clone(), 1);
        // What a producer does up to its death.
        heap.word(0, 0).store(9 << OWNER_SHIFT | CLAIMED, Relaxed);
        let producer = Producer::new(heap, 1);
        let pushing = thread::spawn(move || (push(&producer, 1), push(&producer, 2)));
        let early = pop(&consumer);
        assert_eq!(early, None);
        consumer.skip_claims(9);
        let mut got = vec![];
        got.extend(pop(&consumer));
        let (first, second) = pushing.join().unwrap();
        assert!(first);
        while let Some(value) = pop(&consumer) {
            got.push(value);
        }
        let sent = if second { vec![1, 2] } else { vec![1] };
        assert_eq!(got, sent);
    });
}
