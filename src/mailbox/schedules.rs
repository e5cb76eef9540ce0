//! The mailbox under schedules at random: `RUSTFLAGS="--cfg shuttle" cargo test --lib schedules`.
//!
//! shuttle runs the threads one at a time, goes over to another one wherever they touch what they
//! share, and panics if none can go on: a wake-up that is lost is a deadlock here.

use super::Mailbox;
use super::bell::Bell;
use shuttle::sync::Arc;
use shuttle::thread;

const SENDERS: u64 = 3;
const LETTERS: u64 = 3;

/// A worker that sleeps whenever it may, and threads that send it letters.
fn letters_reach_a_worker_that_sleeps() {
    let bell = Bell::new();
    let mailbox = Arc::new(Mailbox::new(bell.clone()));
    let senders = (0..SENDERS).map(|sender| {
        let mailbox = mailbox.clone();
        thread::spawn(move || {
            for letter in 0..LETTERS {
                mailbox.post(sender * LETTERS + letter);
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    // As `Worker::run` does.
    let (mut mail, mut seen) = (Vec::new(), Vec::new());
    while seen.len() < (SENDERS * LETTERS) as usize {
        if mailbox.has_mail() {
            mailbox.collect(&mut mail);
            seen.append(&mut mail);
        } else if mailbox.fall_asleep() {
            bell.sleep();
            mailbox.wake_up();
        }
    }
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    for sender in 0..SENDERS {
        let letters = sender * LETTERS..(sender + 1) * LETTERS;
        let of_sender = seen.iter().filter(|number| letters.contains(number));
        assert!(
            of_sender.copied().eq(letters.clone()),
            "once, in order: {seen:?}"
        );
    }
}

#[test]
fn letters_reach_a_worker_at_random() {
    shuttle::check_random(letters_reach_a_worker_that_sleeps, 20_000);
}

/// With few changes from one thread to another, at places of which each has its chance.
#[test]
fn letters_reach_a_worker_with_few_preemptions() {
    shuttle::check_pct(letters_reach_a_worker_that_sleeps, 20_000, 3);
}
