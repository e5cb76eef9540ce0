//! Two threads at full speed. The interleavings are what the machine gives; `models` has them all.

use super::*;
use crate::layout::max_body;
use crate::ring::{CLOSE, COMMITTED, FILLER, HOT, Ready};
use crate::sync::Ordering::Relaxed;
use std::sync::atomic::AtomicBool;
use std::thread;

/// A small generator; the same numbers on both sides, without a channel between them.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Length of the record with this number: mostly small, some as long as the ring takes.
fn length(number: u64, max: usize) -> usize {
    let random = random(number) as usize;
    match random % 64 {
        0 => max,
        1 => random >> 8 & max,
        _ => (random >> 8) % (max + 1).min(200),
    }
}

/// Times that a side may find nothing to do in a row: some seconds, more if there is load.
const PATIENCE: u32 = 1 << 26;

/// Waits a little for the other side, which works, or has to be let to work: on a machine with other
/// work, whoever yields waits for all of it.
fn rest(tries: u32) {
    if tries.is_multiple_of(64) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

/// Sends `count` records through a ring and checks every byte.
fn transfer<P: Place>(capacity: usize, count: u64) {
    transfer_over(P::ring(capacity), capacity, count);
}

fn transfer_over<P: Place>(ring: Ring<P>, capacity: usize, count: u64) {
    let Ring {
        mut producer,
        mut consumer,
        ..
    } = ring;
    let max = max_body(capacity);
    let producing = thread::spawn(move || {
        let mut number = 0;
        while number < count {
            // Batches of up to eight, each record staged in one of three ways.
            for _ in 0..random(number) % 8 + 1 {
                if number == count {
                    break;
                }
                let bytes = body(number, length(number, max));
                let tag = number as u32;
                let mut tries = 0;
                loop {
                    let staged = match number % 3 {
                        0 => producer.stage(tag, &bytes),
                        1 => producer.reserve(bytes.len()).map(|mut reservation| {
                            P::fill(&mut reservation, &bytes);
                            reservation.commit(tag);
                        }),
                        // More than is needed, if it is to be had.
                        _ => match producer.reserve((bytes.len() + 20).min(max)) {
                            Ok(mut reservation) => {
                                reservation.write(0, &bytes);
                                reservation.commit_prefix(tag, bytes.len());
                                Ok(())
                            }
                            Err(error) => Err(error),
                        },
                    };
                    match staged {
                        Ok(()) => break,
                        Err(PushError::Full) => {
                            producer.publish();
                            tries += 1;
                            assert!(tries < PATIENCE, "full for ever");
                            rest(tries);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                number += 1;
            }
            producer.publish();
        }
        producer.close();
    });
    let mut number = 0;
    let mut bytes = Vec::new();
    let mut tries = 0;
    loop {
        let over = producing.is_finished();
        let drained = consumer.drain(usize::MAX, |record| {
            assert_eq!(record.tag(), number as u32);
            bytes.clear();
            record.append_to(0, &mut bytes);
            assert_eq!(bytes, body(number, length(number, max)), "record {number}");
            number += 1;
        });
        consumer.release();
        if drained == Ok(0) {
            if consumer.ready() == Ready::Closed {
                break;
            }
            assert!(!over, "the producer gave up");
            tries += 1;
            assert!(tries < PATIENCE, "empty for ever");
            rest(tries);
        } else {
            tries = 0;
        }
        drained.unwrap();
    }
    assert_eq!(number, count);
    producing.join().unwrap();
}

#[test]
fn every_byte_arrives_over_the_heap() {
    for (capacity, count) in [(32, 40_000), (64, 40_000), (1024, 40_000), (16384, 20_000)] {
        transfer::<Heap>(capacity, count);
    }
}

#[test]
fn every_byte_arrives_behind_early_turns() {
    for (capacity, hot, count) in [(64, 32, 40_000), (1024, 128, 40_000), (16384, 1024, 20_000)] {
        let mut ring = Heap::ring(capacity);
        let (producing, consuming) = (HeapSegment::new(capacity), HeapSegment::new(0));
        ring.producer =
            Producer::with_hot_bytes(producing.clone(), consuming.clone(), capacity, hot);
        ring.consumer = Consumer::new(producing, consuming, capacity);
        transfer_over(ring, capacity, count);
    }
    transfer::<Segments>(65536, 40_000);
}

#[test]
fn small_records_keep_to_the_hot_bytes_while_the_consumer_keeps_up() {
    const CAPACITY: usize = 4 * HOT;
    let Ring {
        mut producer,
        mut consumer,
        ..
    } = Heap::ring(CAPACITY);
    let mut highest = 0;
    for number in 0..10_000_u32 {
        producer.push(number, &[1; 64]).unwrap();
        assert_eq!(consumer.pop(|record| record.tag()), Ok(Some(number)));
        highest = highest.max(producer.position() as usize % CAPACITY);
    }
    assert!(highest <= HOT, "{highest}");
    // Who does not keep up gets the whole ring.
    let before = producer.position();
    while producer.push(0, &[1; 64]).is_ok() {}
    let used = (producer.position() - before) as usize;
    assert!(used > CAPACITY - HOT, "{used} bytes");
}

#[test]
fn every_byte_arrives_over_segments() {
    for (capacity, count) in [(32, 40_000), (64, 40_000), (1024, 40_000), (16384, 20_000)] {
        transfer::<Segments>(capacity, count);
    }
}

#[test]
fn a_consumer_survives_a_producer_that_scribbles() {
    const CAPACITY: usize = 256;
    static DONE: AtomicBool = AtomicBool::new(false);
    let (local, handle) = LocalSegment::create(CAPACITY, &Memory::default()).unwrap();
    let (_, data) = local.into_parts();
    let (_, view) = segment::open_peer(handle, CAPACITY).unwrap();
    let scribbling = thread::spawn(move || {
        let mut number = 0;
        while !DONE.load(Relaxed) {
            number += 1;
            let random = random(number);
            let at = (random >> 40) as usize % CAPACITY / 8 * 8;
            let len = (random >> 20) % (CAPACITY as u64 / 2);
            let word = match random % 16 {
                0 => random,
                1 => 0,
                2 => CLOSE,
                3 => COMMITTED | FILLER | (CAPACITY - at - 8) as u64,
                _ => COMMITTED | len,
            };
            Sink::word(&data, at).store(word, Relaxed);
        }
    });
    let mut consumer = Consumer::new(view, HeapSegment::new(0), CAPACITY);
    let (mut records, mut refused) = (0, 0);
    let mut bytes = Vec::new();
    while records < 2_000 || refused < 100 {
        let popped = consumer.pop(|record| {
            bytes.clear();
            record.append_to(0, &mut bytes);
            assert!(bytes.len() <= max_body(CAPACITY));
        });
        match popped {
            Ok(Some(())) => records += 1,
            Ok(None) => thread::yield_now(),
            Err(_) => {
                refused += 1;
                thread::yield_now();
            }
        }
    }
    DONE.store(true, Relaxed);
    scribbling.join().unwrap();
}
