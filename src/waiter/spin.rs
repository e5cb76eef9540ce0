//! How long to spin before sleeping, learnt from whether it paid.

use crate::settings::Spin;
use crate::sync::spin_hint;
use std::time::{Duration, Instant};

/// Looks at the ring before the clock is read for the first time: a wait that is over at once
/// should not pay for the time.
const LOOKS_BEFORE_CLOCK: u32 = 24;

/// Looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 16;

/// After so many waits in a row in which spinning found nothing, at most one wait in
/// `1 << MAX_BACKOFF` still tries.
const MAX_BACKOFF: u32 = 6;

/// Shortest spin that is still worth a try.
const SHORTEST: Duration = Duration::from_micros(2);

/// A try of the whole budget that found nothing is not repeated before so many times its length has
/// passed.
const WHOLE_TRIES: u32 = 64;

/// How long a spin in slices lasts before others get their turn.
#[cfg(feature = "tokio")]
const SLICE: Duration = Duration::from_micros(5);

/// What one look costs a task that shares its thread with others that look: what the runtime takes to
/// come back to it, about.
#[cfg(feature = "tokio")]
const SHARED_LOOK: Duration = Duration::from_nanos(500);

#[cfg(feature = "tokio")]
thread_local! {
    /// Who spun a slice on this thread last.
    static LAST_LOOKER: std::cell::Cell<Looker> = const { std::cell::Cell::new(Looker(0)) };
}

/// Tells apart those that spin in slices on one thread.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looker(u64);

#[cfg(feature = "tokio")]
impl Looker {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    /// Whether nobody else has spun on this thread since this one did.
    fn is_alone(self) -> bool {
        LAST_LOOKER.replace(self) == self
    }
}

/// How a slice of a spin ended.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slice {
    /// Something was found.
    Ready,
    /// Nothing yet; another slice may.
    Again,
    /// Nothing at the one look that there was, because others on this thread wait as well; another
    /// slice may.
    Shared,
    /// Nothing, and no more slices.
    Over,
}

/// One waiting side's spinning.
///
/// A spin that finds something restores the whole budget. One that does not halves it, down to
/// [`SHORTEST`]; after that only every 2nd, 4th, … up to every 64th wait spins at all. So a side
/// whose peer cannot run at the same time (one core, or more threads than cores) soon sleeps
/// without spinning and loses 2 µs in 64 waits to find out when that changes.
///
/// # Two that sleep because the other one does
/// Where both sides have a core and both have come to sleep, each of them waits for as long as the
/// other one takes to wake up, some 20 µs, so that no short try ever finds anything, though either
/// would find the answer if it spun for that long, and the other would then be spun for. So a try is one
/// of the whole budget if the last one was long enough ago, 64 budgets: that finds it out, and where it is
/// in vain it costs a 64th of the time.
#[derive(Debug)]
pub(crate) struct Spinner {
    settings: Spin,
    /// How long the next spin may last, unless the whole budget is due.
    limit: Duration,
    /// How long this one may.
    current: Duration,
    /// When a try of the whole budget was in vain last.
    whole: Option<Instant>,
    /// Waits in a row in which the shortest spin found nothing.
    misses: u32,
    /// Waits until the next try.
    skip: u32,
    /// Spins that found something, and that did not.
    paid: u64,
    wasted: u64,
    /// When the last spin began and when it looked at the clock last, if it was a long one.
    long: Option<(Instant, Instant)>,
}

impl Spinner {
    pub(crate) fn new(settings: Spin) -> Self {
        Self {
            settings,
            limit: settings.budget,
            current: settings.budget,
            whole: None,
            misses: 0,
            skip: 0,
            paid: 0,
            wasted: 0,
            long: None,
        }
    }

    /// When the last spin began, and about when it ended, if it was long enough to read the clock.
    /// Says so once.
    pub(crate) fn take_times(&mut self) -> Option<(Instant, Instant)> {
        self.long.take()
    }

