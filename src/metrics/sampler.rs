//! Which events are sampled.
//!
//! Each event is sampled with the same probability, whatever came before: the gaps between sampled
//! events are drawn from the geometric distribution. Every 1000th event instead would see only one
//! phase of whatever repeats with a period that divides 1000, and of batches always the same place.
//! Drawing costs a logarithm per sampled event; in between there is a number to count down.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Decides which of a sequence of events are sampled.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    one_in: u32,
    /// The next sampled event is so many events away; 1 is the next.
    left: u64,
    random: u64,
}

impl Sampler {
    /// Samples one event in `one_in`, on average; none for 0.
    pub(crate) fn new(one_in: u32) -> Self {
        Self::with_seed(one_in, RandomState::new().build_hasher().finish())
    }

    fn with_seed(one_in: u32, seed: u64) -> Self {
        let mut sampler = Self {
            one_in,
            left: 0,
            random: seed | 1,
        };
        sampler.draw();
        sampler
    }

    /// How many events one sampled event stands for; 0 if none is.
    pub(crate) fn one_in(&self) -> u32 {
        self.one_in
    }

    /// The number of the next sampled event, counted from 1.
    #[inline(always)]
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Lets `events` pass, fewer than [`left`](Self::left).
    #[inline(always)]
    pub(crate) fn pass(&mut self, events: u64) {
        self.left -= events;
    }

    /// One event: whether it is sampled.
    #[inline(always)]
    pub(crate) fn is_due(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.next_gap();
        true
    }

    /// The event that was due is past: draws how many more there are up to the next.
    #[cold]
    pub(crate) fn next_gap(&mut self) -> u64 {
        self.draw();
        self.left
    }

    fn draw(&mut self) {
        self.left = match self.one_in {
            0 => u64::MAX,
            1 => 1,
            one_in => {
                // In (0, 1]: the logarithm is finite.
                let uniform = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                let gap = uniform.ln() / (-1.0 / f64::from(one_in)).ln_1p();
                1 + gap as u64
            }
        };
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_sampled_as_there_should_be() {
        for one_in in [2u32, 10, 1000] {
            let mut sampler = Sampler::with_seed(one_in, 42);
            let events = 2_000 * u64::from(one_in);
            let sampled = (0..events).filter(|_| sampler.is_due()).count() as f64;
            // Five standard deviations of a binomial distribution.
            let off = (sampled - 2000.0).abs();
            assert!(off < 5.0 * 2000f64.sqrt(), "1 in {one_in}: {sampled}");
        }
        let mut all = Sampler::with_seed(1, 1);
        assert!((0..100).all(|_| all.is_due()));
        let mut none = Sampler::with_seed(0, 1);
        assert!(!(0..100_000).any(|_| none.is_due()));
    }

    #[test]
    fn every_phase_of_a_period_is_sampled_alike() {
        // A pattern of 8 that any fixed interval of a multiple of 8 would see one phase of.
        let mut sampler = Sampler::with_seed(64, 7);
        let mut phases = [0u32; 8];
        for event in 0..64 * 8 * 1000 {
            if sampler.is_due() {
                phases[event % 8] += 1;
            }
        }
        for count in phases {
            assert!(
                (count as f64 - 1000.0).abs() < 5.0 * 1000f64.sqrt(),
                "{phases:?}"
            );
        }
    }

    #[test]
    fn passing_a_batch_is_passing_its_events() {
        let (mut one, mut other) = (Sampler::with_seed(50, 3), Sampler::with_seed(50, 3));
        let (mut by_event, mut by_batch) = (Vec::new(), Vec::new());
        for event in 0..10_000u64 {
            if one.is_due() {
                by_event.push(event);
            }
        }
        let mut at = 0;
        while at < 10_000 {
            let end = (at + 7).min(10_000);
            while at + other.left() <= end {
                at += other.left();
                by_batch.push(at - 1);
                other.next_gap();
            }
            other.pass(end - at);
            at = end;
        }
        assert_eq!(by_event, by_batch);
    }
}
