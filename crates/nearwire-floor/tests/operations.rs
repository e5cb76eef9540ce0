//! The operations carry what they claim to carry, within one process, where the two sides map the same
//! memory twice, and between two.
#![cfg(any(target_os = "linux", target_os = "macos", windows))]

mod far_side;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use far_side::FarSide;
use nearwire_floor::Descriptors;
use nearwire_floor::copying::Copying;
use nearwire_floor::ping_pong::PingPong;
use nearwire_floor::ring::commit::Commit;
use nearwire_floor::ring::tail::Tail;
use nearwire_floor::ring::{
    Consumer as _, Exchange, Producer as _, RingMemory, Scheme, longest_payload,
};

const CAPACITY: usize = 1024;
const RECORDS: u32 = 1000;

/// Two spinners at a time are enough for two cores: each test that spins holds this.
static CORES: Mutex<()> = Mutex::new(());

fn cores() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A payload that no other record shares: its length and every byte follow from its number.
fn payload(number: u32) -> Vec<u8> {
    let length = 1 + number as usize * 37 % longest_payload(CAPACITY);
    (0..length)
        .map(|at| (number as usize * 131 + at * 7) as u8)
        .collect()
}

/// The far side of a ring: checks every record.
fn consume<S: Scheme>(descriptors: Descriptors) {
    let memory = RingMemory::open(descriptors).unwrap();
    let mut consumer = S::Consumer::new(&memory);
    let mut buffer = vec![0; longest_payload(CAPACITY)];
    for number in 0..RECORDS {
        let length = consumer.pop(&mut buffer);
        assert_eq!(buffer[..length], payload(number), "record {number}");
    }
}

/// Runs `produce` against a consumer elsewhere, which checks every record.
fn carries<S: Scheme>(produce: impl FnOnce(&mut S::Producer)) {
    let _cores = cores();
    let (memory, descriptors) = RingMemory::create(CAPACITY).unwrap();
    let consumer = thread::spawn(move || consume::<S>(descriptors));
    produce(&mut S::Producer::new(&memory));
    consumer.join().unwrap();
}

fn carries_single_records<S: Scheme>() {
    carries::<S>(|producer| (0..RECORDS).for_each(|number| producer.push(&payload(number))));
}

fn carries_batches<S: Scheme>() {
    carries::<S>(|producer| {
        let payloads: Vec<_> = (0..RECORDS).map(payload).collect();
        // Batches from one record to more than the ring holds.
        let mut rest = payloads.as_slice();
        for size in (1..200).cycle() {
            let (batch, others) = rest.split_at(size.min(rest.len()));
            producer.push_batch(batch.iter().map(Vec::as_slice));
            rest = others;
            if rest.is_empty() {
                return;
            }
        }
    });
}

#[test]
fn a_tail_ring_carries_single_records() {
    carries_single_records::<Tail>();
}

#[test]
fn a_commit_ring_carries_single_records() {
    carries_single_records::<Commit>();
}

#[test]
fn a_tail_ring_carries_batches() {
    carries_batches::<Tail>();
}

#[test]
fn a_commit_ring_carries_batches() {
    carries_batches::<Commit>();
}

#[test]
#[should_panic(expected = "too long")]
fn a_tail_ring_refuses_what_never_fits() {
    let (memory, _descriptors) = RingMemory::create(CAPACITY).unwrap();
    <Tail as Scheme>::Producer::new(&memory).push(&[0; CAPACITY]);
}

#[test]
#[should_panic(expected = "too long")]
fn a_commit_ring_refuses_what_never_fits() {
    let (memory, _descriptors) = RingMemory::create(CAPACITY).unwrap();
    <Commit as Scheme>::Producer::new(&memory).push(&[0; CAPACITY]);
}

/// How often something goes there and back.
const ROUND_TRIPS: u32 = 200;

/// The far side of an exchange: echoes.
fn echo<S: Scheme>(descriptors: Descriptors) {
    let far = Exchange::<S>::open(descriptors).unwrap();
    let echoed = far.answer(longest_payload(CAPACITY));
    assert_eq!(echoed, u64::from(ROUND_TRIPS));
}

/// The near side of an exchange: compares.
fn compare_echoes<S: Scheme>(mut near: Exchange<S>) {
    let mut reply = vec![0; longest_payload(CAPACITY)];
    for number in 0..ROUND_TRIPS {
        let length = near.round_trip(&payload(number), &mut reply);
        assert_eq!(reply[..length], payload(number));
    }
    near.stop();
}

fn exchanges<S: Scheme>() {
    let _cores = cores();
    let (near, descriptors) = Exchange::<S>::create(CAPACITY).unwrap();
    let far = thread::spawn(move || echo::<S>(descriptors));
    compare_echoes(near);
    far.join().unwrap();
}

#[test]
fn tail_rings_echo() {
    exchanges::<Tail>();
}

#[test]
fn commit_rings_echo() {
    exchanges::<Commit>();
}

/// The far side of a ping-pong.
fn answer(descriptors: Descriptors) {
    let turns = PingPong::open(descriptors).unwrap().answer();
    assert_eq!(turns, u64::from(ROUND_TRIPS));
}

#[test]
fn a_ping_pong_counts_its_turns() {
    let _cores = cores();
    let (mut near, descriptors) = PingPong::create().unwrap();
    let far = thread::spawn(move || answer(descriptors));
    (0..ROUND_TRIPS).for_each(|_| near.round_trip());
    near.stop();
    far.join().unwrap();
}

/// Is the far side of what another test started.
#[test]
fn child_process() {
    far_side::play(&[
        ("ping-pong", answer),
        ("tail ring", consume::<Tail>),
        ("commit ring", consume::<Commit>),
        ("tail echo", echo::<Tail>),
        ("commit echo", echo::<Commit>),
        #[cfg(target_os = "linux")]
        ("slots", linux::answer_slots),
    ]);
}

