//! One call: the future of its reply.

use super::state::State;
use super::{Core, SOLO_CALLS};
use crate::client::Method;
use crate::client::methods::check_shape;
use crate::client::span;
use crate::error::{CloseReason, Error, Result, Small};
use crate::link::let_others_run;
use crate::proto::frame::{Header, TraceContext};
use crate::proto::handshake::CallShape;
use crate::sync::MutexGuard;
use crate::waiter::Slice;
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::task::coop::poll_proceed;
use tokio::time::Sleep;
use tracing::Span;

/// What is asked of the server.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    payload: Cow<'a, [u8]>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, payload: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            method,
            payload: payload.into(),
        }
    }
}

/// How far a call is.
#[derive(Debug)]
enum Stage<'a> {
    /// Wrong before it began; the error is given once.
    Failed(Option<Box<Error>>),
    /// Not known to the connection.
    New(Request<'a>),
    /// Has a place; its request is on its way.
    Sent { key: usize },
    /// Over, and its place is free.
    Done,
}

/// A call's part of the connection: its place. Gives up what it holds when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) core: Arc<Core>,
    stage: Stage<'a>,
    shape: CallShape,
    /// Its ticket in the queue for a place.
    ticket: Option<u64>,
    pub(super) deadline: Option<Instant>,
    /// Which trace it belongs to.
    trace: Option<TraceContext>,
    /// Wakes the call at its deadline. Made when it must wait for longer than a moment.
    timer: Option<Pin<Box<Sleep>>>,
    /// How the call failed, for the half of it that asks later.
    failure: Option<Box<Error>>,
    /// From the request on, if somebody wants to see calls. Large, and rarely there.
    span: Option<Box<Span>>,
}

impl<'a> Place<'a> {
    pub(super) fn new(core: Arc<Core>, request: Result<Request<'a>>, shape: CallShape) -> Self {
        let request = request
            .and_then(|request| check_shape(&core.shared, request.method, shape).map(|()| request));
        let stage = match request {
            Ok(request) => Stage::New(request),
            Err(error) => Stage::Failed(Some(error.into())),
        };
        Self {
            core,
            stage,
            shape,
            ticket: None,
            deadline: None,
            trace: None,
            timer: None,
            failure: None,
            span: None,
        }
    }

    /// Says which trace the call belongs to, where the server understands it.
    pub(super) fn set_trace(&mut self, trace: TraceContext) {
        self.trace = Some(trace).filter(|_| self.core.shared.terms.carry_traces());
    }

    /// Sends the request when there is a place for the call. Ready with the place.
    #[inline]
    pub(super) fn poll_begin(
        &mut self,
        state: &mut State,
        cx: &mut Context<'_>,
    ) -> Poll<Small<usize>> {
        let request = match &mut self.stage {
            Stage::Sent { key } => return Poll::Ready(Ok(*key)),
            Stage::New(request) => request,
            Stage::Failed(error) => return Poll::Ready(Err(error.take().unwrap_or_else(over))),
            Stage::Done => {
                let failure = self.failure.as_ref().map(|failure| failure.again().into());
                return Poll::Ready(Err(failure.unwrap_or_else(over)));
            }
        };
        if state.over || state.draining {
            return Poll::Ready(Err(state.error().into()));
        }
        let limit = self.core.shared.terms.max_message_out;
        let len = request.payload.len() as u64;
        if len > limit {
            return Poll::Ready(Err(Error::TooLarge { len, limit }.into()));
        }
        let mut deadline_ns = None;
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(Err(Error::DeadlineExceeded.into()));
            }
            deadline_ns = Some(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
        }
        let Some((key, id)) = state.take_place(&mut self.ticket, self.shape) else {
            state.queue_for_place(&mut self.ticket, cx);
            return self.poll_deadline(cx).map(Err);
        };
        let mut header = Header::request(request.method.number, id);
        header.deadline_ns = deadline_ns;
        header.trace = self.trace;
        header.client_stream = self.shape.has_client_stream();
        if span::is_wanted() {
            let shared = &self.core.shared;
            let span = span::of_call(shared, request.method, id, self.trace.as_ref());
            self.span = Some(Box::new(span));
        }
        let payload = std::mem::take(&mut request.payload);
        self.stage = Stage::Sent { key };
        if let Err(error) = state.send(header, payload) {
            // The server broke the protocol: nothing goes out any more.
            state.end_all();
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(key))
    }

    /// Whether the call has ended, and its end was claimed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The place, once the request is on its way.
    pub(super) fn key(&self) -> Option<usize> {
        match self.stage {
            Stage::Sent { key } => Some(key),
            _ => None,
        }
    }

    /// Ready with the error when the deadline is over.
    #[inline]
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Box::new(Error::DeadlineExceeded))
    }

    /// Frees what the call holds. What has not ended is cancelled at the server.
    #[inline]
    pub(super) fn leave(&mut self, state: &mut State) {
        if let Stage::Sent { key } = std::mem::replace(&mut self.stage, Stage::Done) {
            state.abandon(key);
        }
        state.leave_queue(&mut self.ticket);
    }

    /// Says in the call's span, if it has one, how the call failed.
    #[inline]
    fn note_failure(&self, error: &Error) {
        if let Some(span) = &self.span {
            span::note_failure(span, error);
        }
    }

    /// What the caller is told of the call's end.
    #[inline]
    fn end_of<T>(&self, end: Small<T>) -> Result<T> {
        let end = end.map_err(Error::from);
        if let Err(error) = &end {
            self.note_failure(error);
        }
        end
    }

    /// As [`leave`](Self::leave), when the call has failed, or is given up, with this error.
    pub(super) fn fail(&mut self, state: &mut State, error: &Error) {
        self.leave(state);
        self.note_failure(error);
        self.failure.get_or_insert_with(|| error.again().into());
    }

    /// As [`leave`](Self::leave), when the call's end was claimed.
    #[inline]
    pub(super) fn leave_ended(&mut self, state: &mut State) {
        if let Stage::Sent { key } = std::mem::replace(&mut self.stage, Stage::Done) {
            state.remove(key);
        }
    }
}

