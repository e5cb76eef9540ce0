//! Waiting in a task: poll in place for a while, then sleep in Tokio's reactor.

use super::{Shared, Waited, Wanted};
use crate::error::{Error, Result, Small};
use crate::settings::Spin;
use crate::sys::{ReactorSleeper, Woken};
use crate::waiter::{Looker, Slice, Spinner};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// How long a sleep may last whose announcement may have gone unseen (see `Wanted::arm`).
const UNRELIABLE_SLEEP: Duration = Duration::from_millis(1);

/// One task's way to wait on a link. Never blocks the thread.
///
/// A wait has two stages. *Looking*: every poll looks at the ring for a slice of a few
/// microseconds, then lets other tasks run and the reactor be polled, until the spin budget is
/// used up. *Armed*: the peer knows that this side sleeps and will ring; the task is woken by the
/// reactor and costs nothing meanwhile.
///
/// # Cancellation
/// The peer rings once for an announcement, and every ring comes to this waiter. So an
/// announcement stands until a ring (or anything else) has come out of the sleeper, whether or not
/// the future that made it still lives and whoever took what the ring was about; the next wait
/// goes on with it if it covers what is wanted.
#[derive(Debug)]
pub(crate) struct AsyncWaiter {
    spinner: Spinner,
    looker: Looker,
    shared: Arc<Shared>,
    runtime: Handle,
    /// Time spent looking in the wait that is under way.
    looked: Option<Duration>,
    /// The announcement that stands.
    armed: Option<Announcement>,
    /// Made at the first sleep.
    sleeper: Option<ReactorSleeper>,
    sleeps: u64,
}

#[derive(Debug)]
struct Announcement {
    for_data: bool,
    for_space: bool,
    /// Ends a sleep whose announcement may go unseen.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Announcement {
    fn covers(&self, wanted: &Wanted<'_>) -> bool {
        (self.for_data || wanted.data.is_none()) && (self.for_space || wanted.space.is_none())
    }
}

impl AsyncWaiter {
    /// A waiter whose sleeps happen in the runtime that this is called in.
    ///
    /// # Errors
    /// [`Error::Io`] outside a Tokio runtime.
    pub(crate) fn new(shared: Arc<Shared>, spin: Spin) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::io("find a Tokio runtime to sleep in")(io::Error::other(error))
        })?;
        Ok(Self {
            spinner: Spinner::new(shared.spin(spin)),
            looker: Looker::new(),
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
    ) -> Poll<Small<Waited>> {
        if wanted.is_ready() {
            if self.armed.is_none() {
                wanted.found();
            }
            self.disarm(wanted);
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
        let (looker, looked) = (self.looker, &mut self.looked);
        match self.spinner.slice(looker, looked, || wanted.is_ready()) {
            Slice::Ready => {
                wanted.found();
                self.looked = None;
                Poll::Ready(Ok(Waited::Ready))
            }
            Slice::Again | Slice::Shared => {
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
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Small<Waited>> {
        while self.shared.closed().is_none() {
            match ready!(self.poll_woken(cx)) {
                Ok(Woken::Control) => self.shared.read_control(),
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Err(
                        Error::io("sleep until the peer is gone")(error).into()
                    ));
                }
            }
        }
        Poll::Ready(Ok(Waited::Closed))
    }

    /// Waits until the system has everything that was published, or the connection is over. There is
    /// something to wait for only over the socket.
    ///
    /// # Errors
    /// As [`poll_wait`](Self::poll_wait).
    pub(crate) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Small<()>> {
        while !self.shared.is_sent() && self.shared.closed().is_none() {
            match ready!(self.poll_woken(cx)) {
                Ok(Woken::Control) => self.shared.read_control(),
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Err(Error::io("sleep until all is sent")(error).into()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the task sleeps, or is about to, until the peer rings; otherwise it is polled again
    /// in a moment.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Ends a wait, so that the peer does not ring for nothing. `wanted` is what was wanted, or
    /// more.
    #[inline]
    pub(crate) fn disarm(&mut self, mut wanted: Wanted<'_>) {
        self.looked = None;
        if self.armed.take().is_some() {
            wanted.disarm();
        }
    }

    /// How often a sleep was announced.
    pub(crate) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Spins that found something, and spins that did not.
    pub(crate) fn spins(&self) -> (u64, u64) {
        self.spinner.record()
    }

    #[cold]
    fn sleep(&mut self, cx: &mut Context<'_>, mut wanted: Wanted<'_>) -> Poll<Small<Waited>> {
        loop {
            if !self
                .armed
                .as_ref()
                .is_some_and(|armed| armed.covers(&wanted))
            {
                // What an earlier wait left may have been rung for already.
                wanted.disarm();
                self.announce(&mut wanted);
            }
            // In this order: what the peer published before it was gone is delivered first.
            let closed = self.shared.closed().is_some();
            let ready = wanted.is_ready();
            if ready || closed {
                self.disarm(wanted);
                let waited = if ready { Waited::Ready } else { Waited::Closed };
                return Poll::Ready(Ok(waited));
            }
            let woken = ready!(self.poll_woken(cx));
            self.armed = None;
            wanted.disarm();
            match woken {
                Ok(Woken::Control) => self.shared.read_control(),
                Ok(_) => {}
                Err(error) => {
                    self.looked = None;
                    return Poll::Ready(Err(
                        Error::io("sleep until the peer answers")(error).into()
                    ));
                }
            }
        }
    }

    fn announce(&mut self, wanted: &mut Wanted<'_>) {
        let reliable = wanted.arm();
        self.sleeps += 1;
        self.armed = Some(Announcement {
            for_data: wanted.data.is_some(),
            for_space: wanted.space.is_some(),
            alarm: (!reliable).then(|| {
                let _runtime = self.runtime.enter();
                Box::pin(tokio::time::sleep(UNRELIABLE_SLEEP))
            }),
        });
    }

    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        if let Some(Announcement {
            alarm: Some(alarm), ..
        }) = &mut self.armed
            && alarm.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(Woken::TimedOut));
        }
        let sleeper = match &mut self.sleeper {
            Some(sleeper) => sleeper,
            empty => {
                let _runtime = self.runtime.enter();
                empty.insert(self.shared.reactor_sleeper()?)
            }
        };
        sleeper.poll_sleep(cx)
    }
}

/// Has the task polled again after others had their turn and the reactor was looked at. Waking it
/// at once would keep both waiting, and on the multi-threaded runtime send another thread after it.
pub(crate) fn let_others_run(cx: &mut Context<'_>) {
    let polled = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(polled.is_pending());
}
