//! A ring's two ends over memory that holds whatever the fuzzer says, and changes between any two
//! looks.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nearwire::ring::{Consumer, Cursors, Producer, Ready, Sink, Source};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of a small ring, and of one that is large enough for small records to keep to its start.
const CAPACITIES: [usize; 2] = [1024, 1 << 15];

const WORD: usize = 8;
const COMMITTED: u64 = 1 << 31;
const FILLER: u64 = 1 << 30;

#[derive(Debug, Arbitrary)]
struct Script {
    large: bool,
    gathers: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// It writes a record where it is due, with a filler if there must be one, as an honest peer.
    Record {
        len: u16,
        tag: u32,
    },
    /// It writes a filler that ends where the ring does, and this word behind it.
    Fill {
        behind: Word,
    },
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
    Drain {
        max: u8,
    },
    Watch,
    Release,
    Push {
        len: u16,
    },
    Stage {
        len: u16,
    },
    /// Reserves, writes, and keeps a part or nothing of it.
    Reserve {
        len: u16,
        keep: Option<u16>,
    },
    Space {
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
    fn new(capacity: usize) -> Self {
        let data = (0..capacity / 8).map(|_| AtomicU64::new(0)).collect();
        Self(Rc::new(Memory {
            ambushes: RefCell::default(),
            head: AtomicU64::new(0),
            other: AtomicU64::new(0),
            data,
        }))
    }

    fn capacity(&self) -> usize {
        self.0.data.len() * WORD
    }

    /// Writes a word where it is, or would be after another round.
    fn plant(&self, position: usize, word: u64) {
        self.0.data[position % self.capacity() / WORD].store(word, Relaxed);
    }
}

/// Where an honest peer would write next.
struct Pen {
    position: usize,
}

impl Pen {
    fn write(&mut self, ring: &Shared, len: usize, tag: u32) {
        let size = WORD + len.next_multiple_of(WORD);
        let to_end = ring.capacity() - self.position % ring.capacity();
        // The last first, as they become visible.
        let begin = self.position + if size > to_end { to_end } else { 0 };
        ring.plant(begin + size, 0);
        ring.plant(begin, u64::from(tag) << 32 | COMMITTED | len as u64);
        if size > to_end {
            ring.plant(self.position, COMMITTED | FILLER | (to_end - WORD) as u64);
        }
        self.position = begin + size;
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
        assert!(
            offset + to.len() <= self.capacity(),
            "reads beyond the ring"
        );
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
        assert!(
            offset + from.len() <= self.capacity(),
            "writes beyond the ring"
        );
        for (at, byte) in (offset..).zip(from) {
            let word = &self.0.data[at / 8];
            let mut bytes = word.load(Relaxed).to_le_bytes();
            bytes[at % 8] = *byte;
            word.store(u64::from_le_bytes(bytes), Relaxed);
        }
    }
}

fuzz_target!(|script: Script| {
    let capacity = CAPACITIES[usize::from(script.large)];
    let (own, peer) = (Shared::new(capacity), Shared::new(capacity));
    let mut consumer = Consumer::new(peer.clone(), own.clone(), capacity);
    let mut producer = Producer::new(own.clone(), peer.clone(), capacity);
    consumer.set_gathering(script.gathers);
    let (mut broken_in, mut broken_out) = (false, false);
    let mut pen = Pen { position: 0 };
    for step in script.steps {
        match step {
            Step::Record { len, tag } => {
                let len = usize::from(len) % (capacity / 2 - WORD);
                pen.write(&peer, len, tag);
            }
            Step::Fill { behind } => {
                let position = consumer.position() as usize;
                let to_end = capacity - position % capacity;
                peer.plant(position + to_end, behind.bits());
                peer.plant(position, COMMITTED | FILLER | (to_end - WORD) as u64);
                pen.position = position + to_end;
            }
            Step::Plant { at, word } => {
                let word = word.bits();
                // Mostly where the consumer looks.
                let place = match at {
                    0..128 => usize::from(at),
                    128..192 => 0,
                    _ => consumer.position() as usize % capacity / WORD,
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
                    assert!(len <= capacity / 2 - WORD, "a record of {len} bytes");
                    let mut bytes = vec![0; len.min(usize::from(read))];
                    record.read(0, &mut bytes);
                    let _ = record.read_u64(usize::from(read) / 8 * 8);
                    record.append_to(usize::from(read), &mut bytes);
                    ((), !keep)
                });
                broken_in = popped.is_err();
                assert!(consumer.position() - before <= 2 * capacity as u64);
                assert!(consumer.position().is_multiple_of(8));
                assert!(consumer.bytes() <= consumer.position());
            }
            Step::Drain { max } if !broken_in => {
                let mut count = 0;
                let drained = consumer.drain(max.into(), |_| count += 1);
                assert!(count <= usize::from(max));
                broken_in = drained.is_err();
            }
            Step::Watch => {
                consumer.prefetch_next();
                // What is not there any more at the next look is the peer's affair.
                assert!(matches!(
                    consumer.watch(),
                    Ready::Empty | Ready::Closed | Ready::Data
                ));
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
            Step::Reserve { len, keep } if !broken_out => {
                let len = usize::from(len) % 700;
                match producer.reserve(len) {
                    Ok(mut reservation) => {
                        reservation.write(0, &vec![0xbb; len]);
                        if len >= WORD {
                            reservation.write_u64(0, 1);
                        }
                        if let Some(keep) = keep {
                            reservation.commit_prefix(7, usize::from(keep) % (len + 1));
                        }
                    }
                    Err(error) => {
                        broken_out = matches!(error, nearwire::ring::PushError::Broken(_))
                    }
                }
            }
            Step::Space { len } if !broken_out => {
                let space = producer.has_space(usize::from(len));
                broken_out = matches!(space, Err(nearwire::ring::PushError::Broken(_)));
            }
            Step::Publish if !broken_out => drop(producer.publish()),
            Step::Close if !broken_out => producer.close(),
            _ => {}
        }
        assert!(producer.known_space() <= capacity);
        assert!(producer.bytes() <= producer.position());
    }
});
