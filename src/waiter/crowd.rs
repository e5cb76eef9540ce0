//! Whether so many threads of this process sleep for their answers that spinning does harm.
//!
//! # What it prevents
//! A thread whose peer runs beside it finds each answer while it spins, and so keeps its processor
//! until the system takes it away, some milliseconds later. With a few threads to a processor that is
//! the best that can be had. With dozens of them, all but one wait for those milliseconds each time
//! they have slept, get a tenth of the calls that the lucky one gets, and all together fewer than
//! if nobody spun.
//!
//! # How
//! Time is cut into epochs of some milliseconds. Whoever has slept for an answer is counted, once in
//! an epoch. The first sleep that ends after the epoch's end closes it: were there more than so many
//! for each processor, nobody spins in the next one. Who does not spin, sleeps and is counted, so a
//! crowd stays one until fewer threads call.
//!
//! Threads that call seldom enough to find their answers by spinning sleep, and so are counted, only
//! because nobody may spin. So now and then an epoch is a trial in which all may: such threads are not
//! counted in it, and it is over. A trial that finds the crowd still there, in which a lucky thread gets
//! as many calls as the others get in a second, makes the next one wait for twice as long, up to
//! some seconds.
//!
//! An epoch that went on for much longer than it should, because nobody slept, says nothing of a
//! crowd.
//!
//! # Races
//! All is Relaxed: a thread that is counted in the wrong epoch, or reads a verdict late, spins once too
//! often or too seldom. One thread closes an epoch, for only one can move its beginning.

use crate::sync::Ordering::Relaxed;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// How long an epoch lasts at least.
const EPOCH: Duration = Duration::from_millis(10);

/// One that lasted longer says nothing.
const LONGEST: Duration = EPOCH.saturating_mul(3);

/// Threads that sleep, for each processor, beyond which they are a crowd.
const MOST_PER_PROCESSOR: u32 = 12;

/// Epochs from the beginning of a crowd to the first trial, and the most from one to the next.
const FIRST_TRIAL: u64 = 64;
const LAST_TRIAL: u64 = 512;

/// Read by everyone who waits, written once in an epoch: on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Verdict(AtomicBool);

/// The threads of a process that sleep for answers.
#[derive(Debug)]
pub(crate) struct Crowd {
    verdict: Verdict,
    /// Threads beyond which it is one.
    most: u32,
    /// The epoch's number, from 1 on.
    epoch: AtomicU64,
    /// When it began, in nanoseconds since `zero`.
    began: AtomicU64,
    /// Threads that were counted in it.
    counted: AtomicU32,
    /// The epoch of the next trial, and how many that is after the last one; 0 while there is no
    /// crowd. Whoever closes an epoch writes them.
    trial: AtomicU64,
    gap: AtomicU64,
    zero: Instant,
}

/// One of these threads: in which epoch it was counted last.
#[derive(Debug, Default)]
pub(crate) struct Member(u64);

impl Crowd {
    fn of(processors: usize) -> Self {
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        Self {
            verdict: Verdict::default(),
            most: processors.saturating_mul(MOST_PER_PROCESSOR),
            epoch: AtomicU64::new(1),
            began: AtomicU64::new(0),
            counted: AtomicU32::new(0),
            trial: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            zero: Instant::now(),
        }
    }

