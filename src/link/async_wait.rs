//! Waiting in a task: poll in place for a while, then sleep in Tokio's reactor.

use super::{Shared, Waited, Wanted};
use crate::error::{Error, Result};
use crate::settings::Spin;
use crate::sys::{Sleeper, Woken};
use crate::waiter::{Slice, Spinner};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// How long a sleep may last whose announcement may have gone unseen (see [`Wanted::arm`]).
const UNRELIABLE_SLEEP: Duration = Duration::from_millis(1);

/// One task's way to wait on a link. Never blocks the thread.
///
/// A wait has two stages. *Looking*: every poll looks at the ring for a slice of a few
/// microseconds, then lets other tasks run and the reactor be polled, until the spin budget is
/// used up. *Armed*: the peer knows that this side sleeps and will ring; the task is woken by the
/// reactor, which costs nothing meanwhile.
///
/// # Cancellation
/// A wait has no state that a dropped future could take along: the next one goes on where it
/// was. Two things could go wrong, and both are looked for at the start of each poll. The next
/// wait may want something else, or records may have been taken without a wait, so that the peer
/// has rung already for the announcement that stands and would not ring for it again. Then a new
/// announcement is made.
#[derive(Debug)]
pub(crate) struct AsyncWaiter {
    spinner: Spinner,
    shared: Arc<Shared>,
    runtime: Handle,
    /// Time spent looking in the wait that is under way.
    looked: Option<Duration>,
    /// What the announcement that stands is about.
    armed: Option<Armed>,
    /// Made at the first sleep.
    sleeper: Option<AsyncFd<Sleeper>>,
    sleeps: u64,
}

#[derive(Debug)]
struct Armed {
    about: About,
    /// Ends a sleep whose announcement may go unseen.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// What was announced, and how far the rings were then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct About {
    data: Option<u64>,
    space: Option<(u64, usize)>,
}

