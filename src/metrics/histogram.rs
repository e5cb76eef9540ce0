//! Distributions in buckets that grow with the value.
//!
//! Up to 8 each value has a bucket of its own; above, each power of two is divided into 8 buckets,
//! so that a value is known to an eighth of itself at worst. All buckets are there from the start:
//! recording is one load and one store each for bucket and sum, by one writer, and readers merge what
//! several writers recorded by adding up.

use super::names::Unit;
use crate::segment::Block;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Buckets per power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Values of so many bits and more share the last bucket: 18 minutes, if they are nanoseconds.
const BITS: u32 = 40;

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = SUB * (BITS - SUB_BITS + 1) as usize;
/// Words of a histogram in the page: the sum, the buckets, up to a multiple of 128 bytes.
pub(crate) const WORDS: usize = (1 + BUCKETS).next_multiple_of(16);

/// The bucket of a value.
#[inline]
fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let top = value.ilog2();
    if top >= BITS {
        return BUCKETS - 1;
    }
    let sub = (value >> (top - SUB_BITS)) as usize & (SUB - 1);
    (top - SUB_BITS + 1) as usize * SUB + sub
}

/// The smallest value of a bucket.
fn lowest(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let shift = bucket / SUB - 1;
    ((SUB + bucket % SUB) as u64) << shift
}

/// The largest value of a bucket; of the last one as if it ended like the others.
fn highest(bucket: usize) -> u64 {
    lowest(bucket + 1) - 1
}

/// A histogram in the counters page, seen by its one writer.
#[derive(Debug)]
pub(crate) struct HistogramWriter(pub(super) Block<WORDS>);

impl HistogramWriter {
    /// Counts a value.
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        for (at, more) in [(0, value), (1 + bucket(value), 1)] {
            let word = &self.0[at];
            word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
        }
    }
}

/// A distribution of values, which are nanoseconds or counts: how many fell into which bucket.
///
/// It holds what was *sampled*: multiply by the sampling interval for an estimate of all. Quantiles
/// and means need no such correction, for every event is sampled with the same probability. A
/// quantile is exact to an eighth of its value, and as good as the number of samples behind it:
/// beyond the p99 of 1000 samples stand ten.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    unit: Unit,
    sum: u64,
    buckets: Box<[u64]>,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new(unit: Unit) -> Self {
        Self {
            unit,
            sum: 0,
            buckets: vec![0; BUCKETS].into(),
        }
    }

    /// From the words of a page.
    pub(crate) fn of_words(unit: Unit, word: impl Fn(usize) -> u64) -> Self {
        Self {
            unit,
            sum: word(0),
            buckets: (1..=BUCKETS).map(word).collect(),
        }
    }

    /// Counts a value.
    pub(crate) fn record(&mut self, value: u64) {
        self.sum = self.sum.wrapping_add(value);
        self.buckets[bucket(value)] += 1;
    }

    /// Counts a time.
    pub(crate) fn record_time(&mut self, time: Duration) {
        self.record(nanos(time));
    }

    /// What the values are.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, &n| sum.wrapping_add(n))
    }

    /// The sum of the recorded values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The mean; `None` if nothing was recorded.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The value that a share `q` of the values (0 to 1) does not exceed: the upper end of its bucket.
    /// `None` if nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (index, &in_bucket) in self.buckets.iter().enumerate() {
            seen = seen.wrapping_add(in_bucket);
            if seen >= rank {
                return Some(highest(index));
            }
        }
        Some(highest(BUCKETS - 1))
    }

    /// The buckets that are not empty: the largest value of each, and how many values it has.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let buckets = self.buckets.iter().enumerate();
        buckets
            .filter(|&(_, &count)| count > 0)
            .map(|(index, &count)| (highest(index), count))
    }

    /// How many values are below each power of two: the largest value below it, and how many values
    /// are not larger than the one and larger than the one before.
    #[cfg(any(test, feature = "prometheus"))]
    pub(crate) fn powers_of_two(&self) -> impl Iterator<Item = (u64, u64)> {
        // Another process may have written anything.
        let sum = |counts: &[u64]| counts.iter().fold(0u64, |sum, &n| sum.wrapping_add(n));
        let first = (SUB as u64 - 1, sum(&self.buckets[..SUB]));
        let more = self.buckets[SUB..].chunks(SUB).enumerate();
        let more = more.map(move |(power, counts)| {
            let last = (power + 2) * SUB - 1;
            (highest(last), sum(counts))
        });
        std::iter::once(first).chain(more)
    }

    /// Adds another's values.
    ///
    /// # Panics
    /// If it is of another unit.
    pub fn merge(&mut self, other: &Histogram) {
        assert_eq!(
            self.unit, other.unit,
            "histograms of one unit can be merged"
        );
        self.sum = self.sum.wrapping_add(other.sum);
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.wrapping_add(*more);
        }
    }

    /// What was recorded since `earlier`, an older sample of the same.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let buckets = self.buckets.iter().zip(&earlier.buckets);
        Histogram {
            unit: self.unit,
            sum: self.sum.wrapping_sub(earlier.sum),
            buckets: buckets
                .map(|(now, then)| now.saturating_sub(*then))
                .collect(),
        }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("unit", &self.unit)
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

/// A time in nanoseconds, as the page has it.
pub(crate) fn nanos(time: Duration) -> u64 {
    // Not by 128 bits: this is done for every connection that is observed.
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(time.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_one_another_and_are_narrow() {
        for index in 0..BUCKETS - 1 {
            let (low, high) = (lowest(index), highest(index));
            assert_eq!(bucket(low), index);
            assert_eq!(bucket(high), index);
            assert_eq!(bucket(high + 1), index + 1);
            assert!((high - low) as f64 <= low as f64 / 8.0, "{low}..={high}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(1 << BITS), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::new(Unit::Seconds);
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (None, None));
        (1..=10_000).for_each(|value| histogram.record(value));
        for (q, exact) in [(0.0, 1.0), (0.5, 5000.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let found = histogram.quantile(q).unwrap() as f64;
            assert!(
                found >= exact && found <= exact * 1.125 + 1.0,
                "{q}: {found}"
            );
        }
        assert_eq!(histogram.mean(), Some(5000.5));
        assert_eq!(histogram.count(), 10_000);
        let sum: u64 = histogram.buckets().map(|(_, count)| count).sum();
        assert_eq!(sum, 10_000);
    }

    #[test]
    fn powers_of_two_hold_every_value_once() {
        let mut histogram = Histogram::new(Unit::Count);
        for value in [0, 7, 8, 15, 16, 1000, u64::MAX] {
            histogram.record(value);
        }
        let powers: Vec<_> = histogram.powers_of_two().collect();
        assert_eq!(powers[..3], [(7, 2), (15, 2), (31, 1)]);
        assert_eq!(powers.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert!(powers.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(powers.last().unwrap().0, (1 << BITS) - 1);
    }

    #[test]
    fn histograms_are_merged_and_told_apart() {
        let (mut one, mut two) = (Histogram::new(Unit::Count), Histogram::new(Unit::Count));
        one.record(3);
        let before = one.clone();
        two.record(300);
        one.merge(&two);
        assert_eq!((one.count(), one.sum()), (2, 303));
        assert_eq!(one.since(&before), two);
    }
}
