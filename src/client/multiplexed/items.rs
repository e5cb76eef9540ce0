//! Calls that are answered by a stream.

use super::Core;
use super::call::{Place, Request};
use crate::error::Result;
use crate::proto::handshake::CallShape;
use futures_core::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::coop::poll_proceed;

/// A stream of byte strings from the server; see [`Client::stream_bytes`](super::Client::stream_bytes).
#[derive(Debug)]
#[must_use = "a stream is asked for when it is polled"]
pub struct ByteItems {
    place: Place<'static>,
    over: bool,
}

impl ByteItems {
    pub(super) fn new(core: Arc<Core>, request: Result<Request<'static>>) -> Self {
        Self {
            place: Place::new(core, request, CallShape::ServerStream),
            over: false,
        }
    }

    /// The next item; `None` when the server has ended the stream. Cancel-safe: an item is taken
    /// only if it is returned.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ByteItems {
    type Item = Result<Vec<u8>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let coop = ready!(poll_proceed(cx));
        let core = this.place.core.clone();
        let mut state = core.lock();
        let polled = match this.place.poll_begin(&mut state, cx) {
            Poll::Ready(Ok(key)) => {
                if let Some(item) = state.take_item(key) {
                    Poll::Ready(Some(Ok(item)))
                } else if let Some(end) = state.claim(key) {
                    this.over = true;
                    this.place.leave_ended(&mut state);
                    Poll::Ready(end.err().map(Err))
                } else {
                    state.watch(key, cx);
                    state.wake_driver();
                    Poll::Pending
                }
            }
            Poll::Ready(Err(error)) => {
                this.over = true;
                this.place.leave(&mut state);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        };
        Core::unlock(state);
        if polled.is_ready() {
            coop.made_progress();
        }
        polled.map(|item| item.map(|item| item.map_err(crate::Error::from)))
    }
}

/// A stream of serde types from the server; see [`Client::stream`](super::Client::stream).
#[cfg(feature = "serde")]
#[derive(Debug)]
#[must_use = "a stream is asked for when it is polled"]
pub struct Items<R> {
    bytes: ByteItems,
    item: std::marker::PhantomData<fn() -> R>,
}

#[cfg(feature = "serde")]
impl<R: serde::de::DeserializeOwned> Items<R> {
    pub(super) fn new(bytes: ByteItems) -> Self {
        Self {
            bytes,
            item: std::marker::PhantomData,
        }
    }

    /// As [`ByteItems::next`].
    pub async fn next(&mut self) -> Option<Result<R>> {
        Some(
            self.bytes
                .next()
                .await?
                .and_then(|bytes| crate::typed::reply(&bytes)),
        )
    }
}

#[cfg(feature = "serde")]
impl<R: serde::de::DeserializeOwned> Stream for Items<R> {
    type Item = Result<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.bytes).poll_next(cx));
        Poll::Ready(item.map(|item| item.and_then(|bytes| crate::typed::reply(&bytes))))
    }
}
