//! What clients count, and what is made of it.

use std::collections::BTreeMap;
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

/// How often something took how many nanoseconds, to within one per cent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Times(Vec<(u64, u64)>);

impl Times {
    fn of(times: &Histogram<u64>) -> Self {
        let recorded = times.iter_recorded();
        Self(
            recorded
                .map(|value| (value.value_iterated_to(), value.count_at_value()))
                .collect(),
        )
    }

    /// Takes the time of one.
    pub(super) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.push(start.elapsed());
        result
    }

    /// Adds the time of one.
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(((time.as_nanos() as u64).min(LONGEST_NS), 1));
    }

    /// All together.
    pub(super) fn merge(all: impl IntoIterator<Item = Self>) -> Self {
        // Hundreds of threads that saw the same times.
        let mut merged = BTreeMap::new();
        for (time, count) in all.into_iter().flat_map(|times| times.0) {
            *merged.entry(time).or_default() += count;
        }
        Self(merged.into_iter().collect())
    }

    /// For quantiles.
    ///
    /// # Errors
    /// Never, in practice: every time is within bounds.
    pub(super) fn histogram(&self) -> Result<Histogram<u64>> {
        let mut times = histogram()?;
        for (value, count) in &self.0 {
            times.record_n((*value).min(LONGEST_NS), *count)?;
        }
        Ok(times)
    }
}

/// What one client process saw during a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Calls answered in the measured time, for each connection.
    pub(super) calls: Vec<u64>,
    /// All calls answered, warm-up and end included.
    pub(super) total: u64,
    /// Calls per second: what each counter saw in its own measured time, added up. (The mean of
    /// the times would not do: a thread that got no core until the end had a short one.)
    per_second: f64,
    /// How long calls took.
    pub(super) times: Times,
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
    /// When counting ended: when it was to, or later if nothing was counted by then. It began when
    /// it was to, whether or not this thread had a core.
    ended: Duration,
    calls: Vec<u64>,
    total: u64,
    /// Whether any call was counted: no run ends before.
    counted: bool,
    /// Whether the first was counted after the run was to end.
    counted_late: bool,
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
            ended: budget.warm_up + budget.run,
            calls: vec![0; connections],
            total: 0,
            counted: false,
            counted_late: false,
            times: histogram()?,
        })
    }

    /// Time since the start of the run; moves on to the next phase when it is due.
    #[inline]
    pub(super) fn now(&mut self) -> Duration {
        let now = self.start.elapsed();
        if self.phase == Phase::WarmUp && now >= self.counting {
            self.phase = Phase::Counting;
        }
        if self.phase == Phase::Counting && now >= self.ending && self.counted {
            self.phase = Phase::Ending;
            if self.counted_late {
                self.ended = now;
            }
        }
        now
    }

    /// Whether a call that is due then is one of the run, however late it is made.
    pub(super) fn belongs(&self, due: Duration) -> bool {
        due < self.ending || !self.is_ending()
    }

    /// Calls that were answered so far, in whatever phase.
    pub(super) fn total(&self) -> u64 {
        self.total
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
    #[inline]
    pub(super) fn answered_untimed(&mut self, connection: usize, calls: u64) {
        self.total += calls;
        if self.phase == Phase::Counting {
            self.count(connection, calls);
        }
    }

    /// Calls of a schedule were answered.
    #[inline]
    pub(super) fn answered_late(&mut self, connection: usize, calls: u64) {
        self.total += calls;
        if self.phase == Phase::Counting {
            self.count(connection, calls);
        }
    }

    /// A call of a schedule was answered, and is one of those that are timed. It belongs to the measurement
    /// if it was due then, however late it is: or a server that stops would not show.
    #[inline]
    pub(super) fn was_due(&mut self, due: Duration, now: Duration) {
        if due >= self.counting && due < self.ending {
            self.took(1, now.saturating_sub(due));
        }
    }

    #[inline]
    fn count(&mut self, connection: usize, calls: u64) {
        self.calls[connection] += calls;
        if !self.counted {
            self.counted = true;
            self.counted_late = self.start.elapsed() >= self.ending;
        }
    }

    #[inline]
    fn took(&mut self, calls: u64, time: Duration) {
        // A time beyond the longest counts as that.
        let nanoseconds = (time.as_nanos() as u64).min(LONGEST_NS);
        let _ = self.times.record_n(nanoseconds, calls);
    }

    pub(super) fn finish(self) -> Counts {
        let seconds = (self.ended - self.counting).as_secs_f64();
        Counts {
            per_second: self.calls.iter().sum::<u64>() as f64 / seconds,
            calls: self.calls,
            total: self.total,
            times: Times::of(&self.times),
        }
    }
}

