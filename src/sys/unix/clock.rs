//! The clock that all processes of the system share and nobody sets.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since some moment in the past, the same for all processes (of one time namespace, on Linux).
pub(crate) fn monotonic() -> Duration {
    // The kernel keeps it positive and its nanoseconds below a second.
    clock_gettime(ClockId::Monotonic)
        .try_into()
        .unwrap_or_default()
}
