//! The ring against a model of itself, against hostile peers, and between two threads; each over
//! words on the heap and over real segments.

mod hostile;
mod model;
mod threads;

use super::{Consumer, Cursors, HeapSegment, Producer, PushError, Reservation, Sink, Source};
use crate::layout;
use crate::segment::{self, LocalData, LocalSegment, LocalWords, PeerData, PeerWords};
use crate::settings::Memory;

/// A kind of memory that a ring can lie in.
trait Place {
    type Data: Sink + Send + 'static;
    type View: Source + Send + 'static;
    /// Words of the side that they are used on.
    type Own: Cursors + Send + 'static;
    /// Words of the other side.
    type Peer: Cursors + Send + 'static;

    fn ring(capacity: usize) -> Ring<Self>;

    /// Writes a whole body by the shortest way that this memory offers.
    fn fill(reservation: &mut Reservation<'_, Self::Data, Self::Peer>, body: &[u8]);
}

/// A ring and what an observer on either side can see of it.
struct Ring<P: Place + ?Sized> {
    producer: Producer<P::Data, P::Peer>,
    consumer: Consumer<P::View, P::Own>,
    /// Where the producer mirrors its tail, and the consumer's view of that.
    tail: (P::Own, P::Peer),
    /// The producer's view of the consumer's head.
    head: P::Peer,
}

/// Words on the heap.
struct Heap;

impl Place for Heap {
    type Data = HeapSegment;
    type View = HeapSegment;
    type Own = HeapSegment;
    type Peer = HeapSegment;

    fn ring(capacity: usize) -> Ring<Self> {
        let producing = HeapSegment::new(capacity);
        let consuming = HeapSegment::new(0);
        Ring {
            producer: Producer::new(producing.clone(), consuming.clone(), capacity),
            consumer: Consumer::new(producing.clone(), consuming.clone(), capacity),
            tail: (producing.clone(), producing),
            head: consuming,
        }
    }

    fn fill(reservation: &mut Reservation<'_, HeapSegment, HeapSegment>, body: &[u8]) {
        reservation.write(0, body);
    }
}

/// Sealed segments, each mapped twice: by its creator and, read-only, by its receiver.
struct Segments;

impl Place for Segments {
    type Data = LocalData;
    type View = PeerData;
    type Own = LocalWords;
    type Peer = PeerWords;

    fn ring(capacity: usize) -> Ring<Self> {
        let (producing, handle) = LocalSegment::create(capacity, &Memory::default()).unwrap();
        let (tail, data) = producing.into_parts();
        let (tail_seen, view) = segment::open_peer(handle, capacity).unwrap();
        let (consuming, handle) = LocalSegment::create(capacity, &Memory::default()).unwrap();
        let (own, _) = consuming.into_parts();
        let (head_seen, _) = segment::open_peer(handle, capacity).unwrap();
        Ring {
            producer: Producer::new(data, head_seen.clone(), capacity),
            consumer: Consumer::new(view, own, capacity),
            tail: (tail, tail_seen),
            head: head_seen,
        }
    }

    fn fill(reservation: &mut Reservation<'_, LocalData, PeerWords>, body: &[u8]) {
        reservation.body_mut().copy_from_slice(body);
    }
}

/// Bytes that differ from record to record, so that remains of an earlier lap are noticed.
fn body(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| {
            (seed
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(at as u32)
                ^ at) as u8
        })
        .collect()
}

/// A ring of 64 bytes on the heap with one published record of 16 bytes, `1..=16`.
fn ring_with_a_record() -> Ring<Heap> {
    let mut ring = Heap::ring(64);
    let bytes: Vec<u8> = (1..=16).collect();
    ring.producer.push(7, &bytes).unwrap();
    ring
}

