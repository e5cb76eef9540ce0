//! Whether this thread had a core to itself.

use std::fs;
use std::time::{Duration, Instant};

/// Two sides that take turns on one core wait for about half of the time; this part is suspicious.
const MOST_WAITING: f64 = 0.4;

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

    /// Whether the calling thread waited for a core for more than two fifths of the time since.
    ///
    /// False if the kernel keeps no account of it.
    pub fn was_small(&self) -> bool {
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