mod between_processes {
    use super::*;

    #[test]
    fn a_ping_pong_counts_its_turns() {
        let _cores = cores();
        let (mut near, descriptors) = PingPong::create().unwrap();
        let far = FarSide::start("ping-pong", descriptors);
        (0..ROUND_TRIPS).for_each(|_| near.round_trip());
        near.stop();
        far.finish();
    }

    fn carries<S: Scheme>(role: &str) {
        let _cores = cores();
        let (memory, descriptors) = RingMemory::create(CAPACITY).unwrap();
        let far = FarSide::start(role, descriptors);
        let mut producer = S::Producer::new(&memory);
        (0..RECORDS).for_each(|number| producer.push(&payload(number)));
        far.finish();
    }

    #[test]
    fn a_tail_ring_carries_records() {
        carries::<Tail>("tail ring");
    }

    #[test]
    fn a_commit_ring_carries_records() {
        carries::<Commit>("commit ring");
    }

    fn exchanges<S: Scheme>(role: &str) {
        let _cores = cores();
        let (near, descriptors) = Exchange::<S>::create(CAPACITY).unwrap();
        let far = FarSide::start(role, descriptors);
        compare_echoes(near);
        far.finish();
    }

    #[test]
    fn tail_rings_echo() {
        exchanges::<Tail>("tail echo");
    }

    #[test]
    fn commit_rings_echo() {
        exchanges::<Commit>("commit echo");
    }
}

#[test]
fn all_copies_copy() {
    for size in [1, 7, 8, 64, 1001, 65536] {
        let expected: Vec<u8> = (0..size).map(|at| at as u8 | 1).collect();
        let ways: &[fn(&mut Copying)] = &[
            Copying::memcpy,
            #[cfg(target_arch = "x86_64")]
            Copying::string_move,
            Copying::words,
        ];
        for (way, copy) in ways.iter().enumerate() {
            let mut copying = Copying::new(size).unwrap();
            copy(&mut copying);
            assert_eq!(copying.target(), expected, "way {way}, {size} bytes");
        }
    }
}

#[test]
fn a_far_side_refuses_the_wrong_descriptors() {
    assert!(PingPong::open(Vec::new()).is_err());
    assert!(Exchange::<Tail>::open(Vec::new()).is_err());
}

/// What only Linux has.
#[cfg(target_os = "linux")]
mod linux {
    use super::{FarSide, cores};
    use nearwire_floor::Descriptors;
    use nearwire_floor::kernel::{self, BarrierTarget};
    use nearwire_floor::sleeping::{Edge, Eventfd, Futex, ShutDown, Sleeping, Socket};
    use nearwire_floor::slots::Slots;
    use std::thread;
    use std::time::Duration;

    fn sleeps_and_wakes<S: Sleeping>() {
        let (mut near, descriptors) = S::create().unwrap();
        let far = thread::spawn(move || S::open(descriptors).unwrap().answer().unwrap());
        for _ in 0..200 {
            near.round_trip().unwrap();
        }
        near.stop().unwrap();
        assert_eq!(far.join().unwrap(), 200);
    }

    #[test]
    fn futexes_wake() {
        sleeps_and_wakes::<Futex>();
    }

    #[test]
    fn an_eventfd_wakes() {
        sleeps_and_wakes::<Edge<Eventfd>>();
    }

    #[test]
    fn a_socket_that_is_shut_down_again_wakes() {
        sleeps_and_wakes::<Edge<ShutDown>>();
    }

    #[test]
    fn a_socket_wakes() {
        sleeps_and_wakes::<Socket>();
    }

    const CALLERS: usize = 5;
    const CALLS: u32 = 500;

    /// The far side of slots.
    pub fn answer_slots(descriptors: Descriptors) {
        let answered = Slots::open(descriptors).unwrap().answer().unwrap();
        assert_eq!(answered, u64::from(CALLS) * CALLERS as u64);
    }

    #[test]
    fn slots_answer_each_caller_and_sleep_in_between() {
        let _cores = cores();
        let (slots, descriptors) = Slots::create(CALLERS, 100).unwrap();
        let far = FarSide::start("slots", descriptors);
        assert_eq!(slots.len(), CALLERS);
        thread::scope(|threads| {
            for number in 0..CALLERS {
                let mut caller = slots.caller(number);
                threads.spawn(move || {
                    for call in 0..CALLS {
                        let length = 1 + (call as usize * 7 + number) % 100;
                        let request: Vec<u8> = (0..length).map(|at| (at ^ number) as u8).collect();
                        let mut reply = vec![0; length];
                        caller.call(&request, &mut reply).unwrap();
                        assert_eq!(reply, request);
                        if call % 100 == 99 {
                            // Until the other side sleeps as well.
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                });
            }
        });
        slots.stop().unwrap();
        far.finish();
    }

    #[test]
    #[should_panic(expected = "no slot 3")]
    fn a_slot_that_is_not_there_is_refused() {
        let (slots, _descriptors) = Slots::create(3, 8).unwrap();
        let _ = slots.caller(3);
    }

    #[test]
    fn barriers_reach_a_sleeping_and_a_spinning_target() {
        let _cores = cores();
        for far_side in [BarrierTarget::spin, BarrierTarget::sleep] {
            let (near, descriptors) = BarrierTarget::create().unwrap();
            let far = thread::spawn(move || far_side(BarrierTarget::open(descriptors).unwrap()));
            near.wait_until_ready();
            kernel::barrier_elsewhere().unwrap();
            near.stop().unwrap();
            far.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_far_side_refuses_no_descriptors() {
        assert!(Socket::open(Vec::new()).is_err());
    }
}