    /// Looks until `ready` says so or spinning does not seem to pay. Returns whether it was ready.
    #[inline]
    pub(crate) fn spin(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if self.settings.budget.is_zero() {
            return ready();
        }
        if self.skip > 0 {
            self.skip -= 1;
            return ready();
        }
        for _ in 0..LOOKS_BEFORE_CLOCK {
            if ready() {
                self.paid();
                return true;
            }
            spin_hint();
        }
        self.spin_by_the_clock(ready)
    }

    #[cold]
    #[inline(never)]
    fn spin_by_the_clock(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        self.begin(|| start);
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if ready() {
                    self.paid();
                    return true;
                }
                spin_hint();
                spin_hint();
            }
            let now = Instant::now();
            self.long = Some((start, now));
            if now.saturating_duration_since(start) >= self.current {
                self.missed(now);
                return false;
            }
        }
    }

    /// One slice of a spin, for a task that shares its thread with others. `spun` is the time spun
    /// so far in this wait, `None` at its start; what passes between the slices does not count.
    ///
    /// Where another `looker` has spun on this thread since, a slice is a single look: with hundreds
    /// of connections on one thread each of them would otherwise keep all others waiting for the
    /// length of a slice, their peers among them.
    #[cfg(feature = "tokio")]
    pub(crate) fn slice(
        &mut self,
        looker: Looker,
        spun: &mut Option<Duration>,
        mut ready: impl FnMut() -> bool,
    ) -> Slice {
        let so_far = match *spun {
            Some(so_far) => so_far,
            None if ready() => return Slice::Ready,
            None if self.settings.budget.is_zero() => return Slice::Over,
            None if self.skip > 0 => {
                self.skip -= 1;
                return Slice::Over;
            }
            None => {
                self.begin(Instant::now);
                Duration::ZERO
            }
        };
        if !looker.is_alone() {
            if ready() {
                self.paid();
                return Slice::Ready;
            }
            if so_far + SHARED_LOOK >= self.current {
                self.missed(Instant::now());
                return Slice::Over;
            }
            *spun = Some(so_far + SHARED_LOOK);
            return Slice::Shared;
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if ready() {
                    self.paid();
                    return Slice::Ready;
                }
                spin_hint();
                spin_hint();
            }
            let elapsed = start.elapsed();
            if so_far + elapsed >= self.current {
                self.missed(start + elapsed);
                return Slice::Over;
            }
            if elapsed >= SLICE {
                *spun = Some(so_far + elapsed);
                return Slice::Again;
            }
        }
    }

    /// Spins that found something, and spins that did not.
    pub(crate) fn record(&self) -> (u64, u64) {
        (self.paid, self.wasted)
    }

    /// Says how long the spin may last that begins now.
    #[inline]
    fn begin(&mut self, now: impl FnOnce() -> Instant) {
        self.current = self.limit;
        let budget = self.settings.budget;
        if self.limit < budget {
            let now = now();
            let is_due = |last| now.saturating_duration_since(last) >= budget * WHOLE_TRIES;
            if self.whole.is_none_or(is_due) {
                self.current = budget;
            }
        }
    }

    #[inline(always)]
    fn paid(&mut self) {
        self.paid += 1;
        self.limit = self.settings.budget;
        self.misses = 0;
    }

    fn missed(&mut self, now: Instant) {
        self.wasted += 1;
        if self.current == self.settings.budget {
            self.whole = Some(now);
        }
        if !self.settings.adaptive {
            return;
        }
        if self.limit > SHORTEST {
            self.limit = (self.limit / 2).max(SHORTEST.min(self.settings.budget));
        } else {
            self.misses = (self.misses + 1).min(MAX_BACKOFF);
            self.skip = (1 << self.misses) - 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_budget_of_zero_looks_once() {
        let mut looks = 0;
        let found = Spinner::new(Spin::NEVER).spin(|| {
            looks += 1;
            false
        });
        assert!(!found);
        assert_eq!(looks, 1);
    }

    #[test]
    fn vain_spinning_becomes_rare_and_success_restores_it() {
        let mut spinner = Spinner::new(Spin::default());
        let mut spun = 0;
        for _ in 0..1000 {
            let mut looks = 0;
            spinner.spin(|| {
                looks += 1;
                false
            });
            spun += u32::from(looks > 1);
        }
        assert!(spun < 40, "{spun} of 1000 waits still spun in vain");
        // The next try that finds something makes every wait spin again.
        for _ in 0..1 << MAX_BACKOFF {
            spinner.spin(|| true);
        }
        let mut looks = 0;
        spinner.spin(|| {
            looks += 1;
            looks > 3
        });
        assert_eq!(looks, 4);
    }

    /// What takes longer than the shortest try, because the other side must wake up first, is found.
    #[test]
    fn what_takes_a_wake_up_is_found_in_the_end() {
        let budget = Duration::from_micros(50);
        let mut spinner = Spinner::new(Spin {
            budget,
            adaptive: true,
        });
        let vain = |spinner: &mut Spinner| spinner.spin(|| false);
        (0..100).for_each(|_| assert!(!vain(&mut spinner)));
        assert!(spinner.limit < budget && spinner.misses > 0);
        std::thread::sleep(budget * WHOLE_TRIES);
        // The next try, whichever that is, lasts for the whole budget.
        let longest = (0..1 << MAX_BACKOFF).map(|_| {
            let start = Instant::now();
            assert!(!vain(&mut spinner));
            start.elapsed()
        });
        assert!(longest.max() >= Some(budget));
        let wasted = spinner.wasted;
        std::thread::sleep(budget * WHOLE_TRIES);
        while spinner.wasted == wasted && spinner.paid == 0 {
            let (start, late) = (Instant::now(), budget / 2);
            spinner.spin(|| start.elapsed() >= late);
        }
        assert_eq!((spinner.paid, spinner.limit), (1, budget));
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn slices_come_to_an_end_and_find_what_is_there() {
        let mut spinner = Spinner::new(Spin::default());
        let looker = Looker::new();
        let mut spun = None;
        let mut slices = 0;
        while spinner.slice(looker, &mut spun, || false) != Slice::Over {
            slices += 1;
        }
        // At most as many as fit into the budget, and the first one, which does not know yet that it
        // is alone.
        assert!(slices <= 11, "{slices} slices");
        assert_eq!(spinner.record(), (0, 1));
        assert_eq!(spinner.slice(looker, &mut None, || true), Slice::Ready);
        let mut looks = 0;
        let look = || {
            looks += 1;
            false
        };
        let never = Spinner::new(Spin::NEVER).slice(looker, &mut None, look);
        assert_eq!((never, looks), (Slice::Over, 1));
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn who_shares_a_thread_looks_once_and_not_for_ever() {
        let mut spinners = [(); 2].map(|()| (Looker::new(), Spinner::new(Spin::default()), None));
        let mut slices = 0;
        let mut waiting = true;
        while waiting {
            slices += 1;
            for (looker, spinner, spun) in &mut spinners {
                let mut looks = 0;
                let slice = spinner.slice(*looker, spun, || {
                    looks += 1;
                    false
                });
                assert!(matches!(slice, Slice::Shared | Slice::Over));
                assert!(looks <= 2, "{looks} looks");
                waiting = slice == Slice::Shared;
            }
            assert!(slices <= 100, "{slices} slices");
        }
        assert!(slices > 50, "only {slices} slices");
    }

    #[test]
    fn without_learning_every_wait_spins() {
        let budget = Duration::from_micros(1);
        let mut spinner = Spinner::new(Spin {
            budget,
            adaptive: false,
        });
        for _ in 0..100 {
            let mut looks = 0;
            spinner.spin(|| {
                looks += 1;
                false
            });
            assert!(looks > 1);
        }
        assert_eq!(spinner.record(), (0, 100));
    }
}
