//! The clock: what reading it costs, and times that several processes agree on.

use std::hint::black_box;
#[cfg(unix)]
use std::time::Duration;
use std::time::Instant;

#[cfg(unix)]
use rustix::time::{ClockId, clock_gettime};

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

/// The monotonic clock, which all processes share. Means nothing but in comparison.
#[cfg(unix)]
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The instant at which [`monotonic`] says `time`; now, if that is over.
#[cfg(unix)]
pub fn instant_of(time: Duration) -> Instant {
    Instant::now() + time.saturating_sub(monotonic())
}
