//! How much of a sweep a connection may take before the next one has its turn.

use std::time::{Duration, Instant};

/// Records of one turn at most.
const MOST: u64 = 256;

/// How long the turn of a connection may take that always has more, about. What others wait for it
/// is this, whatever its handlers do; a handler that takes longer by itself has one record a turn.
const LONGEST: Duration = Duration::from_micros(50);

/// How many records a connection may take in a turn. Learns from turns that used it up, and reads
/// the clock for no others: a connection that has little to do pays nothing.
#[derive(Debug)]
pub(super) struct Allowance {
    /// At least 1, at most [`MOST`].
    records: u64,
    /// Whether the last turn used it up: then the next one is timed.
    used_up: bool,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            records: MOST,
            used_up: false,
        }
    }
}

impl Allowance {
    /// Begins a turn: how many records it may take, and when it began, if that is to be known.
    #[inline(always)]
    pub(super) fn begin(&self) -> (u64, Option<Instant>) {
        (self.records, self.used_up.then(Instant::now))
    }

    /// Ends a turn that took so many. Returns whether it used the allowance up.
    #[inline(always)]
    pub(super) fn end(&mut self, taken: u64, began: Option<Instant>) -> bool {
        self.used_up = taken >= self.records;
        if let Some(began) = began
            && self.used_up
        {
            self.learn(began.elapsed());
        }
        self.used_up
    }

    /// A turn that used it up took so long.
    fn learn(&mut self, took: Duration) {
        let each = took.as_nanos().max(1) as u64 / self.records;
        self.records = (LONGEST.as_nanos() as u64 / each.max(1)).clamp(1, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_takes_long_becomes_short_and_comes_back() {
        let mut allowance = Allowance::default();
        allowance.learn(256 * Duration::from_micros(10));
        assert_eq!(allowance.records, 5);
        allowance.learn(5 * Duration::from_millis(1));
        assert_eq!(allowance.records, 1);
        allowance.learn(Duration::from_nanos(50));
        assert_eq!(allowance.records, MOST);
        allowance.learn(Duration::ZERO);
        assert_eq!(allowance.records, MOST);
        allowance.learn(Duration::from_secs(3600));
        assert_eq!(allowance.records, 1);
    }

    #[test]
    fn the_clock_is_read_only_behind_a_turn_that_was_used_up() {
        let mut allowance = Allowance::default();
        let (records, began) = allowance.begin();
        assert!(began.is_none());
        assert!(!allowance.end(records - 1, began));
        assert!(allowance.begin().1.is_none());
        assert!(allowance.end(records, None));
        assert!(allowance.begin().1.is_some());
        assert!(!allowance.end(0, allowance.begin().1));
        assert!(allowance.begin().1.is_none());
    }
}
