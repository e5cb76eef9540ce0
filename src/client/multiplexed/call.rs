//! One call: the future of its reply.

use super::place::{Place, Progress, Request};
use super::state::State;
use super::{Core, SOLO_CALLS};
use crate::error::{Result, Small};
use crate::link::let_others_run;
use crate::proto::frame::TraceContext;
use crate::proto::handshake::CallShape;
use crate::sys::Held;
use crate::waiter::Slice;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::task::coop::poll_proceed;

/// A call in progress: a future of the reply. Dropping it cancels the call; the server drops an
/// async handler's future then.
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call<'a> {
    place: Place<'a>,
    wait: Wait,
}

impl<'a> Call<'a> {
    pub(super) fn new(core: Arc<Core>, request: Result<Request<'a>>) -> Self {
        Self {
            place: Place::new(core, request, CallShape::Unary),
            wait: Wait::default(),
        }
    }

    /// Gives the call this much time from now on. When it is over the future gives
    /// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded); the server knows the time left and stops by
    /// itself.
    pub fn deadline(mut self, time: Duration) -> Self {
        // A time that no clock can express is for ever.
        self.place.progress.deadline = Instant::now().checked_add(time);
        self
    }

    /// Says which trace the call belongs to and which span is its parent. To a server of a version
    /// that does not know of it nothing is said. Costs 32 bytes of request.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.place.set_trace(context);
        self
    }
}

/// The reply, if it is there; taken from the ring if this call is alone. Otherwise the driver
/// takes what arrives: 64 calls that all look at the ring fight for the line that the server
/// is writing.
#[inline(always)]
fn look(progress: &mut Progress<'_>, state: &mut State, key: usize) -> Option<Small<Vec<u8>>> {
    let mut end = state.claim(key);
    if end.is_none() && state.is_solo() {
        state.receive();
        end = state.claim(key);
    }
    if end.is_some() {
        progress.leave_ended(state);
    }
    end
}

/// A call's wait for its reply.
#[derive(Debug, Default)]
struct Wait {
    /// Let others run, to see whether they call as well.
    stepped_back: bool,
    /// Nanoseconds spent looking at the ring, in turns with others on this thread.
    looked: Option<NonZeroU64>,
}

impl Wait {
    /// What to do about a reply that is not there yet.
    #[inline(always)]
    fn poll<'c>(
        &mut self,
        core: &'c Core,
        progress: &mut Progress<'_>,
        mut state: Held<'c, State>,
        key: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Small<Vec<u8>>> {
        state.watch(key, cx);
        let alone = state.is_solo();
        if !alone {
            state.solo_left = 0;
        } else if state.solo_left > 0 {
            state.solo_left -= 1;
            state.stay_awake();
            core.unlock(state);
            match self.look_for_a_while(core, progress, key) {
                Looked::Found(end) => return Poll::Ready(end),
                Looked::InTurns => {
                    let_others_run(cx);
                    let Poll::Ready(error) = progress.poll_deadline(cx) else {
                        return Poll::Pending;
                    };
                    let mut state = core.lock();
                    progress.leave(&mut state);
                    core.unlock(state);
                    return Poll::Ready(Err(error));
                }
                Looked::InVain => {}
            }
            state = core.lock();
        } else if !std::mem::replace(&mut self.stepped_back, true) {
            core.unlock(state);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        } else {
            // Others ran and none of them called.
            state.solo_left = SOLO_CALLS;
        }
        state.wake_driver();
        let timed_out = progress.poll_deadline(cx);
        if timed_out.is_ready() {
            progress.leave(&mut state);
        }
        core.unlock(state);
        timed_out.map(Err)
    }

    /// Looks at the ring in place, for a slice of the spin budget. The lock is free between looks.
    fn look_for_a_while(&mut self, core: &Core, progress: &mut Progress<'_>, key: usize) -> Looked {
        let Ok(mut spinner) = core.solo.try_lock() else {
            return Looked::InVain;
        };
        let mut end = None;
        let mut looked = self.looked.map(|ns| Duration::from_nanos(ns.get()));
        let slice = spinner.slice(core.looker, &mut looked, || {
            let mut state = core.lock();
            end = look(progress, &mut state, key);
            core.unlock(state);
            end.is_some()
        });
        match (end, slice) {
            (Some(end), _) => Looked::Found(end),
            (None, Slice::Shared) => {
                let ns = looked.and_then(|looked| u64::try_from(looked.as_nanos()).ok());
                self.looked = ns.and_then(NonZeroU64::new);
                Looked::InTurns
            }
            (None, _) => Looked::InVain,
        }
    }
}

/// What came of a call's looking at the ring.
enum Looked {
    /// The call's end.
    Found(Small<Vec<u8>>),
    /// Nothing yet. Others on this thread wait too, and the budget is not used up.
    InTurns,
    /// Nothing; the driver is to take over.
    InVain,
}

impl Future for Call<'_> {
    type Output = Result<Vec<u8>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Calls that are always answered at once must still let other tasks run.
        let coop = ready!(poll_proceed(cx));
        let Self { place, wait } = self.get_mut();
        let Place { core, progress } = place;
        let mut state = core.lock();
        let polled = match progress.poll_begin(&mut state, cx) {
            Poll::Ready(Ok(key)) => match look(progress, &mut state, key) {
                Some(end) => Poll::Ready(end),
                None => {
                    return wait.poll(core, progress, state, key, cx).map(|end| {
                        coop.made_progress();
                        progress.end_of(end)
                    });
                }
            },
            Poll::Ready(Err(error)) => {
                progress.leave(&mut state);
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        };
        core.unlock(state);
        if polled.is_ready() {
            coop.made_progress();
        }
        polled.map(|end| progress.end_of(end))
    }
}

/// A typed call in progress; see [`Client::call`](super::Client::call).
#[cfg(feature = "serde")]
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct TypedCall<R> {
    call: Call<'static>,
    reply: std::marker::PhantomData<fn() -> R>,
}

#[cfg(feature = "serde")]
impl<R> TypedCall<R> {
    pub(super) fn new(call: Call<'static>) -> Self {
        Self {
            call,
            reply: std::marker::PhantomData,
        }
    }

    /// As [`Call::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.call = self.call.deadline(time);
        self
    }

    /// As [`Call::trace`].
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.call = self.call.trace(context);
        self
    }
}

#[cfg(feature = "serde")]
impl<R: serde::de::DeserializeOwned> Future for TypedCall<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call)
            .poll(cx)
            .map(|reply| crate::typed::reply(&reply?))
    }
}
