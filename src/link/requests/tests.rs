//! Feed and inlet over a real queue, in one process.

use super::*;
use crate::ring::{self, Producer, Ready};
use crate::segment::{LocalData, LocalWords, PeerData, PeerWords, private};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};

const CAPACITY: usize = 4096;

/// The two ends of a connection whose requests go through a queue.
struct Ends {
    producer: Producer<LocalData, PeerWords>,
    feed: Feed,
    consumer: ring::Consumer<PeerData, LocalWords>,
    registration: Registration,
}

fn ends(queue: &Arc<RequestQueue>, connection: u64) -> Ends {
    let words = queue.consumer.memory().clone();
    // The server's words: the client sees its head, and whether it sleeps.
    let (own, _, seen, _) = private(CAPACITY);
    let (_, written, _, read) = private(CAPACITY);
    let feed = Feed::new(words, read, CAPACITY, connection, seen.clone());
    let (_, kept, _, taken) = private(CAPACITY);
    let inlet = Inlet::new(kept, own.clone(), CAPACITY);
    Ends {
        producer: Producer::new(written, seen, CAPACITY),
        feed,
        consumer: ring::Consumer::new(taken, own, CAPACITY),
        registration: queue.register(connection, inlet),
    }
}

fn drain(queue: &RequestQueue) -> usize {
    queue.drain(usize::MAX, 0, &mut Vec::new())
}

/// A record of this number.
fn record(n: u64) -> Vec<u8> {
    let len = (n * 37 % 23) * (n * 37 % 23) * 3;
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|at| (n + at) as u8));
    bytes
}

/// Takes what is there; each record must be the next one.
fn take(consumer: &mut ring::Consumer<PeerData, LocalWords>, next: &mut u64) {
    while let Some(bytes) = consumer
        .pop(|record| {
            let mut bytes = Vec::new();
            record.append_to(0, &mut bytes);
            bytes
        })
        .unwrap()
    {
        assert!(bytes == record(*next), "record {next}");
        *next += 1;
    }
    consumer.release();
}

#[test]
fn what_is_published_arrives_whole_and_in_order() {
    let queue = RequestQueue::create(2).unwrap();
    let mut ends = ends(&queue, 5);
    let (mut sent, mut got) = (0, 0);
    for batch in 0..2000_u64 {
        for _ in 0..=batch % 7 {
            if ends.producer.stage(3, &record(sent)).is_err() {
                break;
            }
            sent += 1;
        }
        let before = got;
        ends.producer.publish();
        assert!(ends.feed.publish(ends.producer.position()));
        drain(&queue);
        take(&mut ends.consumer, &mut got);
        assert_eq!(got, sent, "{before} before this batch");
    }
    assert!(ends.producer.position() > 50 * CAPACITY as u64);
    ends.producer.close();
    assert!(ends.feed.close(ends.producer.position()));
    drain(&queue);
    assert_eq!(ends.consumer.ready(), Ready::Closed);
}

/// Workers that take pieces at the same time put them in another order.
#[test]
fn several_workers_and_several_clients() {
    const RECORDS: u64 = 5_000;
    let queue = RequestQueue::create(2).unwrap();
    let ended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for connection in 1..=3 {
            let Ends {
                mut producer,
                mut feed,
                mut consumer,
                registration,
            } = ends(&queue, connection);
            scope.spawn(move || {
                let mut sent = 0;
                while sent < RECORDS {
                    while sent < RECORDS && producer.stage(3, &record(sent)).is_ok() {
                        sent += 1;
                    }
                    producer.publish();
                    while !feed.publish(producer.position()) {
                        std::thread::yield_now();
                    }
                    std::thread::yield_now();
                }
            });
            let ended = &ended;
            scope.spawn(move || {
                let mut got = 0;
                while got < RECORDS {
                    take(&mut consumer, &mut got);
                    std::thread::yield_now();
                }
                ended.fetch_add(1, Release);
                drop(registration);
            });
        }
        for worker in 0..3 {
            let (queue, ended) = (&queue, &ended);
            scope.spawn(move || {
                while ended.load(Acquire) < 3 {
                    queue.drain(7, worker, &mut Vec::new());
                    std::thread::yield_now();
                }
            });
        }
    });
}