impl Counts {
    /// Puts together what threads or processes counted side by side.
    pub(super) fn merge(all: impl IntoIterator<Item = Self>) -> Self {
        let mut merged = Self {
            calls: Vec::new(),
            total: 0,
            per_second: 0.0,
            times: Times::default(),
        };
        let mut times = Vec::new();
        for counts in all {
            merged.calls.extend(counts.calls);
            merged.total += counts.total;
            merged.per_second += counts.per_second;
            times.push(counts.times);
        }
        merged.times = Times::merge(times);
        merged
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second
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
    /// The part of the time in which the machine's CPUs were busy, whoever it was, if the system
    /// tells.
    pub(super) machine_busy: Option<f64>,
    /// Calls that were due in a second, if there was a schedule.
    pub(super) due_per_second: Option<f64>,
}

/// The figures of several runs.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many runs these are.
    pub runs: usize,
    /// Calls answered in a second, over all connections.
    pub calls_per_second: RatioFigures,
    /// The most calls in a second that there could be, if the schedule is a part of them.
    pub peak_calls_per_second: Option<RatioFigures>,
    /// Calls that were answered, as a part of those that were due, if there was a schedule: below
    /// 1 in the long run, somebody could not keep up.
    pub answered_of_due: Option<f64>,
    /// Time of a call, from when it was due: the median, over all runs.
    pub p50_ns: u64,
    /// 99 in 100 took at most this.
    pub p99_ns: u64,
    /// 999 in 1000 took at most this.
    pub p999_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// The same as `p99_ns` of each run for itself: one run that was disturbed does not move the
    /// median.
    pub p99_ns_by_run: RatioFigures,
    /// Seconds of CPU time that the server takes for a million calls.
    pub server_cpu_per_million: f64,
    /// Calls of the connection that made fewest, over those of the one that made most.
    pub slowest_over_fastest: f64,
    /// Resident memory that a connection adds to server and clients together, after the largest run
    /// so far. Shared pages are counted once on Linux, on each side elsewhere. Buffers in the kernel
    /// are not in it.
    pub bytes_per_connection: u64,
}

impl Figures {
    pub(super) fn of<'a>(
        runs: impl Iterator<Item = &'a Run> + Clone,
        bytes_per_connection: u64,
    ) -> Result<Self> {
        let times = Times::merge(runs.clone().map(|run| run.counts.times.clone())).histogram()?;
        let by_run = |quantile: f64| {
            let by_run = runs.clone().map(|run| {
                let times = run.counts.times.histogram()?;
                Ok(times.value_at_quantile(quantile) as f64)
            });
            by_run.collect::<Result<Vec<f64>>>()
        };
        let middle = |figure: &dyn Fn(&Run) -> f64| median(runs.clone().map(figure));
        Ok(Self {
            runs: runs.clone().count(),
            calls_per_second: RatioFigures::of(runs.clone().map(|run| run.counts.per_second())),
            peak_calls_per_second: None,
            answered_of_due: runs
                .clone()
                .all(|run| run.due_per_second.is_some())
                .then(|| {
                    middle(&|run| run.counts.per_second() / run.due_per_second.unwrap_or(f64::NAN))
                }),
            p50_ns: times.value_at_quantile(0.5),
            p99_ns: times.value_at_quantile(0.99),
            p999_ns: times.value_at_quantile(0.999),
            max_ns: times.max(),
            p99_ns_by_run: RatioFigures::of(by_run(0.99)?.into_iter()),
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
        let [(time, 3)] = counts.times.0[..] else {
            panic!("{:?}", counts.times)
        };
        assert!((2_970_000..3_030_000).contains(&time), "{time}");
    }

    #[test]
    fn a_scheduled_call_counts_however_late_it_is() {
        let mut counter = counter();
        counter.phase = Phase::Ending;
        counter.was_due(11 * MILLISECOND, 500 * MILLISECOND);
        counter.was_due(21 * MILLISECOND, 500 * MILLISECOND);
        counter.answered_late(0, 2);
        assert_eq!((counter.total(), counter.calls[0]), (2, 0));
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
        // One call in the time until it came, not in the time that was meant.
        let rate = counter.finish().per_second;
        assert!((10.0..67.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_thread_that_comes_late_makes_no_rate_of_its_own() {
        let budget = Budget {
            warm_up: Duration::ZERO,
            run: 100 * MILLISECOND,
        };
        let start = Instant::now() - 99 * MILLISECOND;
        let mut late = Counter::new(1, start, budget).unwrap();
        late.now();
        late.answered(0, 1, Duration::ZERO, 99 * MILLISECOND);
        late.start -= 10 * MILLISECOND;
        late.now();
        assert!(late.is_ending());
        // One in the whole time, not in the moment that it had.
        let rate = late.finish().per_second;
        assert!((1.0..=10.0).contains(&rate), "{rate}");
    }

    #[test]
    fn the_slowest_is_compared_with_the_fastest() {
        let counts = |calls: &[u64]| Counts {
            calls: calls.to_vec(),
            total: 0,
            per_second: calls.iter().sum::<u64>() as f64 / 2.0,
            times: Times::default(),
        };
        let merged = Counts::merge([counts(&[10, 20]), counts(&[40])]);
        assert_eq!(merged.slowest_over_fastest(), 0.25);
        assert_eq!(merged.per_second(), 35.0);
    }
}