impl AsyncWaiter {
    /// A waiter whose sleeps happen in the runtime that this is called in.
    ///
    /// # Errors
    /// [`Error::Io`] outside of a Tokio runtime.
    pub(crate) fn new(shared: Arc<Shared>, spin: Spin) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::io("find a Tokio runtime to sleep in")(io::Error::other(error))
        })?;
        Ok(Self {
            spinner: Spinner::new(spin),
            shared,
            runtime,
            looked: None,
            armed: None,
            sleeper: None,
            sleeps: 0,
        })
    }

    /// Waits. The task is woken when it is to be polled again.
    ///
    /// # Errors
    /// [`Error::Io`] if the system has no means to sleep (descriptors exhausted), or the runtime
    /// is shutting down.
    ///
    /// # Panics
    /// If the runtime was built without I/O.
    #[inline]
    pub(crate) fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: Wanted<'_>,
    ) -> Poll<Result<Waited>> {
        if wanted.is_ready() {
            self.settle(&mut wanted);
            return Poll::Ready(Ok(Waited::Ready));
        }
        if self.armed.is_some() {
            return self.sleep(cx, wanted);
        }
        if self.looked.is_none()
            && let Some(rx) = &mut wanted.data
        {
            // Nothing more is consumed meanwhile, so the peer may as well know of the space.
            rx.release();
        }
        match self.spinner.slice(&mut self.looked, || wanted.is_ready()) {
            Slice::Ready => {
                self.settle(&mut wanted);
                Poll::Ready(Ok(Waited::Ready))
            }
            Slice::Again => {
                let_others_run(cx);
                Poll::Pending
            }
            Slice::Over => self.sleep(cx, wanted),
        }
    }

    /// Waits for nothing but the connection's end. The peer rings nobody meanwhile.
    ///
    /// Ready when there may be something after all, or the connection is over.
    ///
    /// # Errors
    /// As [`poll_wait`](Self::poll_wait).
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Waited>> {
        while self.shared.closed().is_none() {
            match ready!(self.poll_sleeper(cx)) {
                Ok(Woken::Control) => self.shared.read_control(),
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Err(Error::io("sleep until the peer is gone")(error)));
                }
            }
        }
        Poll::Ready(Ok(Waited::Closed))
    }

    /// Whether the task sleeps, or is about to, until the peer rings; otherwise it is polled again
    /// in a moment.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Takes an announcement back when nobody waits any more, so that the peer does not ring for
    /// nothing.
    pub(crate) fn disarm(&mut self, mut wanted: Wanted<'_>) {
        self.settle(&mut wanted);
    }

    /// How often a sleep was announced.
    pub(crate) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Spins that found something, and spins that did not.
    pub(crate) fn spins(&self) -> (u64, u64) {
        self.spinner.record()
    }

    fn settle(&mut self, wanted: &mut Wanted<'_>) {
        self.looked = None;
        if self.armed.take().is_some() {
            wanted.disarm();
        }
    }

    #[cold]
    fn sleep(&mut self, cx: &mut Context<'_>, mut wanted: Wanted<'_>) -> Poll<Result<Waited>> {
        loop {
            let stands = self
                .armed
                .as_ref()
                .is_some_and(|armed| armed.about == about(&wanted));
            if !stands {
                // Also takes back what an earlier wait left.
                wanted.disarm();
                let reliable = wanted.arm();
                self.sleeps += 1;
                let alarm = (!reliable).then(|| {
                    let _runtime = self.runtime.enter();
                    Box::pin(tokio::time::sleep(UNRELIABLE_SLEEP))
                });
                self.armed = Some(Armed {
                    about: about(&wanted),
                    alarm,
                });
            }
            // In this order: what the peer published before it was gone is delivered first.
            let closed = self.shared.closed().is_some();
            if wanted.is_ready() || closed {
                let ready = wanted.is_ready();
                self.settle(&mut wanted);
                let waited = if ready { Waited::Ready } else { Waited::Closed };
                return Poll::Ready(Ok(waited));
            }
            if let Some(Armed {
                alarm: Some(alarm), ..
            }) = &mut self.armed
                && alarm.as_mut().poll(cx).is_ready()
            {
                self.armed = None;
                continue;
            }
            let woken = ready!(self.poll_sleeper(cx));
            // The peer may have rung for the announcement that stood, and rings once for each.
            self.armed = None;
            match woken {
                Ok(Woken::Control) => self.shared.read_control(),
                Ok(_) => {}
                Err(error) => {
                    self.settle(&mut wanted);
                    wanted.disarm();
                    return Poll::Ready(Err(Error::io("sleep until the peer answers")(error)));
                }
            }
        }
    }

    /// Ready when the doorbell rang or the control socket has something since the last time.
    fn poll_sleeper(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        let sleeper = match &mut self.sleeper {
            Some(sleeper) => sleeper,
            empty => {
                let _runtime = self.runtime.enter();
                let sleeper = Sleeper::new(self.shared.bell(), self.shared.control())?;
                let interest = tokio::io::Interest::READABLE;
                empty.insert(AsyncFd::with_interest(sleeper, interest)?)
            }
        };
        let mut ready = ready!(sleeper.poll_read_ready(cx))?;
        // Takes the edges out of the sleeper, so that the next one is news to the reactor. One
        // that comes from here on is not cleared below, for it makes a new readiness event.
        let woken = ready.get_inner().sleep(Some(Duration::ZERO));
        ready.clear_ready();
        Poll::Ready(woken)
    }
}

fn about(wanted: &Wanted<'_>) -> About {
    About {
        data: wanted.data.as_ref().map(|rx| rx.position()),
        space: wanted.space.as_ref().map(|(tx, len)| (tx.position(), *len)),
    }
}

/// Has the task polled again after others had their turn and the reactor was looked at. Waking it
/// at once would keep both waiting, and on the multi-threaded runtime send another thread after it.
pub(crate) fn let_others_run(cx: &mut Context<'_>) {
    let polled = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(polled.is_pending());
}
