//! How long to wait before the next attempt to connect. Times are passed in.

use crate::error::Error;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::time::Duration;

/// How long a pool waits between attempts to connect. The first comes at once; then the delay
/// doubles, and each has up to as much again added at random, so that the clients of a server that
/// restarts do not come all at the same moment.
///
/// An attempt that finds no server is over within some ten microseconds and costs nobody else
/// anything. One that is refused costs the server a handshake. Hence two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The second attempt's delay. Default: 1 ms.
    pub first: Duration,
    /// The longest delay, jitter apart, while no server is there and calls wait for it.
    /// Default: 50 ms.
    pub max_absent: Duration,
    /// The longest delay, jitter apart, while a server is there and refuses, or while no call
    /// waits. Default: 1 s.
    pub max_refused: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(1),
            max_absent: Duration::from_millis(50),
            max_refused: Duration::from_secs(1),
        }
    }
}

/// How long the next attempt waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delay {
    /// While calls wait.
    pub(super) wanted: Duration,
    /// While none does.
    pub(super) quiet: Duration,
}

type Row = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// The delays of one row of failures.
#[derive(Debug)]
pub(super) struct Delays {
    settings: Backoff,
    absent: Row,
    refused: Row,
}

impl Delays {
    pub(super) fn new(settings: Backoff) -> Self {
        let row = |max_delay: Duration| {
            ExponentialBuilder::new()
                .with_min_delay(settings.first.min(max_delay))
                .with_max_delay(max_delay)
                .without_max_times()
                .with_jitter()
                .build()
        };
        Self {
            settings,
            absent: row(settings.max_absent),
            refused: row(settings.max_refused),
        }
    }

    /// The delay after another attempt that ended in this way.
    pub(super) fn after(&mut self, error: &Error) -> Delay {
        let mut delay = self.after_loss();
        if !matches!(error, Error::NoServer { .. }) {
            delay.wanted = delay.quiet;
        }
        delay
    }

    /// The delay after a connection that was lost as soon as it was made.
    pub(super) fn after_loss(&mut self) -> Delay {
        Delay {
            wanted: self.absent.next().unwrap_or(self.settings.max_absent),
            quiet: self.refused.next().unwrap_or(self.settings.max_refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;

    fn absent() -> Error {
        let path = "search.sock".into();
        Error::NoServer { path, dead: false }
    }

    #[test]
    fn delays_double_up_to_their_limit_and_vary_by_their_own_length() {
        let settings = Backoff::default();
        let mut delays = Delays::new(settings);
        let mut nominal = settings.first;
        for _ in 0..20 {
            let delay = delays.after(&absent());
            let bounds = |max: Duration| nominal.min(max)..=nominal.min(max) * 2;
            assert!(
                bounds(settings.max_absent).contains(&delay.wanted),
                "{delay:?}"
            );
            assert!(
                bounds(settings.max_refused).contains(&delay.quiet),
                "{delay:?}"
            );
            nominal = (nominal * 2).min(settings.max_refused);
        }
    }

    #[test]
    fn who_refuses_is_asked_less_often_than_who_is_not_there() {
        let mut delays = Delays::new(Backoff::default());
        let refused = Error::closed(CloseReason::PeerGone);
        for _ in 0..20 {
            delays.after(&refused);
        }
        assert!(delays.after(&refused).wanted >= Duration::from_secs(1));
        assert!(delays.after(&absent()).wanted <= Duration::from_millis(100));
    }

    #[test]
    fn two_clients_do_not_wait_alike() {
        let row = || {
            let mut delays = Delays::new(Backoff::default());
            (0..10)
                .map(|_| delays.after(&absent()).wanted)
                .collect::<Vec<_>>()
        };
        assert_ne!(row(), row());
    }

    #[test]
    fn a_first_delay_above_the_limit_is_the_limit() {
        let mut delays = Delays::new(Backoff {
            first: Duration::from_secs(60),
            max_absent: Duration::from_millis(2),
            max_refused: Duration::from_millis(3),
        });
        for _ in 0..3 {
            let delay = delays.after(&absent());
            assert!(
                delay.wanted <= Duration::from_millis(4) && delay.quiet <= Duration::from_millis(6)
            );
        }
    }
}
