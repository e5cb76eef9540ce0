//! Parking against publishing, under loom: every interleaving with up to three preemptions.
//!
//! Each model moves records between two threads that sleep when they cannot go on. A lost wake-up
//! is a thread that sleeps for ever, which loom reports as a deadlock. Every model runs with both
//! kinds of fences.

use super::{Fences, PARKED, Parking, Waking};
use crate::ring::models::explore;
use crate::ring::{Consumer, Cursors, HeapSegment, Producer, PushError, Ready};
use crate::sync::processors::{self, Machine};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A doorbell that remembers one ring, like a socket pair under an edge-triggered epoll.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// What a side did in one execution.
#[derive(Debug, Default, Clone, Copy)]
struct Deeds {
    /// Sleeps that were announced.
    armed: usize,
    /// Sleeps that began.
    slept: usize,
    /// Rings of the other side's bell.
    rung: usize,
}

/// One side of a connection: the ring that it produces, the one that it consumes, and what it
/// takes to wait and to wake. Does what the layer above does.
struct Side {
    own: HeapSegment,
    peer: HeapSegment,
    producer: Producer<HeapSegment, HeapSegment>,
    consumer: Consumer<HeapSegment, HeapSegment>,
    bell: Arc<Bell>,
    peer_bell: Arc<Bell>,
    for_data: Parking,
    for_space: Parking,
    wakes_data: Waking,
    wakes_space: Waking,
    fences: Fences,
    /// Length of every body.
    len: usize,
    deeds: Deeds,
}

impl Side {
    /// The two sides of a connection with one ring, from the first side to the second, or two.
    ///
    /// With `len` 8, a ring of 32 bytes holds one record and one of 64 bytes three, and every pop
    /// shows its head. With 0, a ring of 64 bytes holds seven, and every other pop does.
    fn pair(capacity: usize, len: usize, rings: usize, fences: Fences) -> (Self, Self) {
        let segments =
            [capacity, capacity * (rings - 1)].map(|capacity| HeapSegment::new(capacity));
        let bells = [(), ()].map(|()| Arc::new(Bell::default()));
        let side = |one: usize, two: usize| {
            let (own, peer) = (segments[one].clone(), segments[two].clone());
            Self {
                producer: Producer::new(own.clone(), peer.clone(), capacity),
                consumer: Consumer::new(peer.clone(), own.clone(), capacity),
                own,
                peer,
                bell: bells[one].clone(),
                peer_bell: bells[two].clone(),
                for_data: Parking::asking(fences),
                for_space: Parking::new(fences),
                wakes_data: Waking::new(fences),
                wakes_space: Waking::new(fences),
                fences,
                len,
                deeds: Deeds::default(),
            }
        };
        (side(0, 1), side(1, 0))
    }

    /// A place where the other side's heavy fence may come.
    fn interrupt(&self) {
        if self.fences == Fences::Asymmetric {
            processors::interrupt();
        }
    }

    #[must_use]
    fn arm_for_data(&mut self) -> bool {
        let (word, fenced) = (self.own.data_parked(), self.peer.data_fenced());
        self.for_data.arm(word, fenced)
    }

    #[must_use]
    fn arm_for_space(&mut self) -> bool {
        let (word, fenced) = (self.own.space_parked(), self.peer.space_fenced());
        self.for_space.arm(word, fenced)
    }

    fn sleep(&mut self) {
        self.deeds.slept += 1;
        match self.fences {
            Fences::Symmetric => self.bell.sleep(),
            Fences::Asymmetric => processors::idle(|| self.bell.sleep()),
        }
    }

    /// To be called after data was published.
    fn wake_for_data(&mut self) {
        if self
            .wakes_data
            .is_due(self.peer.data_parked(), self.own.data_fenced())
        {
            self.deeds.rung += 1;
            self.peer_bell.ring();
        }
    }

