//! The ring under loom: every interleaving with up to three preemptions, and every stale value that
//! the orderings allow.
//!
//! A model is a small program of two threads over a ring of 32 or 64 bytes. What loom explores
//! besides what the assertions say: bodies that are read while they may be written (the cells of
//! [`HeapSegment`]), and threads that wait for ever.

use super::{Consumer, HeapSegment, Producer, PushError, Ready};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

type Sending = Producer<HeapSegment, HeapSegment>;
type Receiving = Consumer<HeapSegment, HeapSegment>;

/// Explores `model` and returns how many executions it had. Each execution gets the same
/// counters, in which it can say what it came by.
pub(crate) fn explore<const N: usize>(
    model: impl Fn(&[AtomicUsize; N]) + Sync + Send + 'static,
) -> [usize; N] {
    let reached = Arc::new([const { AtomicUsize::new(0) }; N]);
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    let (inner, count) = (reached.clone(), executions.clone());
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        model(&inner);
    });
    let reached = std::array::from_fn(|at| reached[at].load(Relaxed));
    eprintln!("{} executions, {reached:?}", executions.load(Relaxed));
    reached
}

/// A ring whose two ends stand at `position`.
fn ring(capacity: usize, position: u64) -> (Sending, Receiving) {
    let (producing, consuming) = (HeapSegment::new(capacity), HeapSegment::new(0));
    let mut producer = Producer::new(producing.clone(), consuming.clone(), capacity);
    let mut consumer = Consumer::new(producing, consuming, capacity);
    while producer.position() < position {
        producer.push(u32::MAX, &[]).unwrap();
        consumer.pop(|_| ()).unwrap().unwrap();
        consumer.release();
    }
    (producer, consumer)
}

/// A body of `len` bytes, a multiple of eight, all of them like the tag.
fn body(tag: u32, len: usize) -> Vec<u8> {
    vec![tag as u8; len]
}

