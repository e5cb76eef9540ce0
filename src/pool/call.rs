//! A call on a pool: it finds a connection, and another if nothing was done on the first.

use super::Pool;
use crate::client::{Call, Client};
use crate::error::{Error, Executed, Result};
use crate::proto::frame::TraceContext;
use crate::proto::status::Code;
use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// What is to be done about a call that ended with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another connection: nothing was executed on this one, which takes no more calls.
    Move,
    /// The connection died. It may have been executed, and that does not matter.
    Retry,
    /// The caller is told.
    Give,
}

pub(super) fn verdict(error: &Error, retries_left: u32) -> Verdict {
    match error {
        Error::Closed {
            executed: Executed::No,
            ..
        } => Verdict::Move,
        Error::Status(status) if status.code == Code::DRAINING => Verdict::Move,
        Error::Closed { .. } | Error::Protocol(_) | Error::Io { .. } if retries_left > 0 => {
            Verdict::Retry
        }
        _ => Verdict::Give,
    }
}

/// How far a call is.
enum Stage<T> {
    /// Needs a connection.
    Choose,
    /// There is none.
    Wait(Pin<Box<dyn Future<Output = Result<()>> + Send>>),
    /// Under way on this connection.
    Call {
        call: T,
        connection: u64,
    },
    /// Under way, and has given something: it stays where it is.
    Settled {
        call: T,
    },
    Over,
}

/// A call, or whatever `T` is, on one connection after another.
pub(super) struct Attempts<T> {
    pool: Pool,
    deadline: Option<Instant>,
    retries_left: u32,
    /// How an earlier attempt ended that may have been executed.
    earlier: Option<Error>,
    stage: Stage<T>,
}

impl<T> fmt::Debug for Attempts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Choose => "new",
            Stage::Wait(_) => "waits for a connection",
            Stage::Call { .. } => "in flight",
            Stage::Settled { .. } => "answered in part",
            Stage::Over => "over",
        };
        f.debug_struct("Attempts")
            .field("stage", &stage)
            .field("deadline", &self.deadline)
            .field("retries_left", &self.retries_left)
            .finish_non_exhaustive()
    }
}

impl<T> Attempts<T> {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            deadline: None,
            retries_left: 0,
            earlier: None,
            stage: Stage::Choose,
        }
    }

    pub(super) fn set_deadline(&mut self, time: Duration) {
        // A time that no clock can express is for ever.
        self.deadline = Instant::now().checked_add(time);
    }

    pub(super) fn set_idempotent(&mut self) {
        self.retries_left = self.pool.handle.shared.retries;
    }

    /// Goes on. `begin` starts the call on a connection, with the time that it has; `poll` polls
    /// it. Whatever it gives, it stays on that connection afterwards.
    pub(super) fn poll<O>(
        &mut self,
        cx: &mut Context<'_>,
        mut begin: impl FnMut(&Client, Option<Duration>) -> Result<T>,
        mut poll: impl FnMut(&mut T, &mut Context<'_>) -> Poll<Result<O>>,
    ) -> Poll<Result<O>> {
        loop {
            match &mut self.stage {
                Stage::Choose => {
                    let left = self
                        .deadline
                        .map(|d| d.saturating_duration_since(Instant::now()));
                    if left == Some(Duration::ZERO) {
                        return self.give(Error::DeadlineExceeded);
                    }
                    let Some(choice) = self.pool.handle.shared.choose() else {
                        let (pool, deadline) = (self.pool.clone(), self.deadline);
                        self.stage = Stage::Wait(Box::pin(async move {
                            pool.handle.shared.arrival(deadline).await
                        }));
                        continue;
                    };
                    match begin(&choice.connection, left) {
                        Ok(call) => {
                            let connection = choice.id;
                            self.stage = Stage::Call { call, connection };
                        }
                        Err(error) => return self.give(error),
                    }
                }
                Stage::Wait(arrival) => match ready!(arrival.as_mut().poll(cx)) {
                    Ok(()) => self.stage = Stage::Choose,
                    Err(error) => return self.give(error),
                },
                Stage::Call { call, connection } => {
                    let connection = *connection;
                    let error = match ready!(poll(call, cx)) {
                        Ok(output) => {
                            let stage = std::mem::replace(&mut self.stage, Stage::Over);
                            if let Stage::Call { call, .. } = stage {
                                self.stage = Stage::Settled { call };
                            }
                            return Poll::Ready(Ok(output));
                        }
                        Err(error) => error,
                    };
                    match verdict(&error, self.retries_left) {
                        Verdict::Give => return self.give(error),
                        Verdict::Move => self.pool.handle.shared.discard(connection),
                        Verdict::Retry => {
                            self.retries_left -= 1;
                            self.pool.handle.shared.lock().retried += 1;
                            self.earlier = Some(error);
                        }
                    }
                    self.stage = Stage::Choose;
                }
                Stage::Settled { call } => return poll(call, cx),
                Stage::Over => return self.give(Error::closed(crate::CloseReason::Local)),
            }
        }
    }

    /// Lets go of the connection.
    pub(super) fn end(&mut self) {
        self.stage = Stage::Over;
    }

    /// Ends with an error. That an earlier attempt may have been executed is not forgotten.
    fn give<O>(&mut self, error: Error) -> Poll<Result<O>> {
        self.stage = Stage::Over;
        let error = match (error, self.earlier.take()) {
            (Error::NoConnection { waited, source, .. }, Some(_)) => Error::NoConnection {
                waited,
                executed: Executed::Maybe,
                source,
            },
            (error, Some(earlier)) if !error.may_have_executed() => earlier,
            (error, _) => error,
        };
        Poll::Ready(Err(error))
    }
}

