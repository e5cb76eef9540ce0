//! A request that gets no answer.

use super::Core;
use crate::client::Method;
use crate::client::methods::check_shape;
use crate::error::{CloseReason, Error, Result};
use crate::proto::frame::TraceContext;
use crate::proto::handshake::CallShape;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A request on its way that gets no answer; see
/// [`Client::notify_bytes`](super::Client::notify_bytes). Dropped before it is ready, it was not
/// sent.
#[derive(Debug)]
#[must_use = "a notification is sent when it is awaited"]
pub struct Notification<'a> {
    core: Arc<Core>,
    /// Or why there is none, given once.
    method: Result<Method, Option<Error>>,
    request: &'a [u8],
    trace: Option<TraceContext>,
}

impl<'a> Notification<'a> {
    pub(super) fn new(core: Arc<Core>, method: Result<Method>, request: &'a [u8]) -> Self {
        let limit = core.shared.terms.max_message_out;
        let len = request.len() as u64;
        let method = method.and_then(|method| {
            check_shape(&core.shared, method, CallShape::Unary)?;
            if len > limit {
                return Err(Error::TooLarge { len, limit });
            }
            Ok(method)
        });
        Self {
            core,
            method: method.map_err(Some),
            request,
            trace: None,
        }
    }

    /// As [`Call::trace`](super::Call::trace).
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.trace = Some(context).filter(|_| self.core.shared.terms.carry_traces());
        self
    }
}

impl Future for Notification<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let method = match &mut this.method {
            Ok(method) => *method,
            Err(error) => {
                let over = || Error::closed(CloseReason::Local);
                return Poll::Ready(Err(error.take().unwrap_or_else(over)));
            }
        };
        let mut state = this.core.lock();
        let sent = state.poll_notify(method.number(), this.request, this.trace, cx);
        this.core.unlock(state);
        sent
    }
}
