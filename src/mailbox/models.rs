//! The mailbox under loom: every interleaving with up to three preemptions, and every stale value that
//! the orderings allow. A wake-up that is lost is a deadlock, which loom reports.
//!
//! What is handed over stands for a connection: plain memory, written by the one that had it, then by the
//! one that it was handed to, and loom panics where the two could meet.

use super::Mailbox;
use super::bell::Bell;
use crate::ring::models::explore;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What is handed over.
struct Connection {
    number: usize,
    owner: UnsafeCell<()>,
}

impl Connection {
    /// As a connection that somebody has set up.
    fn new(number: usize) -> Self {
        let owner = UnsafeCell::new(());
        owner.with_mut(|_| ());
        Self { number, owner }
    }
}

type Letters = Mailbox<Connection, Bell>;

/// Takes so many connections, as `Worker::run` does, and returns their numbers.
fn work(mailbox: &Letters, bell: &Bell, count: usize, slept: &AtomicUsize) -> Vec<usize> {
    let (mut mail, mut taken) = (Vec::new(), Vec::new());
    while taken.len() < count {
        if mailbox.has_mail() {
            mailbox.collect(&mut mail);
            for connection in mail.drain(..) {
                connection.owner.with_mut(|_| ());
                taken.push(connection.number);
            }
        } else if mailbox.fall_asleep() {
            slept.fetch_add(1, Relaxed);
            bell.sleep();
            mailbox.wake_up();
        }
    }
    taken
}

fn mailbox() -> (Arc<Letters>, Bell) {
    let bell = Bell::new();
    (Arc::new(Mailbox::new(bell.clone())), bell)
}

/// One worker after another gets a connection from the one that accepts them.
#[test]
fn connections_are_handed_to_two_workers() {
    let [slept, awake] = explore(|[slept, awake]| {
        let [(first, bell), (second, other_bell)] = [mailbox(), mailbox()];
        let (boxes, nap) = (
            [first.clone(), second.clone()],
            Arc::new(AtomicUsize::new(0)),
        );
        let naps = nap.clone();
        let working = thread::spawn(move || work(&second, &other_bell, 1, &naps));
        let accepting = thread::spawn(move || {
            for number in 0..3 {
                boxes[number % 2].post(Connection::new(number));
            }
        });
        assert_eq!(work(&first, &bell, 2, &nap), [0, 2], "each once, in order");
        assert_eq!(working.join().unwrap(), [1]);
        accepting.join().unwrap();
        let naps = nap.load(Relaxed);
        slept.fetch_add(naps, Relaxed);
        awake.fetch_add(usize::from(naps == 0), Relaxed);
    });
    assert!(slept > 0 && awake > 0, "{slept} {awake}");
}

/// Two threads hand over to one worker at a time: the acceptor, and a runtime's thread.
#[test]
fn two_hand_over_to_one_worker() {
    let [slept] = explore(|[slept]| {
        let (mailbox, bell) = mailbox();
        let other = mailbox.clone();
        let posting = thread::spawn(move || {
            other.post(Connection::new(10));
            other.post(Connection::new(11));
        });
        let another = mailbox.clone();
        let also_posting = thread::spawn(move || another.post(Connection::new(20)));
        let taken = work(&mailbox, &bell, 3, slept);
        posting.join().unwrap();
        also_posting.join().unwrap();
        let of_first: Vec<_> = taken.iter().copied().filter(|n| *n < 20).collect();
        assert_eq!(of_first, [10, 11], "each once, in order: {taken:?}");
        assert!(taken.contains(&20), "{taken:?}");
    });
    assert!(slept > 0, "nobody ever slept");
}

/// A worker that is woken for nothing, because mail came while it was about to sleep, goes back to sleep
/// and is woken again.
#[test]
fn a_wake_up_that_came_early_costs_a_round_and_no_mail() {
    let [slept, twice] = explore(|[slept, twice]| {
        let (mailbox, bell) = mailbox();
        let other = mailbox.clone();
        let posting = thread::spawn(move || (0..3).for_each(|n| other.post(Connection::new(n))));
        let naps = AtomicUsize::new(0);
        assert_eq!(work(&mailbox, &bell, 3, &naps), [0, 1, 2]);
        posting.join().unwrap();
        let naps = naps.into_inner();
        slept.fetch_add(naps, Relaxed);
        twice.fetch_add(usize::from(naps > 1), Relaxed);
    });
    assert!(slept > 0 && twice > 0, "{slept} {twice}");
}