/// A call on a pool in progress: a future of the reply. Dropping it cancels the call.
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct PoolCall<'a> {
    attempts: Attempts<Call<'a>>,
    method: &'a str,
    request: &'a [u8],
    trace: Option<TraceContext>,
}

impl<'a> PoolCall<'a> {
    pub(super) fn new(pool: Pool, method: &'a str, request: &'a [u8]) -> Self {
        Self {
            attempts: Attempts::new(pool),
            method,
            request,
            trace: None,
        }
    }

    /// Gives the call this much time from now on, waiting for a connection included. When it is
    /// over the future gives [`Error::DeadlineExceeded`], or [`Error::NoConnection`] if there was
    /// none.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.attempts.set_deadline(time);
        self
    }

    /// Says that the call may be executed twice without harm. If its connection dies while it is in
    /// flight it is made again, within its deadline and as often as
    /// [`retries`](super::PoolBuilder::retries) says.
    pub fn idempotent(mut self) -> Self {
        self.attempts.set_idempotent();
        self
    }

    /// As [`Call::trace`], on whichever connection.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.trace = Some(context);
        self
    }
}

impl Future for PoolCall<'_> {
    type Output = Result<Vec<u8>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (method, request, trace) = (this.method, this.request, this.trace);
        this.attempts.poll(
            cx,
            |client, left| {
                Ok(with_settings(
                    client.call_bytes(method, request),
                    left,
                    trace,
                ))
            },
            |call, cx| Pin::new(call).poll(cx),
        )
    }
}

fn with_settings(
    mut call: Call<'_>,
    left: Option<Duration>,
    trace: Option<TraceContext>,
) -> Call<'_> {
    if let Some(left) = left {
        call = call.deadline(left);
    }
    if let Some(trace) = trace {
        call = call.trace(trace);
    }
    call
}

/// A typed call on a pool in progress; see [`Pool::call`].
#[cfg(feature = "serde")]
#[must_use = "a call is sent when it is awaited"]
pub struct TypedPoolCall<'a, Q: ?Sized, R> {
    attempts: Attempts<Call<'static>>,
    method: &'a str,
    request: &'a Q,
    trace: Option<TraceContext>,
    reply: std::marker::PhantomData<fn() -> R>,
}

#[cfg(feature = "serde")]
impl<'a, Q: ?Sized, R> TypedPoolCall<'a, Q, R> {
    pub(super) fn new(pool: Pool, method: &'a str, request: &'a Q) -> Self {
        Self {
            attempts: Attempts::new(pool),
            method,
            request,
            trace: None,
            reply: std::marker::PhantomData,
        }
    }

    /// As [`PoolCall::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.attempts.set_deadline(time);
        self
    }

    /// As [`PoolCall::idempotent`].
    pub fn idempotent(mut self) -> Self {
        self.attempts.set_idempotent();
        self
    }

    /// As [`PoolCall::trace`].
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.trace = Some(context);
        self
    }
}

#[cfg(feature = "serde")]
impl<Q: ?Sized, R> fmt::Debug for TypedPoolCall<'_, Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedPoolCall")
            .field("method", &self.method)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "serde")]
impl<Q, R> Future for TypedPoolCall<'_, Q, R>
where
    Q: serde::Serialize + ?Sized,
    R: serde::de::DeserializeOwned,
{
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (method, request, trace) = (this.method, this.request, this.trace);
        let reply = this.attempts.poll(
            cx,
            |client, left| {
                let mut payload = Vec::new();
                crate::typed::append_request(&request, &mut payload)?;
                let call = client.call_with(method, Cow::Owned(payload));
                Ok(with_settings(call, left, trace))
            },
            |call, cx| Pin::new(call).poll(cx),
        );
        reply.map(|reply| crate::typed::reply(&reply?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{CloseReason, Status, Violation};

    fn closed(executed: Executed) -> Error {
        let reason = CloseReason::PeerGone;
        Error::Closed { reason, executed }
    }

    fn status(code: Code) -> Error {
        Status::new(code, "").into()
    }

    #[test]
    fn only_what_was_not_executed_moves_and_only_what_is_idempotent_is_made_again() {
        let moves = [closed(Executed::No), status(Code::DRAINING)];
        for error in moves {
            assert!(!error.may_have_executed());
            assert_eq!(verdict(&error, 0), Verdict::Move, "{error}");
            assert_eq!(verdict(&error, 1), Verdict::Move, "{error}");
        }
        let broken = Violation::Frame(String::new());
        let died = [closed(Executed::Maybe), Error::Protocol(broken)];
        for error in died {
            assert_eq!(verdict(&error, 0), Verdict::Give, "{error}");
            assert_eq!(verdict(&error, 1), Verdict::Retry, "{error}");
        }
    }

    #[test]
    fn what_the_server_or_the_clock_says_is_given() {
        let method = Error::NoMethod {
            name: "x".into(),
            known: vec![],
        };
        for error in [
            Error::DeadlineExceeded,
            Error::TooLarge { len: 2, limit: 1 },
            method,
            status(Code::UNAVAILABLE),
            status(Code::TOO_MANY_IN_FLIGHT),
            status(Code::HANDLER_PANICKED),
        ] {
            assert_eq!(verdict(&error, 9), Verdict::Give, "{error}");
        }
    }
}
