//! How often something may happen: rates, and the token buckets that keep to them.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often something may happen: `per_second` times in each second on the average, and up to `burst`
/// times at once after it has happened less often (a token bucket).
///
/// ```
/// use nearwire::RateLimit;
///
/// let limit = RateLimit::per_second(5_000);
/// assert_eq!(limit.burst, 5_000);
/// assert_eq!("5000".parse(), Ok(limit));
/// assert_eq!("5000:200".parse(), Ok(RateLimit { burst: 200, ..limit }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Times in a second, at least 1.
    pub per_second: u32,
    /// Times at once, at least 1: the bucket's size.
    pub burst: u32,
}

impl RateLimit {
    /// So many times in a second, and up to a second's worth at once.
    #[must_use]
    pub const fn per_second(times: u32) -> Self {
        Self {
            per_second: times,
            burst: times,
        }
    }

    /// # Errors
    /// [`Error::Setting`] about `setting` if it would let nothing happen, ever.
    pub(crate) fn check(limit: Option<Self>, setting: &'static str) -> Result<(), Error> {
        match limit {
            Some(limit) if limit.per_second == 0 || limit.burst == 0 => Err(Error::Setting {
                setting,
                rule: "at least 1 per second, and a burst of at least 1",
            }),
            _ => Ok(()),
        }
    }
}

impl FromStr for RateLimit {
    type Err = String;

    /// Reads `RATE` or `RATE:BURST`, both numbers from 1 on.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rate, burst) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.parse().ok().filter(|&number: &u32| number > 0);
        match (number(rate), number(burst)) {
            (Some(per_second), Some(burst)) => Ok(Self { per_second, burst }),
            _ => Err("RATE or RATE:BURST, a number per second and one at once, from 1 on".into()),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.burst == self.per_second {
            true => write!(f, "{}", self.per_second),
            false => write!(f, "{}:{}", self.per_second, self.burst),
        }
    }
}

/// A token, in units of which one comes for each nanosecond and each token per second: exact for any
/// rate.
const TOKEN: u64 = 1_000_000_000;

/// A token bucket: full at first.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    limit: RateLimit,
    /// In units of which [`TOKEN`] are one token.
    level: u64,
    /// When that was the level.
    at: Instant,
}

impl TokenBucket {
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let mut bucket = Self {
            limit,
            level: 0,
            at: now,
        };
        bucket.level = bucket.size();
        bucket
    }

    /// Below 2^62.
    fn size(&self) -> u64 {
        u64::from(self.limit.burst) * TOKEN
    }

    /// Puts in what has come until `now`. A time before one that was seen already brings nothing.
    pub(crate) fn refill(&mut self, now: Instant) {
        let Some(passed) = now.checked_duration_since(self.at) else {
            return;
        };
        self.at = now;
        let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let come = passed.saturating_mul(self.limit.per_second.into());
        self.level = self.level.saturating_add(come).min(self.size());
    }

    /// Whole tokens that are there.
    pub(crate) fn tokens(&self) -> u64 {
        self.level / TOKEN
    }

    /// Takes out so many of them.
    pub(crate) fn take(&mut self, tokens: u64) {
        debug_assert!(tokens <= self.tokens());
        self.level = self.level.saturating_sub(tokens.saturating_mul(TOKEN));
    }

    /// When there will be so many tokens, or as many as it holds.
    pub(crate) fn has_at(&self, tokens: u64) -> Instant {
        let wanted = tokens.saturating_mul(TOKEN).min(self.size());
        let missing = wanted.saturating_sub(self.level);
        self.at + Duration::from_nanos(missing.div_ceil(self.limit.per_second.max(1).into()))
    }

    /// Tokens that come in a time, at least one.
    pub(crate) fn in_time(&self, time: Duration) -> u64 {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        (time.saturating_mul(self.limit.per_second.into()) / TOKEN).max(1)
    }

    /// Whether it says no more than a new one would.
    pub(crate) fn is_full(&self) -> bool {
        self.level == self.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bucket(per_second: u32, burst: u32) -> (TokenBucket, Instant) {
        let now = Instant::now();
        let limit = RateLimit { per_second, burst };
        (TokenBucket::new(limit, now), now)
    }

    #[test]
    fn a_burst_is_there_at_first_and_then_what_comes() {
        let (mut bucket, start) = bucket(1000, 20);
        assert!(bucket.is_full());
        assert_eq!(bucket.tokens(), 20);
        bucket.take(20);
        assert_eq!(bucket.tokens(), 0);
        assert_eq!(bucket.has_at(1), start + MS);
        assert_eq!(bucket.has_at(5), start + 5 * MS);
        // Never more than it holds.
        assert_eq!(bucket.has_at(u64::MAX), start + 20 * MS);
        bucket.refill(start + 5 * MS - Duration::from_nanos(1));
        assert_eq!(bucket.tokens(), 4);
        bucket.refill(start + 5 * MS);
        assert_eq!(bucket.tokens(), 5);
        assert_eq!(bucket.has_at(5), start + 5 * MS);
        bucket.refill(start + 1000 * MS);
        assert_eq!(bucket.tokens(), 20);
        assert!(bucket.is_full());
    }

    #[test]
    fn no_part_of_a_token_is_lost_however_often_it_is_looked_at() {
        for rate in [1, 3, 7, 999_999_937, u32::MAX] {
            let (mut bucket, start) = bucket(rate, u32::MAX);
            bucket.take(bucket.tokens());
            let step = Duration::from_nanos(333_333_331);
            for n in 1..=3u32 {
                bucket.refill(start + n * step);
            }
            let exact = u128::from(rate) * 3 * step.as_nanos() / u128::from(TOKEN);
            assert_eq!(u128::from(bucket.tokens()), exact);
        }
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_brings_nothing() {
        let (mut bucket, start) = bucket(u32::MAX, 10);
        let later = start + MS;
        bucket.refill(later);
        bucket.take(10);
        for now in [later, start, start, later] {
            bucket.refill(now);
            assert_eq!(bucket.tokens(), 0);
        }
    }

    #[test]
    fn nothing_overflows() {
        for (rate, burst) in [(1, 1), (1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            let (mut bucket, start) = bucket(rate, burst);
            bucket.refill(start + Duration::from_secs(1 << 30));
            assert_eq!(bucket.tokens(), u64::from(burst));
            bucket.take(bucket.tokens());
            let full = bucket.has_at(u64::MAX);
            assert!(full > start);
            bucket.refill(full);
            assert!(bucket.is_full());
            assert!(bucket.in_time(Duration::MAX) >= 1);
        }
        assert_eq!(bucket(1, 1).0.in_time(MS), 1);
        assert_eq!(bucket(20_000, 1).0.in_time(5 * MS), 100);
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        for limit in [
            RateLimit::per_second(1),
            RateLimit {
                per_second: 20_000,
                burst: 7,
            },
        ] {
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        for bad in ["", "0", "x", "5:", ":5", "5:0", "-1", "5:6:7", "4294967296"] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_limit_of_nothing_is_no_limit_that_can_be_set() {
        assert!(RateLimit::check(None, "x").is_ok());
        assert!(RateLimit::check(Some(RateLimit::per_second(1)), "x").is_ok());
        for (per_second, burst) in [(0, 1), (1, 0)] {
            let limit = RateLimit { per_second, burst };
            assert!(RateLimit::check(Some(limit), "x").is_err());
        }
    }
}
