//! What a call has of its connection, from its request to its end.

use super::Core;
use super::state::State;
use crate::client::Method;
use crate::client::methods::check_shape;
use crate::client::span;
use crate::error::{CloseReason, Error, Result, Small};
use crate::proto::frame::{Header, TraceContext};
use crate::proto::handshake::CallShape;
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::Sleep;
use tracing::Span;

/// What is asked of the server.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    /// Stands here, where it takes no room of its own.
    shape: CallShape,
    payload: Cow<'a, [u8]>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, payload: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            method,
            shape: CallShape::Unary,
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
    // Apart, so that a call is looked after while the connection is locked through `core`, without
    // another count of its users: two locked instructions for each time that a call is polled.
    pub(super) progress: Progress<'a>,
}

/// How a call gets on. Small: with thousands of calls in flight each line that one takes counts.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    stage: Stage<'a>,
    pub(super) deadline: Option<Instant>,
    rare: Option<Box<Rare>>,
}

/// What few calls have.
#[derive(Debug, Default)]
struct Rare {
    /// Its ticket in the queue for a place.
    ticket: Option<u64>,
    /// Which trace it belongs to.
    trace: Option<TraceContext>,
    /// Wakes the call at its deadline. Made when it must wait for longer than a moment.
    timer: Option<Pin<Box<Sleep>>>,
    /// How the call failed, for the half of it that asks later.
    failure: Option<Box<Error>>,
    /// From the request on, if somebody wants to see calls.
    span: Option<Span>,
}

impl<'a> Place<'a> {
    pub(super) fn new(core: Arc<Core>, request: Result<Request<'a>>, shape: CallShape) -> Self {
        let request = request
            .and_then(|request| check_shape(&core.shared, request.method, shape).map(|()| request));
        let stage = match request {
            Ok(request) => Stage::New(Request { shape, ..request }),
            Err(error) => Stage::Failed(Some(error.into())),
        };
        let progress = Progress {
            stage,
            deadline: None,
            rare: None,
        };
        Self { core, progress }
    }

    /// Says which trace the call belongs to, where the server understands it.
    pub(super) fn set_trace(&mut self, trace: TraceContext) {
        if self.core.shared.terms.carry_traces() {
            self.progress.rare().trace = Some(trace);
        }
    }
}

impl Progress<'_> {
    #[cold]
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    #[inline]
    fn span(&self) -> Option<&Span> {
        self.rare.as_ref()?.span.as_ref()
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
                let failure = self.rare.as_ref().and_then(|rare| rare.failure.as_ref());
                let failure = failure.map(|failure| failure.again().into());
                return Poll::Ready(Err(failure.unwrap_or_else(over)));
            }
        };
        if state.over || state.draining {
            return Poll::Ready(Err(state.error().into()));
        }
        let limit = state.link.shared.terms.max_message_out;
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
        let ticket = self.rare.as_mut().map(|rare| &mut rare.ticket);
        let Some((key, id)) = state.take_place(ticket, request.shape) else {
            state.queue_for_place(&mut self.rare().ticket, cx);
            return self.poll_deadline(cx).map(Err);
        };
        let plain = deadline_ns.is_none()
            && self.rare.is_none()
            && !request.shape.has_client_stream()
            && !span::is_wanted();
        let sent = if plain {
            // No header on its way through memory, and the payload stays where it is: short stores
            // that are loaded again as long words hold up the stores into the ring (docs: tuning).
            let sent = state.send_plain(request.method.number, id, &request.payload);
            match sent {
                Ok(false) => {
                    let payload = std::mem::take(&mut request.payload);
                    state.send_slowly(Header::request(request.method.number, id), payload)
                }
                sent => sent.map(drop),
            }
        } else {
            let mut header = Header::request(request.method.number, id);
            header.deadline_ns = deadline_ns;
            header.trace = self.rare.as_ref().and_then(|rare| rare.trace);
            header.client_stream = request.shape.has_client_stream();
            if span::is_wanted() {
                let shared = &state.link.shared;
                let span = span::of_call(shared, request.method, id, header.trace.as_ref());
                self.rare.get_or_insert_default().span = Some(span);
            }
            let payload = std::mem::take(&mut request.payload);
            state.send(header, payload)
        };
        self.stage = Stage::Sent { key };
        if let Err(error) = sent {
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
            .rare()
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
        if let Some(rare) = &mut self.rare {
            state.leave_queue(&mut rare.ticket);
        }
    }

    /// Says in the call's span, if it has one, how the call failed.
    #[inline]
    fn note_failure(&self, error: &Error) {
        if let Some(span) = self.span() {
            span::note_failure(span, error);
        }
    }

    /// What the caller is told of the call's end.
    #[inline]
    pub(super) fn end_of<T>(&self, end: Small<T>) -> Result<T> {
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
        self.rare()
            .failure
            .get_or_insert_with(|| error.again().into());
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
        let Self { core, progress } = self;
        if matches!(progress.stage, Stage::Done | Stage::Failed(_)) {
            return;
        }
        if let Some(span) = progress.span() {
            span::note_drop(span);
        }
        let mut state = core.lock();
        progress.leave(&mut state);
        core.unlock(state);
    }
}
