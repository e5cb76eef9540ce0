//! Peers that write whatever they like, whenever they like.

use super::*;
use crate::layout::{max_body, record_size};
use crate::ring::{CLOSE, COMMITTED, FILLER, Ready, Record, RingError};
use crate::sync::{AtomicU64, Ordering::Relaxed};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A word that a hostile producer puts somewhere.
#[derive(Debug, Clone, Copy)]
enum Planted {
    Any(u64),
    Record {
        len: u64,
        tag: u32,
    },
    Filler {
        len: u64,
        tag: u32,
    },
    /// The filler that belongs at that place, but for these bits.
    FittingFiller {
        but: u64,
    },
    Uncommitted {
        len: u64,
        tag: u32,
    },
    Close,
    Nothing,
}

impl Planted {
    fn at(self, offset: usize, capacity: usize) -> u64 {
        let tagged = |len: u64, tag: u32| len | u64::from(tag) << 32;
        match self {
            Planted::Any(word) => word,
            Planted::Record { len, tag } => COMMITTED | tagged(len, tag),
            Planted::Filler { len, tag } => COMMITTED | FILLER | tagged(len, tag),
            Planted::FittingFiller { but } => {
                but ^ (COMMITTED | FILLER | (capacity - offset - 8) as u64)
            }
            Planted::Uncommitted { len, tag } => tagged(len, tag),
            Planted::Close => CLOSE,
            Planted::Nothing => 0,
        }
    }
}

fn any_planted() -> impl Strategy<Value = Planted> {
    let len = || prop_oneof![6 => 0..=64_u64, 2 => 0..=600_u64, 1 => 0..1_u64 << 30];
    let tag = || prop_oneof![2 => Just(0), 1 => Just(1), 1 => any::<u32>()];
    prop_oneof![
        2 => any::<u64>().prop_map(Planted::Any),
        20 => (len(), any::<u32>()).prop_map(|(len, tag)| Planted::Record { len, tag }),
        2 => (len(), tag()).prop_map(|(len, tag)| Planted::Filler { len, tag }),
        4 => Just(Planted::FittingFiller { but: 0 }),
        2 => prop::sample::select(vec![COMMITTED, FILLER, 1, 8, 1 << 32, 1 << 63])
            .prop_map(|but| Planted::FittingFiller { but }),
        1 => (len(), tag()).prop_map(|(len, tag)| Planted::Uncommitted { len, tag }),
        1 => Just(Planted::Close),
        1 => Just(Planted::Nothing),
    ]
}

/// What a consumer has to make of its next pop.
#[derive(Debug, PartialEq)]
enum Verdict {
    Nothing,
    Record { tag: u32, len: usize },
    Bad(RingError),
}

/// Judges `words` by the ring's documentation, from the position `head` on. Returns also where
/// the head is afterwards.
fn judge(words: &[u64], mut head: u64) -> (Verdict, u64) {
    let capacity = words.len() * 8;
    let bad = |word, position| {
        (
            Verdict::Bad(RingError::BadCommitWord { word, position }),
            position,
        )
    };
    let mut offset = head as usize % capacity;
    let mut word = words[offset / 8];
    if word & FILLER != 0 && word != CLOSE {
        let to_end = capacity - offset;
        // No tag, exactly up to the end, and not the whole ring.
        let fitting = COMMITTED | FILLER | (to_end - 8) as u64;
        if word != fitting || to_end == capacity {
            return bad(word, head);
        }
        head += to_end as u64;
        offset = 0;
        word = words[0];
        if word & FILLER != 0 && word != CLOSE {
            return bad(word, head);
        }
    }
    if word == 0 || word == CLOSE {
        return (Verdict::Nothing, head);
    }
    let len = (word & 0x3fff_ffff) as usize;
    if word & COMMITTED == 0 || len > max_body(capacity) || offset + record_size(len) > capacity {
        return bad(word, head);
    }
    let tag = (word >> 32) as u32;
    (Verdict::Record { tag, len }, head + record_size(len) as u64)
}

