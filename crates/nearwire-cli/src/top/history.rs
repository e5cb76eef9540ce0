//! How it was a moment ago, for the sparklines.

use std::collections::VecDeque;

use nearwire::metrics::{Counter, Distribution};

use crate::rates::Interval;

/// Intervals that are kept: wider than any terminal.
const LENGTH: usize = 400;

/// Values of the last intervals, the newest last.
#[derive(Debug, Default)]
pub struct History {
    pub calls: Line,
    pub errors: Line,
    /// Nanoseconds; of an interval in which no call was sampled, those of the one before.
    pub median: Line,
    pub p99: Line,
}

#[derive(Debug, Default)]
pub struct Line(VecDeque<u64>);

impl Line {
    fn push(&mut self, value: u64) {
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    pub fn last(&self) -> u64 {
        self.0.back().copied().unwrap_or(0)
    }

    /// The last `count` values.
    pub fn tail(&self, count: usize) -> Vec<u64> {
        let skipped = self.0.len().saturating_sub(count);
        self.0.iter().skip(skipped).copied().collect()
    }
}

impl History {
    pub fn add(&mut self, interval: &Interval) {
        let calls = interval.calls_per_second();
        let errors = calls - interval.per_second(Counter::CallsOk);
        self.calls.push(calls as u64);
        self.errors.push(errors.max(0.0) as u64);
        let handlers = interval.distribution(Distribution::HandlerDuration);
        for (line, q) in [(&mut self.median, 0.5), (&mut self.p99, 0.99)] {
            line.push(handlers.quantile(q).unwrap_or(line.last()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_are_forgotten() {
        let mut line = Line::default();
        assert_eq!((line.last(), line.tail(3)), (0, vec![]));
        (0..1000).for_each(|value| line.push(value));
        assert_eq!((line.last(), line.tail(3)), (999, vec![997, 998, 999]));
        assert_eq!(line.tail(usize::MAX).len(), LENGTH);
    }
}
