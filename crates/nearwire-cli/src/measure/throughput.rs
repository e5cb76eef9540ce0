//! How many operations fit into a second.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Budget, median};

/// Operations between two clock reads take at least this long together.
const SLICE: Duration = Duration::from_micros(500);

/// How many operations were done, over a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Throughput {
    /// Operations measured.
    pub operations: u64,
    /// Time they took, to the moment when the other side had the last of them.
    pub seconds: f64,
    /// Operations per second over the whole run.
    pub mean_per_second: f64,
    /// The median over slices of the run of half a millisecond or more.
    pub typical_per_second: f64,
    /// Bytes of payload of one operation.
    pub bytes_each: usize,
}

/// Counts how many operations fit into a while.
///
/// `send` does the given number of operations of `bytes_each` bytes of payload; `finish`, called at
/// the end with the number of all operations (those of the warm-up too), waits until the other side
/// has them all and checks their number.
///
/// # Errors
/// The first error of `send` or `finish`.
pub fn throughput(
    budget: Budget,
    bytes_each: usize,
    mut send: impl FnMut(u64) -> Result<()>,
    finish: impl FnOnce(u64) -> Result<()>,
) -> Result<Throughput> {
    // The warm-up also finds how many operations make a slice.
    let mut slice = 16;
    let mut warmed_up = 0;
    let start = Instant::now();
    loop {
        let begin = Instant::now();
        send(slice)?;
        warmed_up += slice;
        if begin.elapsed() < SLICE {
            slice *= 2;
        } else if start.elapsed() >= budget.warm_up {
            break;
        }
    }

    let mut operations = 0;
    let mut slices = Vec::new();
    let start = Instant::now();
    let mut begin = start;
    while slices.is_empty() || begin - start < budget.run {
        let mut in_slice = 0;
        // Whoever was interrupted during the warm-up has found too small a number.
        let end = loop {
            send(slice)?;
            in_slice += slice;
            let end = Instant::now();
            if end - begin >= SLICE {
                break end;
            }
        };
        operations += in_slice;
        slices.push(in_slice as f64 / (end - begin).as_secs_f64());
        begin = end;
    }
    finish(warmed_up + operations)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Throughput {
        operations,
        seconds,
        mean_per_second: operations as f64 / seconds,
        typical_per_second: median(slices),
        bytes_each,
    })
}

/// Counts operations as they end, for those that overlap in tasks of their own.
///
/// Like [`throughput`], which is for those that one thread starts in order.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    bytes_each: usize,
    warm_up: bool,
    /// When the warm-up began, or the measurement.
    start: Instant,
    /// When the current slice began.
    begin: Instant,
    /// Operations that have ended since.
    in_slice: u64,
    /// Operations of all slices that count.
    operations: u64,
    slices: Vec<f64>,
}

impl Meter {
    /// Begins to warm up.
    pub fn start(budget: Budget, bytes_each: usize) -> Self {
        let now = Instant::now();
        Self {
            budget,
            bytes_each,
            warm_up: true,
            start: now,
            begin: now,
            in_slice: 0,
            operations: 0,
            slices: Vec::new(),
        }
    }

    /// Counts operations that have ended, at the price of a clock read. Returns whether there is
    /// time for more.
    pub fn count(&mut self, operations: u64) -> bool {
        if self.is_over() {
            return false;
        }
        self.in_slice += operations;
        let now = Instant::now();
        let took = now - self.begin;
        if took < SLICE {
            return true;
        }
        if !self.warm_up {
            self.operations += self.in_slice;
            self.slices.push(self.in_slice as f64 / took.as_secs_f64());
        } else if now - self.start >= self.budget.warm_up {
            self.warm_up = false;
            self.start = now;
        }
        self.begin = now;
        self.in_slice = 0;
        !self.is_over()
    }

    /// Whether all that was to be measured has been. What ends later does not count.
    fn is_over(&self) -> bool {
        !self.slices.is_empty() && self.begin - self.start >= self.budget.run
    }

    /// What came of it.
    pub fn evaluate(self) -> Throughput {
        let seconds = (self.begin - self.start).as_secs_f64();
        Throughput {
            operations: self.operations,
            seconds,
            mean_per_second: self.operations as f64 / seconds,
            typical_per_second: median(self.slices),
            bytes_each: self.bytes_each,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_learns_of_every_operation() {
        let budget = Budget {
            warm_up: Duration::ZERO,
            run: Duration::ZERO,
        };
        let (mut sent, mut told) = (0, 0);
        let measured = throughput(
            budget,
            8,
            |count| {
                sent += count;
                std::thread::sleep(SLICE);
                Ok(())
            },
            |total| {
                told = total;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(sent, told);
        // A slice of warm-up and a slice that counts.
        assert_eq!(measured.operations * 2, sent);
    }

    #[test]
    fn a_meter_counts_until_the_time_is_up() {
        let budget = Budget {
            warm_up: Duration::ZERO,
            run: 3 * SLICE,
        };
        let mut meter = Meter::start(budget, 8);
        let mut calls = 1;
        while meter.count(2) {
            std::thread::sleep(SLICE);
            calls += 1;
        }
        // Whatever ends later is not counted, and does not start it again.
        for _ in 0..100 {
            assert!(!meter.count(2));
        }
        let measured = meter.evaluate();
        // The first is counted before any time has passed, the second ends the warm-up.
        assert_eq!(measured.operations, 2 * (calls - 2));
        assert!(measured.seconds >= (3 * SLICE).as_secs_f64());
    }
}
