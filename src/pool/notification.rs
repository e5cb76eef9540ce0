//! Requests on a pool that get no answer.

use super::Pool;
use super::call::Attempts;
use crate::client::Notification;
use crate::error::Result;
use crate::proto::frame::TraceContext;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request on a pool that gets no answer; see [`Pool::notify_bytes`].
#[derive(Debug)]
#[must_use = "a notification is sent when it is awaited"]
pub struct PoolNotification<'a> {
    attempts: Attempts<Notification<'a>>,
    method: &'a str,
    request: &'a [u8],
    trace: Option<TraceContext>,
}

impl<'a> PoolNotification<'a> {
    pub(super) fn new(pool: Pool, method: &'a str, request: &'a [u8]) -> Self {
        Self {
            attempts: Attempts::new(pool),
            method,
            request,
            trace: None,
        }
    }

    /// As [`Call::trace`](crate::Call::trace).
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.trace = Some(context);
        self
    }
}

impl Future for PoolNotification<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (method, request, trace) = (this.method, this.request, this.trace);
        this.attempts.poll(
            cx,
            |client, _| {
                let notification = client.notify_bytes(method, request);
                Ok(match trace {
                    Some(trace) => notification.trace(trace),
                    None => notification,
                })
            },
            |notification, cx| Pin::new(notification).poll(cx),
        )
    }
}