#[test]
fn pieces_in_any_order_make_the_same_ring() {
    let queue = RequestQueue::create(2).unwrap();
    let mut ends = ends(&queue, 5);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut sent, mut got) = (0, 0);
    for _ in 0..300 {
        for _ in 0..random.usize(1..8) {
            if ends.producer.stage(3, &record(sent)).is_ok() {
                sent += 1;
            }
            if random.bool() {
                ends.producer.publish();
                assert!(ends.feed.publish(ends.producer.position()));
            }
        }
        ends.producer.publish();
        assert!(ends.feed.publish(ends.producer.position()));
        let mut pieces = Vec::new();
        let mut body = [0; BODY];
        while let Popped::Record(head, len) = queue.consumer.pop(&mut body, Piece::len) {
            pieces.push((Piece::of(&head), body[..len].to_vec()));
        }
        random.shuffle(&mut pieces);
        for (piece, body) in pieces {
            ends.registration.inlet().take(piece, &body, 0).unwrap();
        }
        take(&mut ends.consumer, &mut got);
        assert_eq!(got, sent);
    }
}

#[test]
fn a_batch_is_not_seen_before_its_end_and_a_queue_without_room_is_said() {
    let queue = RequestQueue::create(2).unwrap();
    let mut ends = ends(&queue, 5);
    let other = queue.consumer.memory().clone();
    let other = crate::queue::Producer::new(other, 9);
    // All slots but one, for nobody.
    let nobody = [0, 0, 0, 9];
    (1..crate::layout::queue::SLOTS).for_each(|_| assert!(other.push(&nobody, &[])));
    for n in [4, 5, 6] {
        ends.producer.stage(3, &record(n)).unwrap();
    }
    assert!(ends.producer.publish());
    assert!(ends.producer.position() as usize > BODY, "one piece");
    assert!(!ends.feed.publish(ends.producer.position()));
    drain(&queue);
    assert_eq!(ends.consumer.ready(), Ready::Empty);
    assert!(ends.feed.send());
    drain(&queue);
    let mut got = 4;
    take(&mut ends.consumer, &mut got);
    assert_eq!(got, 7);
}

#[test]
fn who_is_gone_holds_up_nobody() {
    let queue = RequestQueue::create(2).unwrap();
    let mut ends = ends(&queue, 5);
    let words = queue.consumer.memory().clone();
    // Client 7 is killed between claim and fill.
    use crate::queue::Memory;
    let claim = || words.word(words.tail().load(Relaxed) as usize, 0);
    claim().store(7 << 2 | 1, Relaxed);
    ends.producer.push(3, &record(0)).unwrap();
    assert!(ends.feed.publish(ends.producer.position()));
    assert_eq!(drain(&queue), 0);
    let (_, kept, _, _) = private(CAPACITY);
    let (own, _, _, _) = private(CAPACITY);
    let dead = queue.register(7, Inlet::new(kept, own, CAPACITY));
    // While it may still live it is waited for.
    queue.skip_strays();
    assert_eq!(drain(&queue), 0);
    drop(dead);
    assert_eq!(drain(&queue), 2, "a skipped slot and a piece");
    // One whose connection is closed already, and who did not know.
    claim().store(7 << 2 | 1, Relaxed);
    ends.producer.push(3, &record(1)).unwrap();
    assert!(ends.feed.publish(ends.producer.position()));
    assert_eq!(drain(&queue), 0);
    queue.skip_strays();
    assert_eq!(drain(&queue), 3, "a skipped slot and two pieces");
    let mut got = 0;
    take(&mut ends.consumer, &mut got);
    assert_eq!(got, 2);
}

#[test]
fn whatever_is_in_a_piece_the_inlet_refuses_or_takes_it() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut refused = 0;
    let queue = RequestQueue::create(2).unwrap();
    for _ in 0..3000 {
        let mut ends = ends(&queue, 5);
        let number = |random: &mut fastrand::Rng| match random.u8(..6) {
            0 => random.u64(..),
            1 => u64::MAX - random.u64(..5000),
            2 => 8 * random.u64(..600),
            _ => random.u64(..4),
        };
        for _ in 0..20 {
            let piece = Piece {
                flags: FLAGS & random.u64(..),
                number: number(&mut random),
                position: number(&mut random)
                    .wrapping_mul(8)
                    .wrapping_add(u64::from(random.u8(..9) == 0)),
                connection: 5,
            };
            let body: Vec<u8> = (0..8 * random.usize(..=BODY / 8))
                .map(|_| random.u8(..))
                .collect();
            refused += usize::from(ends.registration.inlet().take(piece, &body, 0).is_err());
            // What came of it is read as if the client had written it.
            for _ in 0..10 {
                if !matches!(ends.consumer.pop(|record| record.len()), Ok(Some(_))) {
                    break;
                }
            }
            ends.consumer.release();
        }
    }
    assert!(refused > 1000, "{refused}");
}