#[test]
fn a_record_is_read_by_any_part() {
    let mut ring = ring_with_a_record();
    let visited = ring.consumer.pop(|record| {
        assert_eq!(
            (record.tag(), record.len(), record.is_empty()),
            (7, 16, false)
        );
        let mut middle = [0; 5];
        record.read(6, &mut middle);
        assert_eq!(middle, [7, 8, 9, 10, 11]);
        record.read(16, &mut []);
        let mut rest = vec![0xff];
        record.append_to(13, &mut rest);
        record.append_to(16, &mut rest);
        record.append_to(usize::MAX, &mut rest);
        assert_eq!(rest, [0xff, 14, 15, 16]);
        let words = [0, 8, 16, usize::MAX - 7].map(|at| record.read_u64(at));
        let [first, second] = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]];
        let expected = [first, second].map(|bytes| Some(u64::from_le_bytes(bytes)));
        assert_eq!(words, [expected[0], expected[1], None, None]);
    });
    assert_eq!(visited, Ok(Some(())));
}

#[test]
#[should_panic(expected = "read beyond the record")]
fn a_read_stays_in_its_record() {
    let _ = ring_with_a_record()
        .consumer
        .pop(|record| record.read(9, &mut [0; 8]));
}

#[test]
#[should_panic(expected = "unaligned word")]
fn a_word_is_read_aligned() {
    let _ = ring_with_a_record()
        .consumer
        .pop(|record| record.read_u64(4));
}

#[test]
#[should_panic(expected = "write beyond the reservation")]
fn a_write_stays_in_its_reservation() {
    let mut ring = Heap::ring(64);
    ring.producer.reserve(8).unwrap().write(1, &[0; 8]);
}

#[test]
#[should_panic(expected = "word beyond the reservation")]
fn a_word_stays_in_its_reservation() {
    let mut ring = Heap::ring(64);
    ring.producer.reserve(15).unwrap().write_u64(8, 0);
}

#[test]
#[should_panic(expected = "word beyond the reservation")]
fn a_word_near_the_end_of_all_numbers_is_beyond_the_reservation() {
    let mut ring = Heap::ring(64);
    ring.producer
        .reserve(16)
        .unwrap()
        .write_u64(usize::MAX - 7, 0);
}

#[test]
#[should_panic(expected = "commit beyond the reservation")]
fn a_commit_stays_in_its_reservation() {
    let mut ring = Heap::ring(64);
    ring.producer.reserve(8).unwrap().commit_prefix(0, 9);
}

#[test]
fn impossible_capacities_are_refused() {
    // A body of half of the last one would not fit into a commit word's length.
    for capacity in [
        0,
        8,
        16,
        48,
        layout::MAX_CAPACITY - 1,
        layout::MAX_CAPACITY * 2,
        1 << 32,
    ] {
        let producer = std::panic::catch_unwind(|| {
            Producer::new(HeapSegment::new(64), HeapSegment::new(0), capacity)
        });
        let consumer = std::panic::catch_unwind(|| {
            Consumer::new(HeapSegment::new(64), HeapSegment::new(0), capacity)
        });
        assert!(
            producer.is_err() && consumer.is_err(),
            "capacity {capacity}"
        );
    }
}

#[test]
fn a_body_fills_half_the_ring_and_no_more() {
    for capacity in [32, 64, 4096] {
        let Ring {
            mut producer,
            mut consumer,
            ..
        } = Heap::ring(capacity);
        let max = producer.max_body();
        assert_eq!(layout::record_size(max), capacity / 2);
        // Wherever the ring is empty, the longest record fits: behind a filler if need be.
        for lap in 0..3 * capacity as u64 / 8 {
            producer.push(1, &body(lap, max)).unwrap();
            assert_eq!(consumer.pop(|record| record.len()), Ok(Some(max)));
            producer.push(1, &[]).unwrap_or_else(|error| {
                assert_eq!(error, PushError::Full);
                consumer.release();
                producer.push(1, &[]).unwrap();
            });
            assert_eq!(consumer.pop(|record| record.len()), Ok(Some(0)));
            consumer.release();
        }
        let too_long = PushError::TooLong { len: max + 1, max };
        assert_eq!(producer.push(1, &body(0, max + 1)), Err(too_long));
        let too_long = PushError::TooLong {
            len: usize::MAX,
            max,
        };
        assert_eq!(producer.has_space(usize::MAX), Err(too_long));
    }
}