    /// This process's.
    pub(crate) fn here() -> &'static Self {
        static HERE: OnceLock<Crowd> = OnceLock::new();
        HERE.get_or_init(|| Self::of(std::thread::available_parallelism().map_or(1, usize::from)))
    }

    /// Whether a thread may spin.
    #[inline(always)]
    pub(crate) fn may_spin(&self) -> bool {
        !self.verdict.0.load(Relaxed)
    }

    /// Notes that a thread has slept until now.
    pub(crate) fn slept(&self, member: &mut Member) {
        self.slept_until(member, self.zero.elapsed());
    }

    fn slept_until(&self, member: &mut Member, now: Duration) {
        let epoch = self.epoch.load(Relaxed);
        if member.0 != epoch {
            member.0 = epoch;
            self.counted.fetch_add(1, Relaxed);
        }
        let began = self.began.load(Relaxed);
        let lasted = now.saturating_sub(Duration::from_nanos(began));
        if lasted < EPOCH {
            return;
        }
        let now = now.as_nanos() as u64;
        let closes = self.began.compare_exchange(began, now, Relaxed, Relaxed);
        if closes.is_ok() {
            let counted = self.counted.swap(0, Relaxed);
            let next = self.epoch.fetch_add(1, Relaxed) + 1;
            let is_crowd = counted > self.most && lasted < LONGEST;
            let is_trial = self.is_trial(next, is_crowd);
            self.verdict.0.store(is_crowd && !is_trial, Relaxed);
        }
    }

    /// Whether the epoch that begins now is a trial, given what the one before it was.
    fn is_trial(&self, epoch: u64, is_crowd: bool) -> bool {
        let gap = self.gap.load(Relaxed);
        if !is_crowd {
            self.gap.store(0, Relaxed);
            return false;
        }
        if gap != 0 && epoch < self.trial.load(Relaxed) {
            return false;
        }
        let next = (gap * 2).clamp(FIRST_TRIAL, LAST_TRIAL);
        self.gap.store(next, Relaxed);
        self.trial.store(epoch + next, Relaxed);
        gap != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `threads` sleep and wake up, one after the other, all of them once in a millisecond.
    fn sleep_for(
        crowd: &Crowd,
        members: &mut [Member],
        from: Duration,
        time: Duration,
    ) -> Duration {
        let mut now = from;
        while now < from + time {
            now += Duration::from_millis(1);
            for member in &mut *members {
                crowd.slept_until(member, now);
            }
        }
        now
    }

    fn members(count: usize) -> Vec<Member> {
        (0..count).map(|_| Member::default()).collect()
    }

    const WHILE: Duration = Duration::from_millis(50);

    #[test]
    fn dozens_are_a_crowd_and_few_are_not() {
        let crowd = Crowd::of(2);
        let most = 2 * MOST_PER_PROCESSOR as usize;
        let mut few = members(most);
        let now = sleep_for(&crowd, &mut few, Duration::ZERO, WHILE);
        assert!(crowd.may_spin(), "as many as may");
        let mut many = members(most + 1);
        let now = sleep_for(&crowd, &mut many, now, WHILE);
        assert!(!crowd.may_spin(), "one more");
        // It dissolves.
        sleep_for(&crowd, &mut few[..1], now, WHILE);
        assert!(crowd.may_spin(), "one is left");
    }

    #[test]
    fn who_sleeps_once_in_a_while_is_no_crowd() {
        let crowd = Crowd::of(1);
        let mut many = members(100);
        let mut now = Duration::ZERO;
        for nth in 0..1000 {
            now += Duration::from_millis(1);
            crowd.slept_until(&mut many[nth % 100], now);
            assert!(crowd.may_spin(), "after {now:?}");
        }
        // All of them in one epoch, which nobody closed for long.
        for member in &mut many {
            crowd.slept_until(member, now + Duration::from_millis(5));
        }
        crowd.slept_until(&mut many[0], now + Duration::from_secs(5));
        assert!(crowd.may_spin());
    }

    #[test]
    fn all_may_try_now_and_then() {
        let crowd = Crowd::of(1);
        let mut many = members(100);
        let mut now = sleep_for(&crowd, &mut many, Duration::ZERO, WHILE);
        assert!(!crowd.may_spin());
        let mut trials = 0;
        for _ in 0..10 * LAST_TRIAL * 10 {
            now = sleep_for(&crowd, &mut many, now, Duration::from_millis(1));
            trials += u64::from(crowd.may_spin());
        }
        // After 64, 192, 448 and 960 epochs of ten of them, and then each 512.
        assert_eq!(trials, 10 * (4 + 8));
        // Once it has dissolved, the next crowd's first trial is early again.
        now = sleep_for(&crowd, &mut many[..1], now, WHILE);
        now = sleep_for(&crowd, &mut many, now, WHILE);
        assert!(!crowd.may_spin());
        let soon = (0..10 * FIRST_TRIAL).any(|_| {
            now = sleep_for(&crowd, &mut many, now, Duration::from_millis(1));
            crowd.may_spin()
        });
        assert!(soon);
    }
}
