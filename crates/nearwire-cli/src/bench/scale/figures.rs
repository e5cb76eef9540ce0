//! What clients count, and what is made of it.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::{Budget, RatioFigures, median};

/// The longest time that is told from longer ones: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// A histogram of times in nanoseconds, to within one per cent, small enough for one per thread.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LONGEST_NS, 2)?)
}

/// What one client process saw during a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Calls answered in the measured time, for each connection.
    pub(super) calls: Vec<u64>,
    /// All calls answered, warm-up and end included.
    pub(super) total: u64,
    /// The measured time.
    pub(super) seconds: f64,
    /// How often a call took how many nanoseconds.
    times: Vec<(u64, u64)>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    WarmUp,
    Counting,
    /// What is in flight is still awaited, but no longer counted.
    Ending,
}

/// Counts the calls of one thread.
pub(super) struct Counter {
    start: Instant,
    counting: Duration,
    ending: Duration,
    phase: Phase,
    /// When counting began, and when it ended.
    began: Duration,
    ended: Duration,
    calls: Vec<u64>,
    total: u64,
    /// Whether any call was counted: no run ends before.
    counted: bool,
    times: Histogram<u64>,
}

impl Counter {
    /// For so many connections, from `start` on.
    pub(super) fn new(connections: usize, start: Instant, budget: Budget) -> Result<Self> {
        Ok(Self {
            start,
            counting: budget.warm_up,
            ending: budget.warm_up + budget.run,
            phase: Phase::WarmUp,
            began: Duration::ZERO,
            ended: Duration::ZERO,
            calls: vec![0; connections],
            total: 0,
            counted: false,
            times: histogram()?,
        })
    }

    /// Time since the start of the run; moves on to the next phase when it is due.
    #[inline]
    pub(super) fn now(&mut self) -> Duration {
        let now = self.start.elapsed();
        if self.phase == Phase::WarmUp && now >= self.counting {
            (self.phase, self.began) = (Phase::Counting, now);
        }
        if self.phase == Phase::Counting && now >= self.ending && self.counted && now > self.began {
            (self.phase, self.ended) = (Phase::Ending, now);
        }
        now
    }

    pub(super) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// Calls of a connection were answered that were due `due` after the start.
    #[inline]
    pub(super) fn answered(&mut self, connection: usize, calls: u64, due: Duration, now: Duration) {
        self.total += calls;
        if self.phase == Phase::Counting {
            self.count(connection, calls);
            self.took(calls, now.saturating_sub(due));
        }
    }

    /// Calls were answered; how long they took is not known.
    pub(super) fn answered_untimed(&mut self, connection: usize, calls: u64) {
        self.total += calls;
        if self.phase == Phase::Counting {
            self.count(connection, calls);
        }
    }

    /// A call of a schedule was answered. It belongs to the measurement if it was due then,
    /// however late it is: or a server that stops would not show.
    pub(super) fn answered_late(&mut self, connection: usize, due: Duration, now: Duration) {
        self.total += 1;
        if due >= self.counting && due < self.ending {
            self.took(1, now.saturating_sub(due));
        }
        if self.phase == Phase::Counting {
            self.count(connection, 1);
        }
    }

    #[inline]
    fn count(&mut self, connection: usize, calls: u64) {
        self.calls[connection] += calls;
        self.counted = true;
    }

    #[inline]
    fn took(&mut self, calls: u64, time: Duration) {
        // A time beyond the longest counts as that.
        let nanoseconds = (time.as_nanos() as u64).min(LONGEST_NS);
        let _ = self.times.record_n(nanoseconds, calls);
    }

    pub(super) fn finish(self) -> Counts {
        Counts {
            calls: self.calls,
            total: self.total,
            seconds: (self.ended - self.began).as_secs_f64(),
            times: self
                .times
                .iter_recorded()
                .map(|value| (value.value_iterated_to(), value.count_at_value()))
                .collect(),
        }
    }
}

impl Counts {
    /// Puts together what threads or processes counted side by side.
    pub(super) fn merge(all: impl IntoIterator<Item = Self>) -> Self {
        let mut merged = Self {
            calls: Vec::new(),
            total: 0,
            seconds: 0.0,
            times: Vec::new(),
        };
        let mut parts = 0.0;
        for counts in all {
            merged.calls.extend(counts.calls);
            merged.total += counts.total;
            merged.seconds += counts.seconds;
            merged.times.extend(counts.times);
            parts += 1.0;
        }
        merged.seconds /= parts;
        merged
    }

