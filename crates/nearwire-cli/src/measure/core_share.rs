//! Whether this thread had a core to itself.

use std::fs;
use std::time::{Duration, Instant};

/// A thread that waited longer than this part of a run for a core shared it with another.
const MOST_WAITING: f64 = 0.2;

/// The start of a run, to see later how long the calling thread waited for a core.
pub struct CoreShare {
    start: Instant,
    waited: Option<Duration>,
}

impl CoreShare {
    /// Starts looking.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            waited: waited(),
        }
    }

    /// Whether the calling thread waited for a core for more than a fifth of the time since.
    ///
    /// False if the kernel keeps no account of it.
    pub fn was_crowded(&self) -> bool {
        let (Some(before), Some(after)) = (self.waited, waited()) else {
            return false;
        };
        (after - before).as_secs_f64() > self.start.elapsed().as_secs_f64() * MOST_WAITING
    }
}

/// How long the calling thread has been ready to run without a core, ever.
fn waited() -> Option<Duration> {
    parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// Time on a core, time without one (both in nanoseconds) and time slices.
fn parse(account: &str) -> Option<Duration> {
    account
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_figure_is_the_wait() {
        assert_eq!(parse("1500 700 12\n"), Some(Duration::from_nanos(700)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1500 soon 12"), None);
    }
}
