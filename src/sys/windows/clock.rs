//! The clock that all processes of the system share and nobody sets.

use std::time::Duration;
use windows_sys::Win32::System::Performance::{QueryPerformanceCounter, QueryPerformanceFrequency};

/// Time since some moment in the past, the same for all processes.
pub(crate) fn monotonic() -> Duration {
    let (mut ticks, mut per_second) = (0, 0);
    // SAFETY: the results go to variables of this function. Neither call fails on any system that
    // this is compiled for, says the system's documentation.
    unsafe {
        QueryPerformanceFrequency(&mut per_second);
        QueryPerformanceCounter(&mut ticks);
    }
    let nanos = ticks.max(0) as u128 * 1_000_000_000 / per_second.max(1) as u128;
    Duration::from_nanos(nanos as u64)
}