    pub(super) fn per_second(&self) -> f64 {
        self.calls.iter().sum::<u64>() as f64 / self.seconds
    }

    fn slowest_over_fastest(&self) -> f64 {
        let least = self.calls.iter().min().copied().unwrap_or(0);
        let most = self.calls.iter().max().copied().unwrap_or(0);
        least as f64 / most.max(1) as f64
    }
}

/// One run, seen from all sides.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) counts: Counts,
    /// What the server took of its processors meanwhile.
    pub(super) server_cpu: Duration,
}

/// The figures of several runs.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Calls answered in a second, over all connections.
    pub calls_per_second: RatioFigures,
    /// Time of a call, from when it was due: the median, over all runs.
    pub p50_ns: u64,
    /// 99 in 100 took at most this.
    pub p99_ns: u64,
    /// 999 in 1000 took at most this.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// Seconds of CPU time that the server takes for a million calls.
    pub server_cpu_per_million: f64,
    /// Calls of the connection that made fewest, over those of the one that made most.
    pub slowest_over_fastest: f64,
    /// Resident memory that a connection adds to server and clients together, shared pages counted
    /// once, after the largest run so far. Buffers in the kernel are not in it.
    pub bytes_per_connection: u64,
}

impl Figures {
    pub(super) fn of(runs: &[Run], bytes_per_connection: u64) -> Result<Self> {
        let mut times = histogram()?;
        for (value, count) in runs.iter().flat_map(|run| &run.counts.times) {
            times.record_n((*value).min(LONGEST_NS), *count)?;
        }
        let middle = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure));
        Ok(Self {
            calls_per_second: RatioFigures::of(runs.iter().map(|run| run.counts.per_second())),
            p50_ns: times.value_at_quantile(0.5),
            p99_ns: times.value_at_quantile(0.99),
            p999_ns: times.value_at_quantile(0.999),
            max_ns: times.max(),
            server_cpu_per_million: middle(&|run| {
                run.server_cpu.as_secs_f64() * 1e6 / run.counts.total as f64
            }),
            slowest_over_fastest: middle(&|run| run.counts.slowest_over_fastest()),
            bytes_per_connection,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn counter() -> Counter {
        let budget = Budget {
            warm_up: 10 * MILLISECOND,
            run: 10 * MILLISECOND,
        };
        Counter::new(2, Instant::now(), budget).unwrap()
    }

    #[test]
    fn only_what_ends_in_time_is_counted() {
        let mut counter = counter();
        counter.answered(0, 1, Duration::ZERO, MILLISECOND);
        counter.phase = Phase::Counting;
        counter.answered(1, 3, 2 * MILLISECOND, 5 * MILLISECOND);
        counter.phase = Phase::Ending;
        counter.answered(0, 1, Duration::ZERO, MILLISECOND);
        let counts = counter.finish();
        assert_eq!((&counts.calls[..], counts.total), (&[0, 3][..], 5));
        let [(time, 3)] = counts.times[..] else {
            panic!("{:?}", counts.times)
        };
        assert!((2_970_000..3_030_000).contains(&time), "{time}");
    }

    #[test]
    fn a_scheduled_call_counts_however_late_it_is() {
        let mut counter = counter();
        counter.phase = Phase::Ending;
        counter.answered_late(0, 11 * MILLISECOND, 500 * MILLISECOND);
        counter.answered_late(0, 21 * MILLISECOND, 500 * MILLISECOND);
        assert_eq!(counter.times.len(), 1);
        assert!(counter.times.max() >= 480_000_000);
    }

    #[test]
    fn phases_follow_the_clock() {
        let mut counter = counter();
        counter.start = Instant::now() - 15 * MILLISECOND;
        counter.now();
        assert_eq!(counter.phase, Phase::Counting);
        counter.start -= 10 * MILLISECOND;
        counter.now();
        assert!(!counter.is_ending(), "nothing was counted");
        counter.answered(0, 1, Duration::ZERO, 16 * MILLISECOND);
        counter.now();
        assert!(counter.is_ending());
        assert!(counter.finish().seconds > 0.0);
    }

    #[test]
    fn the_slowest_is_compared_with_the_fastest() {
        let counts = |calls: &[u64]| Counts {
            calls: calls.to_vec(),
            total: 0,
            seconds: 2.0,
            times: Vec::new(),
        };
        let merged = Counts::merge([counts(&[10, 20]), counts(&[40])]);
        assert_eq!(merged.slowest_over_fastest(), 0.25);
        assert_eq!(merged.per_second(), 35.0);
    }
}
