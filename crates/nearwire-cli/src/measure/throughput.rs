//! How many operations fit into a second.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::{Budget, median};

/// Operations between two clock reads take at least this long together.
const SLICE: Duration = Duration::from_micros(500);

/// How many operations were done, over a run.
#[derive(Debug, Clone, Serialize)]
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
        send(slice)?;
        operations += slice;
        let end = Instant::now();
        slices.push(slice as f64 / (end - begin).as_secs_f64());
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
}
