//! The bias and its revocation, under loom: every interleaving with up to three preemptions.

use super::{Bias, NOBODY};
use crate::ring::models::explore;
use crate::sync::processors::{self, Machine};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// The threads' names; the owner comes first.
const THREADS: [u64; 2] = [1, 2];

/// How a thread entered.
const BY_BIAS: usize = 0;
const BY_LOCK: usize = 1;

/// What one thread may touch at a time: loom complains of two.
struct Guarded {
    bias: Bias,
    inside: UnsafeCell<()>,
}

/// Runs two threads that enter so often each. `owner` is who the bias is in favour of. Returns how the first
/// thread entered, over all executions.
fn enter_from_two_threads(owner: u64, times: [usize; 2]) -> [usize; 2] {
    explore(move |entered: &[AtomicUsize; 2]| {
        let machine = Machine::new();
        let guarded = Arc::new(Guarded {
            bias: Bias::new(owner, processors::heavy_fence),
            inside: UnsafeCell::new(()),
        });
        let other = {
            let (machine, guarded) = (machine.clone(), guarded.clone());
            thread::spawn(move || {
                machine.run_on(1);
                for _ in 0..times[1] {
                    let entry = guarded.bias.enter(THREADS[1]);
                    guarded.inside.with_mut(|_| ());
                    assert!(entry.lock.is_some());
                }
                processors::finish();
            })
        };
        machine.run_on(0);
        for _ in 0..times[0] {
            let entry = guarded.bias.enter(THREADS[0]);
            // The other one's fence may fall in here: then the owner is inside while the bias is revoked.
            processors::interrupt();
            guarded.inside.with_mut(|_| ());
            let how = if entry.lock.is_none() {
                BY_BIAS
            } else {
                BY_LOCK
            };
            entered[how].fetch_add(1, Relaxed);
        }
        processors::finish();
        other.join().unwrap();
    })
}

#[test]
fn another_thread_enters_while_the_owner_comes_and_goes() {
    let entered = enter_from_two_threads(THREADS[0], [3, 1]);
    assert!(entered[BY_BIAS] > 0 && entered[BY_LOCK] > 0);
}

#[test]
fn once_revoked_all_go_by_the_lock() {
    let entered = enter_from_two_threads(THREADS[0], [2, 2]);
    assert!(entered[BY_BIAS] > 0 && entered[BY_LOCK] > 0);
}

#[test]
fn without_an_owner_both_go_by_the_lock() {
    assert_eq!(enter_from_two_threads(NOBODY, [2, 2])[BY_BIAS], 0);
}
