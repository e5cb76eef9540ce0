//! A ring's two ends over memory that holds whatever the fuzzer says, and changes between any two
//! looks.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nearwire::ring::{Consumer, Cursors, Producer, Sink, Source};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const CAPACITY: usize = 1024;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The peer writes this word at this place of its ring.
    Plant {
        at: u8,
        word: Word,
    },
    /// It writes this word where the consumer looks next, just before the look.
    Ambush {
        word: Word,
    },
    /// It writes its head.
    Head(u64),
    /// Its head goes on.
    Advance(u16),
    Pop {
        read: u8,
        keep: bool,
    },
    Release,
    Push {
        len: u16,
    },
    Stage {
        len: u16,
    },
    Publish,
    Close,
}

#[derive(Debug, Arbitrary)]
enum Word {
    Any(u64),
    Record { len: u16, tag: u32 },
    Filler { len: u16, tag: u8 },
    Zero,
}

impl Word {
    fn bits(&self) -> u64 {
        match *self {
            Word::Any(word) => word,
            Word::Record { len, tag } => u64::from(tag) << 32 | 1 << 31 | u64::from(len % 600),
            Word::Filler { len, tag } => u64::from(tag % 2) << 32 | 3 << 30 | u64::from(len % 1100),
            Word::Zero => 0,
        }
    }
}

/// One side's segment.
struct Memory {
    /// What looks at data words will find, the first one first.
    ambushes: RefCell<VecDeque<u64>>,
    head: AtomicU64,
    other: AtomicU64,
    data: Vec<AtomicU64>,
}

#[derive(Clone)]
struct Shared(Rc<Memory>);

impl Shared {
    fn new() -> Self {
        let data = (0..CAPACITY / 8).map(|_| AtomicU64::new(0)).collect();
        Self(Rc::new(Memory {
            ambushes: RefCell::default(),
            head: AtomicU64::new(0),
            other: AtomicU64::new(0),
            data,
        }))
    }
}

impl Cursors for Shared {
    fn head(&self) -> &AtomicU64 {
        &self.0.head
    }
    fn tail(&self) -> &AtomicU64 {
        &self.0.other
    }
    fn data_parked(&self) -> &AtomicU64 {
        &self.0.other
    }
    fn space_parked(&self) -> &AtomicU64 {
        &self.0.other
    }
    fn data_fenced(&self) -> &AtomicU64 {
        &self.0.other
    }
    fn space_fenced(&self) -> &AtomicU64 {
        &self.0.other
    }
}

impl Source for Shared {
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        let word = &self.0.data[offset / 8];
        if let Some(ambush) = self.0.ambushes.borrow_mut().pop_front() {
            word.store(ambush, Relaxed);
        }
        word
    }
    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= CAPACITY, "reads beyond the ring");
        for (at, byte) in (offset..).zip(to) {
            *byte = self.0.data[at / 8].load(Relaxed).to_le_bytes()[at % 8];
        }
    }
}

impl Sink for Shared {
    fn word(&self, offset: usize) -> &AtomicU64 {
        Source::word(self, offset)
    }
    fn copy_in(&mut self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= CAPACITY, "writes beyond the ring");
        for (at, byte) in (offset..).zip(from) {
            let word = &self.0.data[at / 8];
            let mut bytes = word.load(Relaxed).to_le_bytes();
            bytes[at % 8] = *byte;
            word.store(u64::from_le_bytes(bytes), Relaxed);
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let (own, peer) = (Shared::new(), Shared::new());
    let mut consumer = Consumer::new(peer.clone(), own.clone(), CAPACITY);
    let mut producer = Producer::new(own.clone(), peer.clone(), CAPACITY);
    let (mut broken_in, mut broken_out) = (false, false);
    for step in steps {
        match step {
            Step::Plant { at, word } => {
                let word = word.bits();
                // Mostly where the consumer looks.
                let place = match at {
                    0..128 => usize::from(at),
                    128..192 => 0,
                    _ => consumer.position() as usize % CAPACITY / 8,
                };
                peer.0.data[place].store(word, Relaxed);
            }
            Step::Ambush { word } => peer.0.ambushes.borrow_mut().push_back(word.bits()),
            Step::Head(head) => peer.0.head.store(head, Relaxed),
            Step::Advance(by) => {
                let head = peer.0.head.load(Relaxed).wrapping_add(u64::from(by) * 8);
                peer.0.head.store(head.min(producer.position()), Relaxed);
            }
            Step::Pop { read, keep } if !broken_in => {
                let before = consumer.position();
                let popped = consumer.pop_if(|record| {
                    let len = record.len();
                    assert!(len <= CAPACITY / 2 - 8, "a record of {len} bytes");
                    let mut bytes = vec![0; len.min(usize::from(read))];
                    record.read(0, &mut bytes);
                    let _ = record.read_u64(usize::from(read) / 8 * 8);
                    record.append_to(usize::from(read), &mut bytes);
                    ((), !keep)
                });
                broken_in = popped.is_err();
                assert!(consumer.position() - before <= 2 * CAPACITY as u64);
                assert!(consumer.position().is_multiple_of(8));
            }
            Step::Release => drop(consumer.release()),
            Step::Push { len } | Step::Stage { len } if !broken_out => {
                let body = vec![0xaa; usize::from(len % 700)];
                let pushed = match step {
                    Step::Push { .. } => producer.push(9, &body),
                    _ => producer.stage(9, &body),
                };
                broken_out = matches!(pushed, Err(nearwire::ring::PushError::Broken(_)));
            }
            Step::Publish if !broken_out => drop(producer.publish()),
            Step::Close if !broken_out => producer.close(),
            _ => {}
        }
        assert!(producer.known_space() <= CAPACITY);
    }
});