/// Reads a record in every way there is. All of it must be possible, whatever the bytes are.
fn read_all<S: Source>(record: &Record<'_, S>) -> Vec<u8> {
    let mut bytes = vec![0; record.len()];
    record.read(0, &mut bytes);
    record.read(record.len(), &mut []);
    for at in (0..record.len() + 16).step_by(8) {
        assert_eq!(record.read_u64(at).is_some(), at + 8 <= record.len());
    }
    let mut appended = Vec::new();
    record.append_to(0, &mut appended);
    assert_eq!(appended.len(), record.len());
    bytes
}

/// Memory whose producer changes a word whenever the consumer is about to look at it.
struct Changing<S> {
    view: S,
    write: Box<dyn Fn(usize, u64)>,
    capacity: usize,
    /// What is written next, over and over again; `None` leaves the word alone.
    script: RefCell<std::iter::Cycle<std::vec::IntoIter<Option<Planted>>>>,
}

impl<S: Source> Source for Changing<S> {
    fn word(&self, offset: usize) -> &AtomicU64 {
        if let Some(Some(planted)) = self.script.borrow_mut().next() {
            (self.write)(offset, planted.at(offset, self.capacity));
        }
        self.view.word(offset)
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.view.copy_out(offset, to);
    }
}

/// Lets a consumer walk over words that change under it.
fn walk_over_changing<S: Source>(
    view: S,
    write: Box<dyn Fn(usize, u64)>,
    capacity: usize,
    script: Vec<Option<Planted>>,
) {
    let own = HeapSegment::new(0);
    let script = RefCell::new(script.into_iter().cycle());
    let source = Changing {
        view,
        write,
        capacity,
        script,
    };
    let mut consumer = Consumer::new(source, own.clone(), capacity);
    for _ in 0..capacity / 4 {
        let before = consumer.position();
        let popped = consumer.pop(|record| {
            assert!(record.len() <= max_body(capacity));
            read_all(&record).len()
        });
        let moved = consumer.position() - before;
        let filler = capacity as u64 - 8;
        match popped {
            Ok(Some(len)) => {
                let size = record_size(len) as u64;
                assert!(
                    moved >= size && moved <= filler + size,
                    "moved {moved} for {len}"
                );
            }
            Ok(None) => assert!(moved <= filler, "moved {moved} for nothing"),
            Err(RingError::BadCommitWord { position, .. }) => {
                assert_eq!(position, consumer.position());
                assert!(moved <= filler, "moved {moved} for an error");
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(consumer.position() % 8, 0);
        assert!(consumer.position() - own.head().load(Relaxed) < capacity as u64);
        // Bounded, even if the producer keeps adding records.
        assert!(
            consumer
                .drain(3, |record| drop(read_all(&record)))
                .unwrap_or(0)
                <= 3
        );
        consumer.ready();
        consumer.release();
    }
}

/// Memory that counts how often a word of it is looked at.
struct Counting(HeapSegment, Rc<Cell<usize>>);

impl Source for Counting {
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.1.set(self.1.get() + 1);
        Source::word(&self.0, offset)
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.0.copy_out(offset, to);
    }
}

#[test]
fn a_commit_word_is_loaded_once() {
    let (memory, own, looks) = (HeapSegment::new(64), HeapSegment::new(0), Rc::default());
    let mut producer = Producer::new(memory.clone(), own.clone(), 64);
    let mut consumer = Consumer::new(Counting(memory, Rc::clone(&looks)), own, 64);
    let mut pop = || {
        let popped = consumer.pop(|record| record.len());
        (popped, looks.take())
    };
    producer.push(1, &[1; 24]).unwrap();
    producer.push(2, &[2; 8]).unwrap();
    assert_eq!(pop(), (Ok(Some(24)), 1));
    assert_eq!(pop(), (Ok(Some(8)), 1));
    assert_eq!(pop(), (Ok(None), 1));
    // Behind a filler: its word and the record's.
    producer.push(3, &[3; 24]).unwrap();
    assert_eq!(pop(), (Ok(Some(24)), 2));
}

/// Where a hostile consumer says that it is.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Any(u64),
    /// So far from what was published.
    FromPublished(i64),
    /// So far from what it said last.
    FromLast(i64),
    /// This part (1/256) of the way from the last one to what was published: the honest ones.
    Between(u8),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim(Claim),
    Push(usize),
    Stage(usize),
    HasSpace(usize),
    Withdraw(usize),
    Publish,
}

