//! Arbitrary interleavings of everything that two honest sides can do, against a queue.

use super::*;
use crate::layout::{max_body, record_size};
use crate::ring::Ready;
use crate::sync::Ordering::Relaxed;
use proptest::prelude::*;
use std::collections::VecDeque;

/// A body's length, to be had for any capacity.
#[derive(Debug, Clone, Copy)]
enum Len {
    /// So many bytes, if the ring takes them.
    Small(usize),
    /// So many bytes less than the ring takes.
    BelowMax(usize),
    /// So many bytes more than the ring takes, at least one.
    AboveMax(usize),
    /// This part, in 1/65536, of what the ring takes.
    Part(u16),
}

impl Len {
    fn of(self, max: usize) -> usize {
        match self {
            Len::Small(len) => len.min(max),
            Len::BelowMax(less) => max.saturating_sub(less),
            Len::AboveMax(more) => max.saturating_add(more),
            Len::Part(part) => ((max + 1) * usize::from(part)) >> 16,
        }
    }
}

fn any_len() -> impl Strategy<Value = Len> {
    prop_oneof![
        8 => (0..=40_usize).prop_map(Len::Small),
        4 => (0..=17_usize).prop_map(Len::BelowMax),
        1 => (1..=9_usize).prop_map(Len::AboveMax),
        8 => any::<u16>().prop_map(Len::Part),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Stage(Len),
    Push(Len),
    PushBatch(Vec<Len>),
    /// Reserve, write in the given way, commit the part (1/256) of it.
    Reserve(Len, Writing, u8),
    /// Reserve without a commit.
    Withdraw(Len),
    HasSpace(Len),
    HasSpaceForAllNumbers,
    Publish,
    MirrorTail,
    Pop,
    Drain(usize),
    Release,
    Close,
}

#[derive(Debug, Clone, Copy)]
enum Writing {
    InPlace,
    /// In two pieces, the second one first; the first one has this part (1/256) of the body.
    Pieces(u8),
    /// Word by word as far as they go, then the rest.
    Words,
}

fn any_step() -> impl Strategy<Value = Step> {
    let writing = prop_oneof![
        Just(Writing::InPlace),
        any::<u8>().prop_map(Writing::Pieces),
        Just(Writing::Words)
    ];
    prop_oneof![
        20 => any_len().prop_map(Step::Stage),
        20 => any_len().prop_map(Step::Push),
        12 => prop::collection::vec(any_len(), 0..6).prop_map(Step::PushBatch),
        16 => (any_len(), writing, any::<u8>()).prop_map(|(l, w, p)| Step::Reserve(l, w, p)),
        8 => any_len().prop_map(Step::Withdraw),
        4 => any_len().prop_map(Step::HasSpace),
        1 => Just(Step::HasSpaceForAllNumbers),
        16 => Just(Step::Publish),
        2 => Just(Step::MirrorTail),
        40 => Just(Step::Pop),
        12 => (0..10_usize).prop_map(Step::Drain),
        12 => Just(Step::Release),
        1 => Just(Step::Close),
    ]
}

/// What takes up space in a ring.
#[derive(Debug)]
enum Item {
    Filler { size: u64 },
    Record { tag: u32, body: Vec<u8> },
}

/// The ring as its documentation describes it.
struct Model {
    capacity: u64,
    /// End of what is staged, of what is consumed, and of what the producer knows is consumed.
    tail: u64,
    head: u64,
    released: u64,
    staged: Vec<Item>,
    visible: VecDeque<Item>,
    closed: bool,
}

impl Model {
    /// Finds the place for a body of `len` bytes; fills up the lap if it is in the next one.
    fn place(&mut self, len: usize) -> Result<(), PushError> {
        if self.closed {
            return Err(PushError::Closed);
        }
        let max = max_body(self.capacity as usize);
        if len > max {
            return Err(PushError::TooLong { len, max });
        }
        let need = record_size(len) as u64;
        let to_end = self.capacity - self.tail % self.capacity;
        let filler = if need > to_end { to_end } else { 0 };
        // One word always stays free.
        if self.tail + filler + need + 8 - self.released > self.capacity {
            return Err(PushError::Full);
        }
        if filler > 0 {
            self.staged.push(Item::Filler { size: filler });
            self.tail += filler;
        }
        Ok(())
    }

    fn commit(&mut self, tag: u32, body: Vec<u8>) {
        self.tail += record_size(body.len()) as u64;
        self.staged.push(Item::Record { tag, body });
    }

    fn stage(&mut self, tag: u32, body: Vec<u8>) -> Result<(), PushError> {
        self.place(body.len())?;
        self.commit(tag, body);
        Ok(())
    }

    fn publish(&mut self) -> bool {
        let news = !self.staged.is_empty();
        self.visible.extend(self.staged.drain(..));
        news
    }

    fn published(&self) -> u64 {
        let size = |item: &Item| match item {
            Item::Filler { size } => *size,
            Item::Record { body, .. } => record_size(body.len()) as u64,
        };
        self.tail - self.staged.iter().map(size).sum::<u64>()
    }

    fn pop(&mut self) -> Option<(u32, Vec<u8>)> {
        if let Some(Item::Filler { size }) = self.visible.front() {
            self.head += size;
            self.visible.pop_front();
        }
        match self.visible.pop_front()? {
            Item::Filler { .. } => panic!("two fillers in a row"),
            Item::Record { tag, body } => {
                self.head += record_size(body.len()) as u64;
                if self.head - self.released >= self.capacity / 4 {
                    self.released = self.head;
                }
                Some((tag, body))
            }
        }
    }

    fn ready(&self) -> Ready {
        match (self.visible.is_empty(), self.closed) {
            (false, _) => Ready::Data,
            (true, true) => Ready::Closed,
            (true, false) => Ready::Empty,
        }
    }
}

/// A ring beside its model, and what the last steps were about.
struct Beside<P: Place> {
    ring: Ring<P>,
    model: Model,
    /// Bodies so far; also their seed and their tag.
    bodies: u64,
}

impl<P: Place> Beside<P> {
    fn new(capacity: usize) -> Self {
        Self {
            ring: P::ring(capacity),
            model: Model {
                capacity: capacity as u64,
                tail: 0,
                head: 0,
                released: 0,
                staged: Vec::new(),
                visible: VecDeque::new(),
                closed: false,
            },
            bodies: 0,
        }
    }

    fn next_body(&mut self, len: Len) -> (u32, Vec<u8>) {
        self.bodies += 1;
        let len = len.of(self.ring.producer.max_body());
        // The tag uses all its bits.
        ((self.bodies as u32).rotate_right(3), body(self.bodies, len))
    }

    fn take(&mut self, step: &Step) {
        let max = self.ring.producer.max_body();
        match step {
            Step::Stage(len) => {
                let (tag, body) = self.next_body(*len);
                let staged = self.ring.producer.stage(tag, &body);
                assert_eq!(staged, self.model.stage(tag, body));
            }
            Step::Push(len) => {
                let (tag, body) = self.next_body(*len);
                let pushed = self.ring.producer.push(tag, &body);
                let expected = self.model.stage(tag, body);
                if expected.is_ok() {
                    self.model.publish();
                }
                assert_eq!(pushed, expected);
            }
            Step::PushBatch(lens) => {
                let bodies: Vec<_> = lens.iter().map(|len| self.next_body(*len).1).collect();
                let pushed = self.ring.producer.push_batch(9, &bodies);
                let mut expected = Ok(0);
                for (done, body) in bodies.into_iter().enumerate() {
                    match self.model.stage(9, body) {
                        Ok(()) => expected = Ok(done + 1),
                        Err(PushError::Full) => break,
                        Err(error) => {
                            expected = Err(error);
                            break;
                        }
                    }
                }
                self.model.publish();
                assert_eq!(pushed, expected);
            }
            Step::Reserve(len, writing, part) => {
                let (tag, mut body) = self.next_body(*len);
                let expected = self.model.place(body.len());
                match self.ring.producer.reserve(body.len()) {
                    Err(error) => assert_eq!(Err(error), expected),
                    Ok(mut reservation) => {
                        assert_eq!(Ok(()), expected);
                        assert_eq!(reservation.len(), body.len());
                        assert_eq!(reservation.is_empty(), body.is_empty());
                        match writing {
                            Writing::InPlace => P::fill(&mut reservation, &body),
                            Writing::Pieces(part) => {
                                let (one, two) = body.split_at(body.len() * *part as usize / 256);
                                reservation.write(one.len(), two);
                                reservation.write(0, one);
                            }
                            Writing::Words => {
                                let (words, rest) = body.as_chunks::<8>();
                                for (index, word) in words.iter().enumerate() {
                                    reservation.write_u64(index * 8, u64::from_le_bytes(*word));
                                }
                                reservation.write(words.len() * 8, rest);
                            }
                        }
                        body.truncate((body.len() + 1) * *part as usize / 256);
                        reservation.commit_prefix(tag, body.len());
                        self.model.commit(tag, body);
                    }
                }
            }
            Step::Withdraw(len) => {
                let len = len.of(max);
                let reserved = self.ring.producer.reserve(len).map(drop);
                assert_eq!(reserved, self.model.place(len));
            }
            Step::HasSpace(len) => {
                let len = len.of(max);
                let expected = match self.model.place(len) {
                    Err(PushError::Full) => Ok(false),
                    other => other.map(|()| true),
                };
                assert_eq!(self.ring.producer.has_space(len), expected);
            }
            Step::HasSpaceForAllNumbers => {
                let expected = self.model.place(usize::MAX).map(|()| true);
                assert_eq!(self.ring.producer.has_space(usize::MAX), expected);
            }
            Step::Publish => assert_eq!(self.ring.producer.publish(), self.model.publish()),
            Step::MirrorTail => {
                self.ring.producer.mirror_tail(&self.ring.tail.0);
                assert_eq!(
                    self.ring.tail.1.tail().load(Relaxed),
                    self.model.published()
                );
            }
            Step::Pop => {
                let popped = self
                    .ring
                    .consumer
                    .pop(|record| (record.tag(), whole(&record)));
                assert_eq!(popped, Ok(self.model.pop()));
            }
            Step::Drain(most) => {
                let mut drained = Vec::new();
                let count = self
                    .ring
                    .consumer
                    .drain(*most, |record| drained.push((record.tag(), whole(&record))));
                let expected: Vec<_> = std::iter::from_fn(|| self.model.pop())
                    .take(*most)
                    .collect();
                assert_eq!(count, Ok(expected.len()));
                assert_eq!(drained, expected);
            }
            Step::Release => {
                let news = self.model.released != self.model.head;
                self.model.released = self.model.head;
                assert_eq!(self.ring.consumer.release(), news);
            }
            Step::Close => {
                self.ring.producer.close();
                self.model.publish();
                self.model.closed = true;
            }
        }
    }

    /// Compares everything that can be seen.
    fn compare(&self) {
        let Ring {
            producer,
            consumer,
            head,
            ..
        } = &self.ring;
        let model = &self.model;
        assert_eq!(producer.position(), model.tail);
        assert_eq!(producer.has_staged(), !model.staged.is_empty());
        let space = model.released + model.capacity - 8 - model.tail;
        assert!(producer.known_space() as u64 <= space);
        assert_eq!(consumer.position(), model.head);
        assert_eq!(consumer.released(), model.released);
        assert_eq!(head.head().load(Relaxed), model.released);
        assert_eq!(consumer.ready(), model.ready());
    }
}

/// A record's body, by one of the ways to read it.
fn whole<S: Source>(record: &crate::ring::Record<'_, S>) -> Vec<u8> {
    let mut bytes = vec![0; record.len()];
    match record.tag() % 3 {
        0 => record.read(0, &mut bytes),
        1 => {
            let (one, two) = bytes.split_at_mut(record.len() / 3);
            record.read(0, one);
            record.read(one.len(), two);
        }
        _ => {
            bytes.clear();
            while let Some(word) = record.read_u64(bytes.len()) {
                bytes.extend(word.to_le_bytes());
            }
            let mut rest = Vec::new();
            record.append_to(bytes.len(), &mut rest);
            bytes.append(&mut rest);
        }
    }
    bytes
}

fn run<P: Place>(log2_capacity: u32, steps: &[Step]) {
    let mut beside = Beside::<P>::new(1 << log2_capacity);
    for step in steps {
        beside.take(step);
        beside.compare();
    }
    // Nothing that was staged is lost, and the end comes after it.
    for step in [
        Step::Close,
        Step::Drain(usize::MAX),
        Step::Release,
        Step::Close,
        Step::Pop,
    ] {
        beside.take(&step);
        beside.compare();
    }
    assert_eq!(beside.ring.consumer.ready(), Ready::Closed);
    assert_eq!(
        beside.ring.consumer.position(),
        beside.ring.producer.position()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn over_the_heap(
        log2_capacity in 5..=12_u32,
        steps in prop::collection::vec(any_step(), 0..300),
    ) {
        run::<Heap>(log2_capacity, &steps);
    }

    #[test]
    fn over_segments(
        log2_capacity in 5..=12_u32,
        steps in prop::collection::vec(any_step(), 0..300),
    ) {
        run::<Segments>(log2_capacity, &steps);
    }
}

#[test]
fn a_batch_is_seen_only_as_a_whole() {
    // At every offset of the ring, fillers at the batch's start and inside it included.
    for start in (0..256_u64).step_by(8) {
        let Ring {
            mut producer,
            mut consumer,
            ..
        } = Heap::ring(256);
        while producer.position() < start {
            producer.push(0, &[]).unwrap();
            consumer.pop(|_| ()).unwrap().unwrap();
        }
        consumer.release();
        for (tag, len) in [(1, 56), (2, 40), (3, 0)] {
            producer.stage(tag, &body(start, len)).unwrap();
            assert_eq!(consumer.ready(), Ready::Empty);
            assert_eq!(consumer.pop(|_| ()), Ok(None));
        }
        assert!(producer.publish());
        let mut tags = Vec::new();
        assert_eq!(consumer.drain(9, |record| tags.push(record.tag())), Ok(3));
        assert_eq!(tags, [1, 2, 3]);
    }
}