/// The error for a call that is polled after its end.
fn over() -> Box<Error> {
    Error::closed(CloseReason::Local).into()
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Done | Stage::Failed(_)) {
            return;
        }
        if let Some(span) = &self.span {
            span::note_drop(span);
        }
        let core = self.core.clone();
        let mut state = core.lock();
        self.leave(&mut state);
        core.unlock(state);
    }
}

/// A call in progress: a future of the reply. Dropping it cancels the call; the server drops an
/// async handler's future then.
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call<'a> {
    place: Place<'a>,
    /// Let others run, to see whether they call as well.
    stepped_back: bool,
    /// Time spent looking at the ring, in turns with others on this thread.
    looked: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(super) fn new(core: Arc<Core>, request: Result<Request<'a>>) -> Self {
        Self {
            place: Place::new(core, request, CallShape::Unary),
            stepped_back: false,
            looked: None,
        }
    }

    /// Gives the call this much time from now on. When it is over the future gives
    /// [`Error::DeadlineExceeded`]; the server knows the time left and stops by itself.
    pub fn deadline(mut self, time: Duration) -> Self {
        // A time that no clock can express is for ever.
        self.place.deadline = Instant::now().checked_add(time);
        self
    }

    /// Says which trace the call belongs to and which span is its parent. To a server of a version
    /// that does not know of it nothing is said. Costs 32 bytes of request.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.place.set_trace(context);
        self
    }

    /// The reply, if it is there; taken from the ring if this call is alone. Otherwise the driver
    /// takes what arrives: 64 calls that all look at the ring fight for the line that the server
    /// is writing.
    #[inline(always)]
    fn look(&mut self, state: &mut State, key: usize) -> Option<Small<Vec<u8>>> {
        let mut end = state.claim(key);
        if end.is_none() && state.is_solo() {
            state.receive();
            end = state.claim(key);
        }
        if end.is_some() {
            self.place.leave_ended(state);
        }
        end
    }

    /// What to do about a reply that is not there yet.
    fn wait<'c>(
        &mut self,
        core: &'c Core,
        mut state: MutexGuard<'c, State>,
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
            match self.look_for_a_while(core, key) {
                Looked::Found(end) => return Poll::Ready(end),
                Looked::InTurns => {
                    let_others_run(cx);
                    let Poll::Ready(error) = self.place.poll_deadline(cx) else {
                        return Poll::Pending;
                    };
                    let mut state = core.lock();
                    self.place.leave(&mut state);
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
        let timed_out = self.place.poll_deadline(cx);
        if timed_out.is_ready() {
            self.place.leave(&mut state);
        }
        core.unlock(state);
        timed_out.map(Err)
    }

    /// Looks at the ring in place, for a slice of the spin budget. The lock is free between looks.
    fn look_for_a_while(&mut self, core: &Core, key: usize) -> Looked {
        let Ok(mut spinner) = core.solo.try_lock() else {
            return Looked::InVain;
        };
        let mut end = None;
        let mut looked = self.looked;
        let slice = spinner.slice(core.looker, &mut looked, || {
            let mut state = core.lock();
            end = self.look(&mut state, key);
            core.unlock(state);
            end.is_some()
        });
        match (end, slice) {
            (Some(end), _) => Looked::Found(end),
            (None, Slice::Shared) => {
                self.looked = looked;
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
        let this = self.get_mut();
        let core = this.place.core.clone();
        let mut state = core.lock();
        let polled = match this.place.poll_begin(&mut state, cx) {
            Poll::Ready(Ok(key)) => match this.look(&mut state, key) {
                Some(end) => Poll::Ready(end),
                None => {
                    return this.wait(&core, state, key, cx).map(|end| {
                        coop.made_progress();
                        this.place.end_of(end)
                    });
                }
            },
            Poll::Ready(Err(error)) => {
                this.place.leave(&mut state);
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        };
        core.unlock(state);
        if polled.is_ready() {
            coop.made_progress();
        }
        polled.map(|end| this.place.end_of(end))
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
