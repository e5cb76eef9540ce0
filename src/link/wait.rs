//! Blocking until a link is ready: spin, then sleep.

use super::{Rx, Shared, Tx};
use crate::error::{Error, Small};
use crate::ring::Ready;
use crate::settings::Spin;
use crate::sys::{Sleeper, Woken};
use crate::waiter::{Crowd, Member, Spinner};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a sleep may last whose announcement may have gone unseen (see [`Rx::arm`]).
const UNRELIABLE_SLEEP: Duration = Duration::from_millis(1);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was waited for may be there.
    Ready,
    /// The deadline passed.
    TimedOut,
    /// The connection is over and nothing is left in the ring.
    Closed,
}

/// What to wait for: data, space for so many bytes, or whichever comes first.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) data: Option<&'a mut Rx>,
    pub(crate) space: Option<(&'a mut Tx, usize)>,
}

impl Wanted<'_> {
    #[inline(always)]
    pub(super) fn is_ready(&mut self) -> bool {
        if let Some(rx) = &mut self.data
            && rx.watch() != Ready::Empty
        {
            return true;
        }
        if let Some((tx, len)) = &mut self.space {
            return tx.is_ready(*len);
        }
        false
    }

    /// Notes that it was there without a sleep.
    #[inline(always)]
    pub(super) fn found(&mut self) {
        if let Some(rx) = &mut self.data {
            rx.found();
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        let mut reliable = true;
        if let Some(rx) = &mut self.data {
            reliable &= rx.arm();
        }
        if let Some((tx, _)) = &mut self.space {
            reliable &= tx.arm();
        }
        reliable
    }

    pub(super) fn disarm(&mut self) {
        if let Some(rx) = &mut self.data {
            rx.disarm();
        }
        if let Some((tx, _)) = &mut self.space {
            tx.disarm();
        }
    }
}

/// One thread's way to wait on a link.
#[derive(Debug)]
pub(crate) struct Waiter {
    spinner: Spinner,
    /// Unless this thread is to spin in any case.
    crowd: Option<&'static Crowd>,
    member: Member,
    /// Made at the first sleep.
    sleeper: Option<Sleeper>,
    shared: Arc<Shared>,
    sleeps: u64,
}

impl Waiter {
    pub(crate) fn new(shared: Arc<Shared>, spin: Spin) -> Self {
        let spin = shared.spin(spin);
        Self {
            spinner: Spinner::new(spin),
            crowd: spin.adaptive.then(Crowd::here),
            member: Member::default(),
            sleeper: None,
            shared,
            sleeps: 0,
        }
    }

    /// Waits. Blocks the thread until `deadline` at most.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no means to sleep (descriptors exhausted).
    #[inline]
    pub(crate) fn wait(
        &mut self,
        mut wanted: Wanted<'_>,
        deadline: Option<Instant>,
    ) -> Small<Waited> {
        if wanted.is_ready() {
            wanted.found();
            return Ok(Waited::Ready);
        }
        // Nothing more is consumed meanwhile, so the peer may as well know of the space.
        if let Some(rx) = &mut wanted.data {
            rx.release();
        }
        if self.crowd.is_none_or(Crowd::may_spin) && self.spinner.spin(|| wanted.is_ready()) {
            wanted.found();
            return Ok(Waited::Ready);
        }
        self.sleep(wanted, deadline)
    }

    #[cold]
    fn sleep(&mut self, mut wanted: Wanted<'_>, deadline: Option<Instant>) -> Small<Waited> {
        loop {
            let reliable = wanted.arm();
            self.sleeps += 1;
            if wanted.is_ready() {
                wanted.disarm();
                return Ok(Waited::Ready);
            }
            if self.shared.closed().is_some() {
                wanted.disarm();
                return Ok(Waited::Closed);
            }
            let mut timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if timeout == Some(Duration::ZERO) {
                wanted.disarm();
                return Ok(Waited::TimedOut);
            }
            if !reliable {
                timeout = Some(timeout.unwrap_or(UNRELIABLE_SLEEP).min(UNRELIABLE_SLEEP));
            }
            let woken = self.sleeper().and_then(|sleeper| sleeper.sleep(timeout));
            if let Some(crowd) = self.crowd {
                crowd.slept(&mut self.member);
            }
            wanted.disarm();
            if woken.map_err(Error::io("sleep until the peer answers"))? == Woken::Control {
                self.shared.read_control();
            }
            if wanted.is_ready() {
                return Ok(Waited::Ready);
            }
        }
    }

    fn sleeper(&mut self) -> std::io::Result<&Sleeper> {
        if self.sleeper.is_none() {
            self.sleeper = Some(self.shared.sleeper()?);
        }
        Ok(self.sleeper.as_ref().expect("made above"))
    }

    /// How often a sleep was announced. Some end with the last look, without the kernel.
    pub(crate) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Spins that found something, and spins that did not.
    pub(crate) fn spins(&self) -> (u64, u64) {
        self.spinner.record()
    }
}