    /// Publishes one record if there is space.
    fn try_send(&mut self, tag: u32) -> bool {
        self.interrupt();
        match self.producer.push(tag, &vec![tag as u8; self.len]) {
            Ok(()) => {
                self.wake_for_data();
                true
            }
            Err(PushError::Full) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Publishes one record, sleeping until there is space.
    fn send(&mut self, tag: u32) {
        while !self.try_send(tag) {
            self.deeds.armed += 1;
            assert!(self.arm_for_space());
            if !self.producer.has_space(self.len).unwrap() {
                self.sleep();
            }
            self.for_space.disarm(self.own.space_parked());
        }
    }

    /// To be called after the head was released.
    fn wake_for_space(&mut self) {
        if self
            .wakes_space
            .is_due(self.peer.space_parked(), self.own.space_fenced())
        {
            self.deeds.rung += 1;
            self.peer_bell.ring();
        }
    }

    /// Takes one record if there is one, and checks that it is this one.
    fn try_receive(&mut self, tag: u32) -> bool {
        self.interrupt();
        let released = self.consumer.released();
        let len = self.len;
        let popped = self.consumer.pop(|record| {
            let mut bytes = Vec::new();
            record.append_to(0, &mut bytes);
            assert_eq!((record.tag(), bytes), (tag, vec![tag as u8; len]));
        });
        if self.consumer.released() != released {
            self.wake_for_space();
        }
        popped.unwrap().is_some()
    }

    /// Releases what was consumed so far: the ring is empty.
    fn release(&mut self) {
        self.interrupt();
        if self.consumer.release() {
            self.wake_for_space();
        }
    }

    /// Sleeps unless there is something in the ring.
    fn park_for_data(&mut self) {
        self.release();
        self.deeds.armed += 1;
        assert!(self.arm_for_data());
        if self.consumer.ready() == Ready::Empty {
            self.sleep();
        }
        self.for_data.disarm(self.own.data_parked());
    }

    /// Takes this record, sleeping until it is there.
    fn receive(&mut self, tag: u32) {
        while !self.try_receive(tag) {
            self.park_for_data();
        }
    }

    /// Takes this record without ever sleeping.
    fn poll(&mut self, tag: u32) {
        while !self.try_receive(tag) {
            self.release();
            thread::yield_now();
        }
    }
}

/// What a model is made of.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Bytes of each ring.
    capacity: usize,
    /// Length of every body.
    len: usize,
    /// 1: from the first side to the second only.
    rings: usize,
    /// Records that the first side sent before anything else happens, with the tags from 1 on.
    sent: u32,
    /// How far the model goes, with symmetric fences and with asymmetric ones, which take many
    /// more steps.
    until: [u32; 2],
}

/// One record at a time, one direction.
const TIGHT: Setting = Setting {
    capacity: 32,
    len: 8,
    rings: 1,
    sent: 0,
    until: [3, 3],
};

/// Runs two sides against each other, with both kinds of fences.
fn run(
    setting: Setting,
    one: impl Fn(&mut Side, u32) + Copy + Sync + Send + 'static,
    two: impl Fn(&mut Side, u32) + Copy + Sync + Send + 'static,
) {
    for (fences, until) in [Fences::Symmetric, Fences::Asymmetric]
        .into_iter()
        .zip(setting.until)
    {
        let [slept, rung] = explore(move |[slept, rung]| {
            let machine = (fences == Fences::Asymmetric).then(Machine::new);
            let Setting {
                capacity,
                len,
                rings,
                sent,
                ..
            } = setting;
            let (mut first, mut second) = Side::pair(capacity, len, rings, fences);
            on_processor(machine.as_ref(), 0, || {
                (1..=sent).for_each(|tag| first.send(tag));
            });
            let words = [first.own.clone(), second.own.clone()];
            let other = machine.clone();
            let second = thread::spawn(move || {
                on_processor(other.as_ref(), 1, || two(&mut second, until));
                second.deeds
            });
            on_processor(machine.as_ref(), 0, || one(&mut first, until));
            let (first, second) = (first.deeds, second.join().unwrap());
            // However much is published, a sleep costs one ring at most, and none when it is over.
            assert!(first.rung <= second.armed && second.rung <= first.armed);
            for words in words {
                let parked = [words.data_parked(), words.space_parked()].map(|w| w.load(Relaxed));
                assert!(parked.iter().all(|word| word & PARKED == 0), "still parked");
            }
            slept.fetch_add(first.slept + second.slept, Relaxed);
            rung.fetch_add(first.rung + second.rung, Relaxed);
        });
        assert!(slept > 0 && rung > 0, "nobody ever slept");
    }
}

fn on_processor(machine: Option<&Machine>, number: usize, run: impl FnOnce()) {
    if let Some(machine) = machine {
        machine.run_on(number);
    }
    run();
    if machine.is_some() {
        processors::finish();
    }
}

#[test]
fn a_consumer_sleeps_for_data() {
    let setting = Setting {
        capacity: 64,
        until: [2, 2],
        ..TIGHT
    };
    run(
        setting,
        |side, until| (1..=until).for_each(|tag| side.send(tag)),
        |side, until| (1..=until).for_each(|tag| side.receive(tag)),
    );
}

#[test]
fn a_producer_sleeps_for_space() {
    run(
        TIGHT,
        |side, until| (1..=until).for_each(|tag| side.send(tag)),
        |side, until| (1..=until).for_each(|tag| side.poll(tag)),
    );
}

#[test]
fn both_ends_of_a_ring_sleep() {
    run(
        Setting {
            until: [3, 2],
            ..TIGHT
        },
        |side, until| (1..=until).for_each(|tag| side.send(tag)),
        |side, until| (1..=until).for_each(|tag| side.receive(tag)),
    );
}

/// The consumer shows its progress per quarter of the ring only, and when it stops.
#[test]
fn a_producer_sleeps_for_a_lazy_head() {
    let setting = Setting {
        capacity: 64,
        len: 0,
        sent: 7,
        until: [4, 3],
        ..TIGHT
    };
    run(
        setting,
        |side, until| (1..=until).for_each(|tag| side.send(7 + tag)),
        |side, until| {
            (1..=until).for_each(|tag| side.receive(tag));
            side.release();
        },
    );
}

/// A batch costs one look at the sleeper, after all of it.
#[test]
fn a_consumer_sleeps_for_a_batch() {
    let setting = Setting {
        capacity: 64,
        until: [2, 2],
        ..TIGHT
    };
    run(
        setting,
        |side, until| {
            for tag in 1..=until {
                side.producer.stage(tag, &[tag as u8; 8]).unwrap();
            }
            side.interrupt();
            side.producer.publish();
            side.wake_for_data();
        },
        |side, until| {
            side.receive(1);
            assert!((2..=until).all(|tag| side.try_receive(tag)));
        },
    );
}

/// Question and answer: each side sleeps until the other has answered.
#[test]
fn ping_pong() {
    run(
        Setting {
            rings: 2,
            until: [2, 1],
            ..TIGHT
        },
        |side, until| {
            for tag in 1..=until {
                side.send(tag);
                side.receive(tag);
            }
        },
        |side, until| {
            for tag in 1..=until {
                side.receive(tag);
                side.send(tag);
            }
        },
    );
}

/// Sends and receives `count` records at once. A side that can do neither sleeps for both.
fn exchange(side: &mut Side, count: u32) {
    let (mut sent, mut received) = (0, 0);
    while sent < count || received < count {
        let mut moved = false;
        if sent < count && side.try_send(sent + 1) {
            sent += 1;
            moved = true;
        }
        if received < count && side.try_receive(received + 1) {
            received += 1;
            moved = true;
        }
        if moved {
            continue;
        }
        side.release();
        // One bell for both words.
        side.deeds.armed += 2;
        assert!(side.arm_for_space());
        assert!(side.arm_for_data());
        let may_send = sent < count && side.producer.has_space(side.len).unwrap();
        if !may_send && side.consumer.ready() == Ready::Empty {
            side.sleep();
        }
        side.for_space.disarm(side.own.space_parked());
        side.for_data.disarm(side.own.data_parked());
    }
}

#[test]
fn both_directions_at_once() {
    run(
        Setting {
            rings: 2,
            until: [2, 1],
            ..TIGHT
        },
        |side, until| exchange(side, until),
        |side, until| exchange(side, until),
    );
}

/// Receives up to the end of the ring.
fn receive_all(side: &mut Side, count: u32) {
    let mut received = 0;
    loop {
        if side.consumer.ready() == Ready::Closed {
            break;
        } else if side.try_receive(received + 1) {
            received += 1;
        } else {
            side.park_for_data();
        }
    }
    assert_eq!(received, count);
}

#[test]
fn a_sleeper_hears_that_the_ring_was_closed() {
    run(
        TIGHT,
        |side, _| {
            side.interrupt();
            side.producer.close();
            side.wake_for_data();
        },
        |side, _| receive_all(side, 0),
    );
    run(
        TIGHT,
        |side, _| {
            side.send(1);
            side.interrupt();
            side.producer.close();
            side.wake_for_data();
        },
        |side, _| receive_all(side, 1),
    );
}

/// A consumer that sleeps often asks for fences, is granted them and does without its heavy ones; then it
/// asks no more, and asks again. Whatever of it the producer has seen by then, it wakes the consumer.
#[test]
fn a_consumer_asks_for_fences_and_no_more() {
    let setting = Setting {
        capacity: 64,
        until: [1, 3],
        ..TIGHT
    };
    run(
        setting,
        |side, until| (1..=until).for_each(|tag| side.send(tag)),
        |side, until| {
            side.receive(1);
            side.for_data.found(side.own.data_parked());
            (2..=until).for_each(|tag| side.receive(tag));
        },
    );
}

/// A sleep that was announced but given up (a timeout, a signal) takes no wake-up from the next.
#[test]
fn a_sleep_is_given_up() {
    let setting = Setting {
        capacity: 64,
        until: [2, 2],
        ..TIGHT
    };
    run(
        setting,
        |side, until| (1..=until).for_each(|tag| side.send(tag)),
        |side, until| {
            side.deeds.armed += 1;
            assert!(side.arm_for_data());
            assert!(side.for_data.is_parked());
            side.for_data.disarm(side.own.data_parked());
            assert!(!side.for_data.is_parked());
            (1..=until).for_each(|tag| side.receive(tag));
        },
    );
}
