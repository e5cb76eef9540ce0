//! The queue over plain words, with real threads, and with words that no honest producer writes.

use super::*;
use crate::layout::queue::SLOT;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const SLOTS: usize = 8;

#[derive(Debug, Clone)]
struct Heap(Arc<(AtomicU64, Vec<AtomicU64>)>);

impl Heap {
    fn new() -> Self {
        let words = (0..SLOTS * SLOT / WORD).map(|_| AtomicU64::new(0));
        Self(Arc::new((AtomicU64::new(0), words.collect())))
    }
}

impl Memory for Heap {
    fn slots(&self) -> usize {
        SLOTS
    }
    fn tail(&self) -> &AtomicU64 {
        &self.0.0
    }
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        &self.0.1[slot * SLOT / WORD + word]
    }
}

fn length(head: &Head) -> Option<usize> {
    usize::try_from(head[0]).ok()
}

#[test]
fn what_goes_in_comes_out_in_order_until_it_is_full() {
    let heap = Heap::new();
    let (producer, consumer) = (Producer::new(heap.clone(), 7), Consumer::new(heap, 1));
    let mut body = [0; BODY];
    for lap in 0..50_u64 {
        for n in 0..SLOTS as u64 {
            let bytes = vec![(lap + n) as u8; 8 * n as usize];
            assert!(producer.push(&[8 * n, lap, n, 0], &bytes));
        }
        assert!(!producer.push(&[0; HEAD], &[]));
        for n in 0..SLOTS as u64 {
            assert!(consumer.is_ready());
            let popped = consumer.pop(&mut body, length);
            assert_eq!(popped, Popped::Record([8 * n, lap, n, 0], 8 * n as usize));
            assert!(body[..8 * n as usize].iter().all(|b| *b == (lap + n) as u8));
        }
        assert!(!consumer.is_ready());
        assert_eq!(consumer.pop(&mut body, length), Popped::Nothing);
    }
}

/// Four producers, two consumers: everything arrives once, each producer's in its order.
#[test]
fn many_threads() {
    const EACH: u64 = 50_000;
    let heap = Heap::new();
    let consumer = Consumer::new(heap.clone(), 2);
    let done = AtomicBool::new(false);
    let mut taken: Vec<Vec<Head>> = std::thread::scope(|scope| {
        let consumers = [(); 2].map(|()| {
            scope.spawn(|| {
                let (mut taken, mut body) = (Vec::new(), [0; BODY]);
                loop {
                    let over = done.load(Acquire);
                    match consumer.pop(&mut body, length) {
                        Popped::Record(head, len) => {
                            assert!(body[..len].iter().all(|b| *b == head[2] as u8));
                            taken.push(head);
                        }
                        Popped::Nothing if over => return taken,
                        Popped::Nothing => std::thread::yield_now(),
                        Popped::Skipped | Popped::Damaged => panic!("nobody died"),
                    }
                }
            })
        });
        let producers = [1, 2, 3, 4].map(|who| {
            let producer = Producer::new(heap.clone(), who);
            scope.spawn(move || {
                for n in 0..EACH {
                    let len = 8 * (n % 5);
                    let body = [n as u8; 40];
                    while !producer.push(&[len, who, n, 0], &body[..len as usize]) {
                        std::thread::yield_now();
                    }
                }
            })
        });
        producers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        done.store(true, Release);
        consumers.map(|thread| thread.join().unwrap()).into()
    });
    for taken in &taken {
        for who in 1..=4 {
            let numbers = taken.iter().filter(|head| head[1] == who);
            assert!(numbers.map(|head| head[2]).is_sorted());
        }
    }
    let mut all = taken.remove(0);
    all.append(&mut taken.remove(0));
    all.sort_unstable_by_key(|head| (head[1], head[2]));
    let mut expected = (1..=4).flat_map(|who| (0..EACH).map(move |n| (who, n)));
    assert!(
        all.iter()
            .map(|head| (head[1], head[2]))
            .eq(expected.by_ref())
    );
}

/// Wherever the tail was written to, what was pushed before and after arrives.
#[test]
fn a_tail_that_cannot_be_is_put_right() {
    const LAP: u64 = SLOTS as u64;
    for start in [0, 3, 5 * LAP + 2] {
        for off in [1, 3, LAP - 1, LAP, LAP + 1, 1 << 20, 1 << 50, u64::MAX / 2] {
            for tail in [start + off, start.wrapping_sub(off)] {
                let heap = Heap::new();
                let (producer, consumer) = (
                    Producer::new(heap.clone(), 7),
                    Consumer::new(heap.clone(), 1),
                );
                let mut body = [0; BODY];
                for n in 0..start {
                    assert!(producer.push(&[0, n, 0, 0], &[]));
                    assert_eq!(
                        consumer.pop(&mut body, length),
                        Popped::Record([0, n, 0, 0], 0)
                    );
                }
                assert!(!consumer.mend());
                heap.tail().store(tail, Relaxed);
                // Somebody's way to push before anybody mends it, and after.
                let before = producer.push(&[0, 1, 0, 0], &[]);
                let mut taken = Vec::new();
                for _ in 0..3 * LAP {
                    consumer.mend();
                    match consumer.pop(&mut body, length) {
                        Popped::Record(head, _) => taken.push(head[1]),
                        Popped::Nothing | Popped::Skipped => {}
                        Popped::Damaged => panic!("nothing but the tail was damaged"),
                    }
                }
                assert_eq!(taken, [1][..usize::from(before)], "tail {tail} at {start}");
                for n in 10..10 + 2 * LAP {
                    assert!(producer.push(&[0, n, 0, 0], &[]), "tail {tail} at {start}");
                    assert_eq!(
                        consumer.pop(&mut body, length),
                        Popped::Record([0, n, 0, 0], 0)
                    );
                }
                assert!(!consumer.mend());
            }
        }
    }
}

#[test]
fn whatever_is_written_the_consumer_comes_through() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let heap = Heap::new();
        let (producer, consumer) = (
            Producer::new(heap.clone(), 7),
            Consumer::new(heap.clone(), 1),
        );
        let mut body = [0; BODY];
        for _ in 0..200 {
            let word = match random.u8(..4) {
                0 => random.u64(..),
                1 => random.u64(..4),
                _ => u64::from(random.u8(..3)) << LAP_SHIFT | random.u64(..4),
            };
            match random.u8(..4) {
                0 => heap.tail().store(word, Relaxed),
                1 => heap.word(random.usize(..SLOTS), 1).store(word, Relaxed),
                _ => heap.word(random.usize(..SLOTS), 0).store(word, Relaxed),
            }
            let _ = producer.push(&[8, 0, 0, 0], &[0; 8]);
            // A turn has an end.
            for _ in 0..3 * SLOTS {
                match consumer.pop(&mut body, length) {
                    Popped::Record(head, len) => assert_eq!(head[0], len as u64),
                    Popped::Nothing => break,
                    Popped::Skipped | Popped::Damaged => {}
                }
            }
            consumer.skip_claims(7);
            consumer.mend();
        }
    }
}
