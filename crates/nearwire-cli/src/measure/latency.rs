//! How long one operation takes.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Budget, clock_cost, median};

/// Operations of a block take about this long together.
const BLOCK: Duration = Duration::from_micros(20);

/// The most operations a block may have.
const LONGEST_BLOCK: u32 = 1024;

/// The longest time that is told from longer ones: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// How long one operation took, over a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Operations measured.
    pub operations: u64,
    /// The median over blocks of back-to-back operations, without clock reads in between.
    pub typical_ns: f64,
    /// The mean over the same blocks.
    pub mean_ns: f64,
    /// Percentiles of single operations. Each sample contains one clock read (`clock_ns`).
    pub p50_ns: u64,
    /// 90 in 100 were at most this.
    pub p90_ns: u64,
    /// 99 in 100 were at most this.
    pub p99_ns: u64,
    /// 999 in 1000 were at most this.
    pub p999_ns: u64,
    /// The fastest.
    pub min_ns: u64,
    /// The slowest.
    pub max_ns: u64,
    /// What one clock read costs.
    pub clock_ns: f64,
    /// More percentiles of single operations, from the fastest on; as far as there were enough
    /// operations beyond them to say so.
    pub curve: Vec<Percentile>,
}

/// How long a share of the operations took at most.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Percentile {
    /// The share, from 0 to below 1.
    pub share: f64,
    /// The time, in nanoseconds.
    pub ns: u64,
}

/// The shares of a curve.
const SHARES: [f64; 22] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999,
    0.9995, 0.9998, 0.9999, 0.99995, 0.99999,
];

/// Operations that must have taken longer than a percentile for it to be in the curve.
const BEYOND: f64 = 5.0;

/// Times `operation` for a while.
///
/// Blocks of operations between two clock reads alternate with operations that are timed one by
/// one: the former give [`Latency::typical_ns`], free of the clock's cost, the latter the percentiles.
///
/// # Errors
/// The first error of `operation`.
pub fn latency(budget: Budget, mut operation: impl FnMut() -> Result<()>) -> Result<Latency> {
    let start = Instant::now();
    let mut warmed_up = 0u32;
    while warmed_up == 0 || start.elapsed() < budget.warm_up {
        operation()?;
        warmed_up += 1;
    }
    let mut samples = Samples::new(start.elapsed() / warmed_up)?;
    let start = Instant::now();
    while samples.is_empty() || start.elapsed() < budget.run {
        let begin = Instant::now();
        for _ in 0..samples.block {
            operation()?;
        }
        samples.block_took(begin.elapsed());
        for _ in 0..samples.singles() {
            let begin = Instant::now();
            operation()?;
            samples.single_took(begin.elapsed());
        }
    }
    Ok(samples.evaluate())
}

/// The same for an operation that is awaited, within one task.
///
/// # Errors
/// As [`latency`].
pub async fn latency_async(
    budget: Budget,
    mut operation: impl AsyncFnMut() -> Result<()>,
) -> Result<Latency> {
    let start = Instant::now();
    let mut warmed_up = 0u32;
    while warmed_up == 0 || start.elapsed() < budget.warm_up {
        operation().await?;
        warmed_up += 1;
    }
    let mut samples = Samples::new(start.elapsed() / warmed_up)?;
    let start = Instant::now();
    while samples.is_empty() || start.elapsed() < budget.run {
        let begin = Instant::now();
        for _ in 0..samples.block {
            operation().await?;
        }
        samples.block_took(begin.elapsed());
        for _ in 0..samples.singles() {
            let begin = Instant::now();
            operation().await?;
            samples.single_took(begin.elapsed());
        }
    }
    Ok(samples.evaluate())
}

/// What a run has recorded so far.
struct Samples {
    /// Operations of a block.
    block: u32,
    /// Nanoseconds per operation of each block.
    blocks: Vec<f64>,
    in_blocks: Duration,
    singles: Histogram<u64>,
}

impl Samples {
    /// For operations that take about as long as `each`.
    fn new(each: Duration) -> Result<Self> {
        let block = (BLOCK.as_nanos() / each.as_nanos().max(1)) as u32;
        Ok(Self {
            block: block.clamp(1, LONGEST_BLOCK),
            blocks: Vec::new(),
            in_blocks: Duration::ZERO,
            singles: Histogram::new_with_max(LONGEST_NS, 3)?,
        })
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Operations to time one by one after each block. A block of one is long enough for the
    /// clock's cost to vanish: it serves for both.
    fn singles(&self) -> u32 {
        if self.block == 1 { 0 } else { self.block }
    }

    fn block_took(&mut self, time: Duration) {
        self.in_blocks += time;
        self.blocks
            .push(time.as_nanos() as f64 / f64::from(self.block));
        if self.block == 1 {
            self.single_took(time);
        }
    }

    #[inline]
    fn single_took(&mut self, time: Duration) {
        self.singles.saturating_record(time.as_nanos() as u64);
    }

    fn evaluate(self) -> Latency {
        let in_blocks = self.blocks.len() as u64 * u64::from(self.block);
        let one_by_one = if self.block == 1 {
            0
        } else {
            self.singles.len()
        };
        let percentile = |share| self.singles.value_at_quantile(share);
        Latency {
            operations: in_blocks + one_by_one,
            mean_ns: self.in_blocks.as_nanos() as f64 / in_blocks as f64,
            p50_ns: percentile(0.5),
            p90_ns: percentile(0.9),
            p99_ns: percentile(0.99),
            p999_ns: percentile(0.999),
            min_ns: self.singles.min(),
            max_ns: self.singles.max(),
            clock_ns: clock_cost(),
            curve: SHARES
                .into_iter()
                .filter(|share| {
                    *share == 0.0 || (1.0 - share) * self.singles.len() as f64 >= BEYOND
                })
                .map(|share| Percentile {
                    share,
                    ns: if share == 0.0 {
                        self.singles.min()
                    } else {
                        percentile(share)
                    },
                })
                .collect(),
            typical_ns: median(self.blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Budget = Budget {
        warm_up: Duration::ZERO,
        run: Duration::ZERO,
    };

    #[test]
    fn every_operation_is_counted() {
        let mut calls = 0;
        let measured = latency(SHORT, || {
            calls += 1;
            Ok(())
        })
        .unwrap();
        // One operation is the warm-up.
        assert_eq!(measured.operations, calls - 1);
        assert!(measured.min_ns <= measured.p50_ns && measured.p50_ns <= measured.max_ns);
    }

    #[test]
    fn awaited_operations_are_counted_alike() {
        let mut calls = 0;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let measured = runtime.block_on(latency_async(SHORT, async || {
            calls += 1;
            Ok(())
        }));
        assert_eq!(measured.unwrap().operations, calls - 1);
    }

    #[test]
    fn a_failing_operation_ends_the_run() {
        let mut calls = 0;
        // No machine is so slow that it is over before that.
        let result = latency(Budget::of(Duration::from_secs(10)), || {
            calls += 1;
            anyhow::ensure!(calls < 3, "enough");
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "enough");
        assert_eq!(calls, 3);
    }
}