/// Stages a record, waiting for space. `full` counts the times that there was none.
fn stage(producer: &mut Sending, tag: u32, len: usize, full: &AtomicUsize) {
    loop {
        match producer.stage(tag, &body(tag, len)) {
            Ok(()) => break,
            Err(PushError::Full) => {
                full.fetch_add(1, Relaxed);
                producer.publish();
                thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Takes a record if there is one, and checks that it is this one, whole.
fn take(consumer: &mut Receiving, tag: u32, len: usize) -> bool {
    let popped = consumer.pop(|record| {
        let mut bytes = Vec::new();
        record.append_to(0, &mut bytes);
        assert_eq!(record.tag(), tag);
        assert_eq!(bytes, body(tag, len));
    });
    popped.unwrap().is_some()
}

/// Takes these records one after another, waiting for each. Releases only when it finds nothing.
fn take_all(consumer: &mut Receiving, records: &[(u32, usize)]) {
    for (tag, len) in records {
        while !take(consumer, *tag, *len) {
            consumer.release();
            thread::yield_now();
        }
    }
    assert_eq!(consumer.ready(), Ready::Empty);
}

/// Sends `records` from one thread to another, each published by itself. Asserts that the ring was
/// full in some executions.
fn transfer(capacity: usize, position: u64, records: &'static [(u32, usize)]) {
    let [full] = explore(move |[full]| {
        let (mut producer, mut consumer) = ring(capacity, position);
        let consuming = thread::spawn(move || take_all(&mut consumer, records));
        for (tag, len) in records {
            stage(&mut producer, *tag, *len, full);
            producer.publish();
        }
        consuming.join().unwrap();
    });
    assert!(full > 0, "the ring was never full");
}

/// Push and pop in the smallest ring, one record at a time, round the end of the ring.
#[test]
fn push_and_pop() {
    transfer(32, 0, &[(1, 8), (2, 8), (3, 8), (4, 8)]);
}

/// Records of different lengths over each other's remains, with a filler of one word.
#[test]
fn wrap_behind_a_short_filler() {
    transfer(64, 0, &[(1, 24), (2, 16), (3, 16), (4, 8)]);
}

/// The longest record behind the longest filler: they fit only once everything was consumed and
/// released.
#[test]
fn wrap_behind_the_longest_filler() {
    transfer(64, 24, &[(1, 8), (2, 24), (3, 8)]);
}

/// Small records, more than fit, so that the head travels per quarter of the ring.
#[test]
fn the_head_is_released_lazily() {
    transfer(64, 0, &[(1, 16), (2, 0), (3, 0), (4, 8), (5, 0), (6, 0)]);
}

/// A producer that goes back to the ring's start as soon as enough of it was consumed, and a
/// consumer that follows it behind the long filler, or through the whole ring if it is slow.
#[test]
fn small_records_go_back_early() {
    let records: &[(u32, usize)] = &[(1, 8), (2, 0), (3, 8), (4, 0), (5, 8), (6, 8)];
    let [back, on] = explore(move |[back, on]| {
        let (producing, consuming) = (HeapSegment::new(64), HeapSegment::new(0));
        let mut producer = Producer::with_hot_bytes(producing.clone(), consuming.clone(), 64, 32);
        let mut consumer = Consumer::new(producing, consuming, 64);
        let taking = thread::spawn(move || take_all(&mut consumer, records));
        let mut sent = 0;
        for (tag, len) in records {
            stage(&mut producer, *tag, *len, on);
            producer.publish();
            sent += crate::layout::record_size(*len) as u64;
        }
        if producer.position() > sent {
            back.fetch_add(1, Relaxed);
        } else {
            on.fetch_add(1, Relaxed);
        }
        taking.join().unwrap();
    });
    assert!(back > 0 && on > 0, "{back} {on}");
}

/// Sends `batches` of records. Asserts that the consumer sees each batch as a whole or not at all,
/// and not before it is published. Space that suffices for a batch's first record must suffice for
/// the whole batch.
fn transfer_batches(position: u64, batches: &'static [&'static [(u32, usize)]]) {
    explore(move |[full]| {
        let (mut producer, mut consumer) = ring(64, position);
        // Not loom's, so always as new as the execution is.
        let published = Arc::new(AtomicUsize::new(0));
        let publishing = published.clone();
        let consuming = thread::spawn(move || {
            for (index, batch) in batches.iter().enumerate() {
                let (first, rest) = batch.split_first().unwrap();
                let before = consumer.position();
                while !take(&mut consumer, first.0, first.1) {
                    assert_eq!(consumer.position(), before, "a filler came alone");
                    consumer.release();
                    thread::yield_now();
                }
                assert!(
                    published.load(Relaxed) > index,
                    "seen before it was published"
                );
                for (tag, len) in rest {
                    assert!(take(&mut consumer, *tag, *len), "a batch came in pieces");
                }
            }
            assert_eq!(consumer.ready(), Ready::Empty);
        });
        for batch in batches {
            let (first, rest) = batch.split_first().unwrap();
            stage(&mut producer, first.0, first.1, full);
            for (tag, len) in rest {
                producer.stage(*tag, &body(*tag, *len)).unwrap();
            }
            publishing.fetch_add(1, Relaxed);
            assert!(producer.publish());
        }
        consuming.join().unwrap();
    });
}

#[test]
fn batches_are_seen_whole() {
    transfer_batches(0, &[&[(1, 8), (2, 8)], &[(3, 24), (4, 0)], &[(5, 8)]]);
}

#[test]
fn a_batch_that_begins_with_a_filler_is_seen_whole() {
    transfer_batches(8, &[&[(1, 8), (2, 8)], &[(3, 24)], &[(4, 0), (5, 0)]]);
}

#[test]
fn a_batch_with_a_filler_inside_is_seen_whole() {
    transfer_batches(32, &[&[(1, 8)], &[(2, 0), (3, 8), (4, 0)], &[(5, 24)]]);
}

/// Consumes up to the end of the ring. Asserts that it gets exactly these records.
fn take_until_closed(mut consumer: Receiving, records: &[(u32, usize)]) {
    let mut left = records.iter();
    loop {
        match consumer.ready() {
            Ready::Closed => break,
            Ready::Empty => {
                consumer.release();
                thread::yield_now();
            }
            Ready::Data => {
                let before = consumer.position();
                let popped = consumer.pop(|record| {
                    let mut bytes = Vec::new();
                    record.append_to(0, &mut bytes);
                    let (tag, len) = *left.next().expect("a record that nobody sent");
                    assert_eq!((record.tag(), bytes), (tag, body(tag, len)));
                });
                popped.unwrap();
                assert!(consumer.position() > before, "data, but nothing to consume");
            }
        }
    }
    assert_eq!(left.next(), None, "closed before the last record");
    assert_eq!(consumer.pop(|_| ()), Ok(None));
    assert_eq!(consumer.ready(), Ready::Closed);
}

/// Closes a ring at once after `send`, with a consumer at work.
fn close_after(
    capacity: usize,
    position: u64,
    records: &'static [(u32, usize)],
    send: impl Fn(&mut Sending, &AtomicUsize) + Sync + Send + 'static,
) {
    explore(move |[full]| {
        let (mut producer, consumer) = ring(capacity, position);
        let consuming = thread::spawn(move || take_until_closed(consumer, records));
        send(&mut producer, full);
        producer.close();
        assert_eq!(producer.push(0, &[]), Err(PushError::Closed));
        consuming.join().unwrap();
    });
}

#[test]
fn the_end_comes_after_what_was_staged() {
    close_after(64, 0, &[(1, 8), (2, 16)], |producer, full| {
        stage(producer, 1, 8, full);
        producer.publish();
        stage(producer, 2, 16, full);
    });
}

/// The smallest ring is full up to the one free word, and the last word lies where a body was.
#[test]
fn a_full_ring_can_be_closed() {
    close_after(32, 8, &[(1, 8), (2, 8), (3, 0)], |producer, full| {
        for (tag, len) in [(1, 8), (2, 8), (3, 0)] {
            stage(producer, tag, len, full);
            producer.publish();
        }
    });
}

/// A filler whose record was given up: published by itself, then followed by a record or the end.
#[test]
fn a_filler_may_be_all_there_is() {
    close_after(64, 48, &[(1, 8)], |producer, full| {
        drop(producer.reserve(24).unwrap());
        assert!(producer.publish());
        stage(producer, 1, 8, full);
    });
    close_after(64, 48, &[], |producer, _| {
        drop(producer.reserve(24).unwrap());
    });
}
