//! What reading the clock costs.

use std::hint::black_box;
use std::time::Instant;

use super::median;

/// Nanoseconds that one `Instant::now()` costs: the median over blocks of reads.
pub fn clock_cost() -> f64 {
    const READS: u32 = 500;
    median((0..51).map(|_| {
        let start = Instant::now();
        for _ in 0..READS {
            black_box(Instant::now());
        }
        start.elapsed().as_nanos() as f64 / f64::from(READS)
    }))
}
