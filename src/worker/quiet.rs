//! How long nothing may happen in a connection before it is parked while others are busy.

use std::time::Duration;

/// Sweeping over an idle connection costs a few nanoseconds; parking one costs a fence and, when it
/// comes back, a system call on either side: as much as some milliseconds of sweeping.
const SHORTEST: Duration = Duration::from_millis(1);

/// Who comes back later than that after it was busy was parked rightly.
const LONGEST: Duration = Duration::from_millis(20);

/// What one connection that was parked too soon adds.
const STEP: Duration = Duration::from_micros(125);

/// How long a connection may be quiet. Learns from those that ring soon after they were parked.
///
/// # What it prevents
/// A client goes round thousands of connections, a call on each. If it is kept off its processor
/// for a moment the worker parks them all, and then the client has a ring to pay for each: its next
/// round takes milliseconds. If that were longer than a connection may be quiet, the first ones would
/// be parked again by the time the last ones were rung, and every round from then on would be as slow,
/// for no reason but the one before it.
#[derive(Debug)]
pub(super) struct Quiet {
    limit: Duration,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { limit: SHORTEST }
    }
}

impl Quiet {
    /// A connection in which nothing happened for longer is to be parked.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// A parked connection rang, so long after it was busy last.
    pub(super) fn rung_after(&mut self, idle: Duration) {
        if idle < LONGEST {
            self.limit = (self.limit + STEP).min(LONGEST);
        }
    }

    /// Takes back a part of what was learnt, in case it is so no more. Now and then.
    pub(super) fn forget(&mut self) {
        self.limit = SHORTEST.max(self.limit * 3 / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_soon_makes_all_wait_longer_and_in_time_that_is_forgotten() {
        let mut quiet = Quiet::default();
        quiet.rung_after(LONGEST);
        assert_eq!(quiet.limit(), SHORTEST);
        quiet.rung_after(SHORTEST);
        assert_eq!(quiet.limit(), SHORTEST + STEP);
        for _ in 0..1000 {
            quiet.rung_after(Duration::ZERO);
        }
        assert_eq!(quiet.limit(), LONGEST);
        for _ in 0..20 {
            quiet.forget();
        }
        assert_eq!(quiet.limit(), SHORTEST);
    }
}
