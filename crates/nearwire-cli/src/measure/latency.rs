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
}

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
    let each = start.elapsed() / warmed_up;
    let block = (BLOCK.as_nanos() / each.as_nanos().max(1)) as u32;
    let block = block.clamp(1, LONGEST_BLOCK);

    let mut histogram = Histogram::<u64>::new_with_max(LONGEST_NS, 3)?;
    let mut blocks = Vec::new();
    let mut total = Duration::ZERO;
    let start = Instant::now();
    while blocks.is_empty() || start.elapsed() < budget.run {
        let begin = Instant::now();
        for _ in 0..block {
            operation()?;
        }
        let took = begin.elapsed();
        total += took;
        blocks.push(took.as_nanos() as f64 / f64::from(block));
        if block == 1 {
            // Long enough for the clock's cost to vanish: one sample serves for both.
            histogram.saturating_record(took.as_nanos() as u64);
            continue;
        }
        for _ in 0..block {
            let begin = Instant::now();
            operation()?;
            histogram.saturating_record(begin.elapsed().as_nanos() as u64);
        }
    }
    let timed_in_blocks = blocks.len() as u64 * u64::from(block);
    Ok(Latency {
        operations: timed_in_blocks + if block == 1 { 0 } else { histogram.len() },
        mean_ns: total.as_nanos() as f64 / timed_in_blocks as f64,
        typical_ns: median(blocks),
        p50_ns: histogram.value_at_quantile(0.5),
        p90_ns: histogram.value_at_quantile(0.9),
        p99_ns: histogram.value_at_quantile(0.99),
        p999_ns: histogram.value_at_quantile(0.999),
        min_ns: histogram.min(),
        max_ns: histogram.max(),
        clock_ns: clock_cost(),
    })
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
    fn a_failing_operation_ends_the_run() {
        let mut calls = 0;
        let result = latency(SHORT, || {
            calls += 1;
            anyhow::ensure!(calls < 3, "enough");
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "enough");
        assert_eq!(calls, 3);
    }
}
