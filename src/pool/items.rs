//! Streams of items on a pool.

use super::Pool;
use super::call::Attempts;
use crate::client::ByteItems;
use crate::error::{Error, Result};
use crate::proto::frame::TraceContext;
use futures_core::Stream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A stream of byte strings from the server; see [`Pool::stream_bytes`]. Dropping it cancels the
/// call.
#[derive(Debug)]
#[must_use = "a stream is asked for when it is polled"]
pub struct PoolByteItems<'a> {
    attempts: Attempts<ByteItems>,
    method: &'a str,
    /// Or why there is none, given once.
    request: Result<Vec<u8>, Option<Error>>,
    trace: Option<TraceContext>,
    over: bool,
}

impl<'a> PoolByteItems<'a> {
    pub(super) fn new(pool: Pool, method: &'a str, request: Result<Vec<u8>>) -> Self {
        Self {
            attempts: Attempts::new(pool),
            method,
            request: request.map_err(Some),
            trace: None,
            over: false,
        }
    }

    /// Gives the whole call this much time from now on, waiting for a connection included.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.attempts.set_deadline(time);
        self
    }

    /// As [`PoolCall::idempotent`](super::PoolCall::idempotent), until the first item has come.
    pub fn idempotent(mut self) -> Self {
        self.attempts.set_idempotent();
        self
    }

    /// As [`PoolCall::trace`](super::PoolCall::trace), for the whole call.
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.trace = Some(context);
        self
    }

    /// The next item; `None` when the server has ended the stream. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for PoolByteItems<'_> {
    type Item = Result<Vec<u8>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let request = match &mut this.request {
            Ok(request) => request,
            Err(error) => {
                this.over = true;
                return Poll::Ready(error.take().map(Err));
            }
        };
        let item = ready!(this.attempts.poll(
            cx,
            |client, left| {
                let mut items = client.stream_bytes(this.method, request);
                if let Some(left) = left {
                    items = items.deadline(left);
                }
                if let Some(trace) = this.trace {
                    items = items.trace(trace);
                }
                Ok(items)
            },
            |items, cx| Pin::new(items).poll_next(cx).map(Option::transpose),
        ));
        this.over = !matches!(item, Ok(Some(_)));
        if this.over {
            this.attempts.end();
        }
        Poll::Ready(item.transpose())
    }
}

/// A stream of serde types from the server; see [`Pool::stream`].
#[cfg(feature = "serde")]
#[derive(Debug)]
#[must_use = "a stream is asked for when it is polled"]
pub struct PoolItems<'a, R> {
    bytes: PoolByteItems<'a>,
    item: std::marker::PhantomData<fn() -> R>,
}

#[cfg(feature = "serde")]
impl<'a, R: serde::de::DeserializeOwned> PoolItems<'a, R> {
    pub(super) fn new(
        pool: Pool,
        method: &'a str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Self {
        let mut payload = Vec::new();
        let encoded = crate::typed::append_request(&request, &mut payload);
        Self {
            bytes: PoolByteItems::new(pool, method, encoded.map(|()| payload)),
            item: std::marker::PhantomData,
        }
    }

    /// As [`PoolByteItems::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.bytes = self.bytes.deadline(time);
        self
    }

    /// As [`PoolByteItems::idempotent`].
    pub fn idempotent(mut self) -> Self {
        self.bytes = self.bytes.idempotent();
        self
    }

    /// As [`PoolByteItems::trace`].
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.bytes = self.bytes.trace(context);
        self
    }

    /// As [`PoolByteItems::next`].
    pub async fn next(&mut self) -> Option<Result<R>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

#[cfg(feature = "serde")]
impl<R: serde::de::DeserializeOwned> Stream for PoolItems<'_, R> {
    type Item = Result<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.bytes).poll_next(cx));
        Poll::Ready(item.map(|item| item.and_then(|bytes| crate::typed::reply(&bytes))))
    }
}
