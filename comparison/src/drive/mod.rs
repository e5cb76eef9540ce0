//! How peers are driven: each in the way that suits it, all with the same clock and the same checks.
//!
//! - [`blocking`]: a thread that sends and waits, or goes round many connections;
//! - [`awaited`]: connections of a Tokio runtime that send and wait in order;
//! - [`tasks`]: clients of a Tokio runtime on which any number of tasks call at a time.

pub mod awaited;
pub mod blocking;
pub mod tasks;

use std::time::Duration;

use anyhow::{Context, Result};
use nearwire_cli::comparison::monotonic;
use tokio::runtime::{Builder, Runtime};

use crate::message::SHORTEST;
use crate::peer::{CrowdTime, Tally};

/// Bytes of a greeting.
pub const GREETING: usize = 64;

const _: () = assert!(GREETING >= SHORTEST);

/// A runtime of one thread: with two cores, one for each side, a second one is in the way.
///
/// # Errors
/// If the system refuses it.
pub fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

/// Sleeps until the shared clock says so.
pub fn sleep_until(time: Duration) {
    std::thread::sleep(time.saturating_sub(monotonic()));
}

/// Counts the calls of a crowd, from one look at the clock to another.
pub struct Counter {
    time: CrowdTime,
    calls: u64,
    counting_since: Option<Duration>,
    last: Duration,
}

impl Counter {
    /// Counts nothing yet.
    pub fn new(time: &CrowdTime) -> Self {
        Self {
            time: *time,
            calls: 0,
            counting_since: None,
            last: Duration::ZERO,
        }
    }

    /// Counts calls that have been answered since the last time. Returns whether there is time for
    /// more.
    pub fn count(&mut self, calls: u64) -> bool {
        let now = monotonic();
        match self.counting_since {
            Some(_) if self.calls > 0 && self.last >= self.time.end => return false,
            Some(_) => {
                self.calls += calls;
                self.last = now;
            }
            None if now >= self.time.count_from => {
                self.counting_since = Some(now);
                self.last = now;
            }
            None => {}
        }
        // Who is slow may have counted nothing yet, and has more time for that.
        self.calls == 0 || now < self.time.end
    }

    /// What was counted.
    pub fn tally(&self) -> Tally {
        let since = self.counting_since.unwrap_or(self.last);
        Tally {
            calls: self.calls,
            seconds: (self.last - since).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_between_the_warm_up_and_the_end() {
        let now = monotonic();
        let time = CrowdTime {
            start: now,
            count_from: now + Duration::from_millis(20),
            end: now + Duration::from_millis(60),
        };
        let mut counter = Counter::new(&time);
        assert!(counter.count(100));
        sleep_until(time.count_from);
        assert!(counter.count(100));
        std::thread::sleep(Duration::from_millis(5));
        assert!(counter.count(7));
        sleep_until(time.end);
        assert!(!counter.count(5));
        assert!(!counter.count(1000));
        let tally = counter.tally();
        assert_eq!(tally.calls, 12);
        assert!((0.03..0.2).contains(&tally.seconds), "{tally:?}");
    }
}
