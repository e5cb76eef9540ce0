//! A value that one thread at a time may touch, where the system lets the one that nearly always does
//! go without a locked instruction.

use crate::bias::{Bias, Entry, NOBODY};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};

/// As a `Mutex`, but biased (see [`crate::bias`]). Does not remember panics.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    bias: Bias,
    value: UnsafeCell<T>,
}

// SAFETY: who has a reference to the value has an `Entry`, and `Bias` guarantees that there is one at a time
// and that what was done under one happened before the next. So sharing this shares no value, it only
// sends it to and fro.
unsafe impl<T: Send> Sync for Exclusive<T> {}

thread_local! {
    /// A thread's name is this byte's address: no other thread that lives has it.
    static NAME: u8 = const { 0 };
}

#[inline(always)]
fn this_thread() -> u64 {
    NAME.with(|name| std::ptr::from_ref(name).addr() as u64)
}

impl<T> Exclusive<T> {
    /// A value that nobody is expected to touch more than others.
    pub(crate) fn new(value: T) -> Self {
        Self::in_favour_of(NOBODY, value)
    }

    /// A value that this thread will touch, and hardly anybody else.
    pub(crate) fn biased(value: T) -> Self {
        let owner = if crate::sys::register_for_heavy_fences() {
            this_thread()
        } else {
            NOBODY
        };
        Self::in_favour_of(owner, value)
    }

    fn in_favour_of(owner: u64, value: T) -> Self {
        // Shuttle runs its threads on one of the system's.
        let owner = if cfg!(shuttle) { NOBODY } else { owner };
        Self {
            bias: Bias::new(owner, crate::sys::heavy_fence),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until nobody has the value, and takes it. Blocks for as long as others keep it, and once, when
    /// another thread than the one in favour comes for the first time, for some 10 µs.
    ///
    /// # Panics
    /// If the thread has it already, or it blocks for ever.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Held<'_, T> {
        Held {
            _entry: self.bias.enter(this_thread()),
            value: &self.value,
        }
    }

    /// The value, which nobody else can have.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// The value, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held<'a, T> {
    _entry: Entry<'a>,
    value: &'a UnsafeCell<T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `Bias` guarantees that no other entry exists, and the borrow of this one that none of its
        // exclusive references does.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `Bias` guarantees that no other entry exists, and the borrow of this one that nothing
        // else refers to the value.
        unsafe { &mut *self.value.get() }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};

    const TIMES: usize = 20_000;

    #[test]
    fn nothing_is_lost_when_another_thread_joins_in() {
        for _ in 0..50 {
            let count = Arc::new(Exclusive::biased(0));
            let begin = Arc::new(Barrier::new(2));
            let other = {
                let (count, begin) = (count.clone(), begin.clone());
                std::thread::spawn(move || {
                    begin.wait();
                    (0..TIMES).for_each(|_| *count.lock() += 1);
                })
            };
            begin.wait();
            (0..TIMES).for_each(|_| *count.lock() += 1);
            other.join().unwrap();
            assert_eq!(*count.lock(), 2 * TIMES);
        }
    }

    #[test]
    fn another_thread_waits_for_the_one_in_favour() {
        let value = Arc::new(Exclusive::biased(1));
        let held = value.lock();
        let other = {
            let value = value.clone();
            std::thread::spawn(move || std::mem::replace(&mut *value.lock(), 3))
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!other.is_finished());
        let mut held = held;
        *held = 2;
        drop(held);
        assert_eq!(other.join().unwrap(), 2);
        assert_eq!(*value.lock(), 3);
    }

    #[test]
    fn a_panic_gives_it_back() {
        let value = Exclusive::biased(1);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = value.lock();
            panic!("inside");
        }));
        assert!(outcome.is_err());
        assert_eq!(*value.lock(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[should_panic(expected = "holds itself")]
    fn a_thread_that_has_it_does_not_get_it_twice() {
        let value = Exclusive::biased(1);
        let _held = value.lock();
        let _again = value.lock();
    }
}
