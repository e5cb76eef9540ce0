//! Calls at fixed times, whether or not the server keeps up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When the calls of a process, or of a connection, are due: `first`, and then one every
/// `interval`. In nanoseconds with fractions, as tens of millions of calls may be due in a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Pace {
    first_ns: f64,
    interval_ns: f64,
}

impl Pace {
    /// `per_second` calls, evenly.
    pub(super) fn of(per_second: f64) -> Self {
        Self {
            first_ns: 0.0,
            interval_ns: 1e9 / per_second,
        }
    }

    /// The same for those that have `mine` of `all` connections, the ones from `first` on.
    pub(super) fn share(self, first: usize, mine: usize, all: usize) -> Self {
        let interval_ns = self.interval_ns * all as f64 / mine as f64;
        Self {
            // Spread: all would call at once.
            first_ns: self.first_ns + self.interval_ns * first as f64,
            interval_ns,
        }
    }

    /// When call `number`, counted from 0, is due after the start.
    #[inline]
    pub(super) fn due(self, number: u64) -> Duration {
        Duration::from_nanos(self.due_ns(number))
    }

    /// The same in nanoseconds, for who asks for each of many calls.
    #[inline(always)]
    pub(super) fn due_ns(self, number: u64) -> u64 {
        (self.first_ns + self.interval_ns * number as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        let all = Pace::of(1000.0);
        assert_eq!(all.due(3), Duration::from_millis(3));
        let mut due: Vec<Duration> = Vec::new();
        for (first, mine) in [(0, 2), (2, 1), (3, 1)] {
            let share = all.share(first, mine, 4);
            due.extend((0..100 * mine as u64).map(|call| share.due(call)));
        }
        due.sort();
        assert_eq!(due.len(), 400);
        assert!(due[399] < Duration::from_millis(400), "{:?}", due[399]);
    }

    #[test]
    fn fractions_of_a_nanosecond_add_up() {
        let pace = Pace::of(30e6);
        assert_eq!(pace.due(30_000_000), Duration::from_secs(1));
    }
}
