//! How much of a sweep a connection may take before the next one has its turn, and how much in a
//! second.

use crate::rate::{RateLimit, TokenBucket};
use std::time::{Duration, Instant};

/// Records of one turn at most.
const MOST: u64 = 256;

/// How long the turn of a connection may take that always has more, about. What others wait for it
/// is this, whatever its handlers do; a handler that takes longer by itself has one record a turn.
const LONGEST: Duration = Duration::from_micros(50);

/// A connection that has used up its rate is held back until it may take what comes in this time, so
/// that neither its worker nor its client is woken for each record.
const HOLD: Duration = Duration::from_millis(5);

/// How many records a connection may take in a turn. Learns from turns that used it up, and reads
/// the clock for no others: a connection that has little to do pays nothing.
#[derive(Debug)]
pub(super) struct Allowance {
    /// At least 1, at most [`MOST`].
    records: u64,
    /// Whether the last turn used it up: then the next one is timed.
    used_up: bool,
    /// Whether it may take nothing, whatever came into the bucket meanwhile, until it is released.
    held: bool,
    /// What it may take in a second, if that is limited.
    bucket: Option<Box<TokenBucket>>,
}

impl Allowance {
    pub(super) fn new(rate: Option<RateLimit>) -> Self {
        Self {
            records: MOST,
            used_up: false,
            held: false,
            bucket: rate.map(|rate| Box::new(TokenBucket::new(rate, Instant::now()))),
        }
    }

    /// Begins a turn at the worker's time: how many records it may take, and when it began, if that is
    /// to be known.
    #[inline(always)]
    pub(super) fn begin(&mut self, now: Instant) -> (u64, Option<Instant>) {
        let records = match self.bucket {
            None => self.records,
            Some(_) => self.limited(now),
        };
        (records, self.used_up.then(Instant::now))
    }

    /// What a turn may take of what the rate leaves.
    fn limited(&mut self, now: Instant) -> u64 {
        match &mut self.bucket {
            Some(_) if self.held => 0,
            Some(bucket) => {
                bucket.refill(now);
                self.records.min(bucket.tokens())
            }
            None => self.records,
        }
    }

    /// Whether the rate is used up, and nothing may be taken for a while.
    #[inline(always)]
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Nothing may be taken from now on. Returns until when, unless it is so already: then
    /// [`release`](Self::release) is to be called.
    #[cold]
    pub(super) fn hold(&mut self) -> Option<Instant> {
        let bucket = self.bucket.as_mut().filter(|_| !self.held)?;
        self.held = true;
        // The worker's time may be a while ago.
        bucket.refill(Instant::now());
        Some(bucket.has_at(bucket.in_time(HOLD)))
    }

    /// Ends what [`hold`](Self::hold) began.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    /// From now on there is no rate to keep to.
    pub(super) fn lift(&mut self) {
        self.release();
        self.bucket = None;
    }

    /// Ends a turn that took so many. Returns whether it used the allowance up.
    #[inline(always)]
    pub(super) fn end(&mut self, taken: u64, began: Option<Instant>) -> bool {
        self.used_up = taken >= self.records;
        if let Some(bucket) = &mut self.bucket {
            bucket.take(taken);
        }
        if let Some(began) = began
            && self.used_up
        {
            self.learn(began.elapsed());
        }
        self.used_up
    }

    /// A turn that used it up took so long.
    fn learn(&mut self, took: Duration) {
        let each = took.as_nanos().max(1) as u64 / self.records;
        self.records = (LONGEST.as_nanos() as u64 / each.max(1)).clamp(1, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_takes_long_becomes_short_and_comes_back() {
        let mut allowance = Allowance::new(None);
        allowance.learn(256 * Duration::from_micros(10));
        assert_eq!(allowance.records, 5);
        allowance.learn(5 * Duration::from_millis(1));
        assert_eq!(allowance.records, 1);
        allowance.learn(Duration::from_nanos(50));
        assert_eq!(allowance.records, MOST);
        allowance.learn(Duration::ZERO);
        assert_eq!(allowance.records, MOST);
        allowance.learn(Duration::from_secs(3600));
        assert_eq!(allowance.records, 1);
    }

    #[test]
    fn the_clock_is_read_only_behind_a_turn_that_was_used_up() {
        let mut allowance = Allowance::new(None);
        let now = Instant::now();
        let (records, began) = allowance.begin(now);
        assert!(began.is_none());
        assert!(!allowance.end(records - 1, began));
        assert!(allowance.begin(now).1.is_none());
        assert!(allowance.end(records, None));
        let (_, began) = allowance.begin(now);
        assert!(began.is_some());
        assert!(!allowance.end(0, began));
        assert!(allowance.begin(now).1.is_none());
    }

    #[test]
    fn who_has_used_up_the_rate_is_held_until_something_came() {
        let limit = RateLimit {
            per_second: 20_000,
            burst: 300,
        };
        let mut allowance = Allowance::new(Some(limit));
        // Before the bucket was made, for all that it knows.
        let now = Instant::now();
        for expected in [MOST, 300 - MOST] {
            let (records, began) = allowance.begin(now);
            // What little came meanwhile is not counted before it is looked for.
            assert!((expected..=MOST).contains(&records));
            allowance.end(expected, began);
        }
        let until = allowance.hold().unwrap();
        assert!(until > now + HOLD / 2);
        assert!(allowance.is_held() && allowance.hold().is_none());
        assert_eq!(allowance.begin(until + 2 * HOLD).0, 0);
        allowance.release();
        let (records, began) = allowance.begin(until);
        assert_eq!(records, 100);
        allowance.end(records, began);
        assert!(allowance.hold().is_some());
        allowance.lift();
        assert_eq!(allowance.begin(now).0, MOST);
        assert!(allowance.hold().is_none());
    }
}
