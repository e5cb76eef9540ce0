//! Sleeping in Tokio's reactor.

use crate::sys::{Doorbell, Sleeper, Woken};
use rustix::fd::{AsFd, AsRawFd, RawFd};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A place to sleep for one task.
///
/// An epoll or kqueue descriptor can itself be watched by another one: the reactor watches a whole
/// [`Sleeper`], and two halves of a connection can each have one in the same reactor.
#[derive(Debug)]
pub(crate) struct ReactorSleeper(AsyncFd<Descriptor>);

#[derive(Debug)]
struct Descriptor(Sleeper);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl ReactorSleeper {
    /// # Panics
    /// Outside a Tokio runtime with I/O.
    pub(crate) fn new(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::register(Sleeper::new(doorbell, control)?)
    }

    /// As [`new`](Self::new), for a control socket that carries frames (see
    /// [`Sleeper::on_stream`]).
    ///
    /// # Panics
    /// Outside a Tokio runtime with I/O.
    pub(crate) fn on_stream(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::register(Sleeper::on_stream(doorbell, control)?)
    }

    fn register(sleeper: Sleeper) -> io::Result<Self> {
        let descriptor = Descriptor(sleeper);
        // SAFETY: the descriptor is an OwnedFd inside, which is closed only with the AsyncFd and
        // never replaced: nothing here hands out a mutable reference to it.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        Ok(Self(watched.map_err(|error| error.into_parts().1)?))
    }

    /// Ready when the doorbell rang, or the control socket has something, since the last time. The
    /// task is woken then. May be ready without a reason.
    pub(crate) fn poll_sleep(&self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        let mut ready = ready!(self.0.poll_read_ready(cx))?;
        // Takes the edges out of the sleeper, so that the next one is news to the reactor. One
        // that comes from here on is not cleared below: it makes a readiness event of its own.
        let woken = self.0.get_ref().0.sleep(Some(Duration::ZERO));
        ready.clear_ready();
        Poll::Ready(woken)
    }
}