fn any_step() -> impl Strategy<Value = Step> {
    let len = || 0..=160_usize;
    let claim = prop_oneof![
        1 => any::<u64>().prop_map(Claim::Any),
        2 => (-300..300_i64).prop_map(Claim::FromPublished),
        2 => (-300..300_i64).prop_map(Claim::FromLast),
        12 => any::<u8>().prop_map(Claim::Between),
    ];
    prop_oneof![
        3 => claim.prop_map(Step::Claim),
        3 => len().prop_map(Step::Push),
        2 => len().prop_map(Step::Stage),
        1 => len().prop_map(Step::HasSpace),
        1 => len().prop_map(Step::Withdraw),
        1 => Just(Step::Publish),
    ]
}

/// A producer's bookkeeping, by the ring's documentation.
struct Books {
    capacity: u64,
    tail: u64,
    published: u64,
    /// The last head that was believed.
    last: u64,
    /// The head as it stands in memory.
    claimed: u64,
}

impl Books {
    fn place(&mut self, len: usize) -> Result<(), PushError> {
        let max = max_body(self.capacity as usize);
        if len > max {
            return Err(PushError::TooLong { len, max });
        }
        let need = record_size(len) as u64;
        let to_end = self.capacity - self.tail % self.capacity;
        let start = self.tail + if need > to_end { to_end } else { 0 };
        if start + need + 8 > self.last + self.capacity {
            let head = self.claimed;
            if head < self.last || head > self.published || !head.is_multiple_of(8) {
                let (last, tail) = (self.last, self.published);
                return Err(PushError::Broken(RingError::BadHead { head, last, tail }));
            }
            self.last = head;
            if start + need + 8 > self.last + self.capacity {
                return Err(PushError::Full);
            }
        }
        self.tail = start;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_consumer_judges_arbitrary_words(
        planted in (5..=10_u32).prop_flat_map(|log2| {
            prop::collection::vec(any_planted(), 1 << (log2 - 3))
        }),
        start in any::<prop::sample::Index>(),
    ) {
        let capacity = planted.len() * 8;
        let memory = HeapSegment::new(capacity);
        let words: Vec<_> =
            (0..).step_by(8).zip(planted).map(|(at, planted)| planted.at(at, capacity)).collect();
        let mut consumer = Consumer::new(memory.clone(), HeapSegment::new(0), capacity);
        // The producer is honest up to anywhere in the first lap.
        for index in 0..start.index(words.len()) {
            Source::word(&memory, index * 8).store(COMMITTED, Relaxed);
            prop_assert_eq!(consumer.pop(|record| record.len()), Ok(Some(0)));
        }
        for (index, word) in words.iter().enumerate() {
            Source::word(&memory, index * 8).store(*word, Relaxed);
        }
        // Three laps at most; the words stay, so the same ones come round again.
        for _ in 0..3 * words.len() {
            let ready = match words[consumer.position() as usize % capacity / 8] {
                0 => Ready::Empty,
                CLOSE => Ready::Closed,
                _ => Ready::Data,
            };
            prop_assert_eq!(consumer.ready(), ready);
            let (verdict, head) = judge(&words, consumer.position());
            let popped = consumer.pop(|record| {
                let body = Verdict::Record { tag: record.tag(), len: record.len() };
                (body, read_all(&record))
            });
            prop_assert_eq!(consumer.position(), head);
            match popped {
                Ok(Some((record, bytes))) => {
                    prop_assert_eq!(&record, &verdict);
                    let start = (head as usize - record_size(bytes.len())) % capacity + 8;
                    let memory: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                    prop_assert_eq!(&bytes[..], &memory[start..start + bytes.len()]);
                }
                Ok(None) => {
                    prop_assert_eq!(verdict, Verdict::Nothing);
                    break;
                }
                Err(error) => {
                    prop_assert_eq!(verdict, Verdict::Bad(error));
                    // It does not get better by trying again.
                    prop_assert_eq!(consumer.pop(|_| ()), Err(error));
                    break;
                }
            }
        }
    }

    #[test]
    fn a_consumer_survives_words_that_change_on_the_heap(
        log2_capacity in 5..=9_u32,
        script in prop::collection::vec(prop::option::weighted(0.7, any_planted()), 1..60),
    ) {
        let capacity = 1 << log2_capacity;
        let memory = HeapSegment::new(capacity);
        let written = memory.clone();
        let write = move |at, word| Source::word(&written, at).store(word, Relaxed);
        walk_over_changing(memory, Box::new(write), capacity, script);
    }

    #[test]
    fn a_producer_checks_every_head(
        log2_capacity in 5..=8_u32,
        steps in prop::collection::vec(any_step(), 0..200),
    ) {
        let capacity = 1 << log2_capacity;
        let peer = HeapSegment::new(0);
        let mut producer = Producer::new(HeapSegment::new(capacity), peer.clone(), capacity);
        let mut books =
            Books { capacity: capacity as u64, tail: 0, published: 0, last: 0, claimed: 0 };
        for step in steps {
            match step {
                Step::Claim(claim) => {
                    books.claimed = match claim {
                        Claim::Any(head) => head,
                        Claim::FromPublished(by) => books.published.wrapping_add_signed(by),
                        Claim::FromLast(by) => books.last.wrapping_add_signed(by),
                        Claim::Between(part) => {
                            let way = books.published - books.last;
                            books.last + way * u64::from(part) / 255 / 8 * 8
                        }
                    };
                    peer.head().store(books.claimed, Relaxed);
                }
                Step::Push(len) | Step::Stage(len) => {
                    let expected = books.place(len);
                    if expected.is_ok() {
                        books.tail += record_size(len) as u64;
                    }
                    let bytes = vec![0xaa; len];
                    if matches!(step, Step::Push(_)) {
                        prop_assert_eq!(producer.push(1, &bytes), expected);
                        if expected.is_ok() {
                            books.published = books.tail;
                        }
                    } else {
                        prop_assert_eq!(producer.stage(1, &bytes), expected);
                    }
                }
                Step::HasSpace(len) => {
                    let expected = match books.place(len) {
                        Err(PushError::Full) => Ok(false),
                        other => other.map(|()| true),
                    };
                    prop_assert_eq!(producer.has_space(len), expected);
                }
                Step::Withdraw(len) => {
                    let expected = books.place(len);
                    prop_assert_eq!(producer.reserve(len).map(drop), expected);
                }
                Step::Publish => {
                    producer.publish();
                    books.published = books.tail;
                }
            }
            prop_assert_eq!(producer.position(), books.tail);
            prop_assert!(books.tail + 8 <= books.last + books.capacity);
            let known = books.last + books.capacity - 8 - books.tail;
            prop_assert_eq!(producer.known_space() as u64, known);
        }
        producer.close();
        prop_assert_eq!(producer.push(1, &[]), Err(PushError::Closed));
    }
}

proptest! {
    // Each case creates a segment.
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_consumer_survives_words_that_change_in_a_segment(
        log2_capacity in 5..=9_u32,
        script in prop::collection::vec(prop::option::weighted(0.7, any_planted()), 1..60),
    ) {
        let capacity = 1 << log2_capacity;
        let (local, handle) = LocalSegment::create(capacity, &Memory::default()).unwrap();
        let (_, data) = local.into_parts();
        let (_, view) = segment::open_peer(handle, capacity).unwrap();
        let write = move |at, word| Sink::word(&data, at).store(word, Relaxed);
        walk_over_changing(view, Box::new(write), capacity, script);
    }
}
