//! The monotonic clock.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(super) fn shared_clock() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
