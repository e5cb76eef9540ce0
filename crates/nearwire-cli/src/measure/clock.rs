//! The clock: what reading it costs, and times that several processes agree on.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::median;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

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

/// A clock that all processes share. Means nothing but in comparison. It is for telling another
/// process when to begin; how long something takes is [`Instant`]'s to say.
///
/// On Unix it is the monotonic clock. On Windows it is the time of day, the only one that the
/// standard library lets processes share: if somebody sets it in the milliseconds between this and
/// [`instant_of`] in another process, that process begins at once, or up to a minute late, and that
/// one run says little.
pub fn monotonic() -> Duration {
    os::shared_clock()
}

/// The instant at which [`monotonic`] says `time`; now, if that is over, and after a minute, if it
/// is to be later than that.
pub fn instant_of(time: Duration) -> Instant {
    Instant::now() + until(time, monotonic())
}

/// Longer ahead is no time that anybody gave: the clock was set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

fn until(time: Duration, now: Duration) -> Duration {
    time.saturating_sub(now).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ahead_is_an_instant_ahead() {
        let (before, time) = (Instant::now(), monotonic() + Duration::from_secs(5));
        let ahead = instant_of(time).duration_since(before);
        // Less than that, if this thread got no core for long.
        assert!(ahead <= Duration::from_secs(6), "{ahead:?}");
        assert!(ahead > Duration::from_secs(1), "{ahead:?}");
        assert!(instant_of(Duration::ZERO) <= Instant::now());
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nobody_waiting_for_long() {
        let second = Duration::from_secs(1);
        assert_eq!(until(5 * second, 3 * second), 2 * second);
        assert_eq!(until(3 * second, 5 * second), Duration::ZERO);
        assert_eq!(until(9000 * second, second), LONGEST_WAIT);
    }
}
