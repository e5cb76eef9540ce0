//! Calls with streams: what the server sends, what the caller sends.

use super::Core;
use super::place::{Place, Progress, Request};
use super::state::State;
use crate::error::{Error, Result, Status};
use crate::proto::frame::TraceContext;
use crate::proto::handshake::CallShape;
use crate::proto::status::Code;
use crate::sync::{Mutex, MutexGuard};
use futures_core::Stream;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::task::coop::poll_proceed;

/// A call whose two directions may be held by two tasks. It is given up with the last of them.
///
/// Its lock is taken before the connection's.
#[derive(Debug, Clone)]
pub(super) struct StreamCall(Arc<Mutex<Place<'static>>>);

impl StreamCall {
    pub(super) fn new(
        core: Arc<Core>,
        request: Result<Request<'static>>,
        shape: CallShape,
    ) -> Self {
        Self(Arc::new(Mutex::new(Place::new(core, request, shape))))
    }

    fn lock(&self) -> MutexGuard<'_, Place<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_deadline(&self, time: Duration) {
        self.lock().progress.deadline = Instant::now().checked_add(time);
    }

    fn set_trace(&self, context: TraceContext) {
        self.lock().set_trace(context);
    }

    /// Has the call begun, then does something with it. An error ends the call; so does the
    /// deadline, while `act` is pending.
    fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Progress<'static>, &mut State, usize, &mut Context<'_>) -> Poll<Result<T>>,
    ) -> Poll<Result<T>> {
        let coop = ready!(poll_proceed(cx));
        let mut place = self.lock();
        let Place { core, progress } = &mut *place;
        let mut state = core.lock();
        let polled = match progress.poll_begin(&mut state, cx) {
            Poll::Ready(Ok(key)) => act(progress, &mut state, key, cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Error::from(error))),
            Poll::Pending => Poll::Pending,
        };
        let polled = match polled {
            Poll::Pending => progress
                .poll_deadline(cx)
                .map(|error| Err(Error::from(error))),
            ready => ready,
        };
        if let Poll::Ready(Err(error)) = &polled {
            // Whichever half asks first, both are told the same.
            progress.fail(&mut state, error);
        }
        core.unlock(state);
        if polled.is_ready() {
            coop.made_progress();
        }
        polled
    }

    /// How the call ended.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<u8>>> {
        self.poll_with(cx, |progress, state, key, cx| {
            let Some(end) = state.claim(key) else {
                state.watch(key, cx);
                state.wake_driver();
                return Poll::Pending;
            };
            progress.leave_ended(state);
            Poll::Ready(end.map_err(Error::from))
        })
    }
}

/// A stream of byte strings from the server; see [`Client::stream_bytes`](super::Client::stream_bytes).
#[derive(Debug)]
#[must_use = "a stream is asked for when it is polled"]
pub struct ByteItems {
    call: StreamCall,
    over: bool,
}

impl ByteItems {
    pub(super) fn new(call: StreamCall) -> Self {
        Self { call, over: false }
    }

    /// Gives the whole call this much time from now on, as [`Call::deadline`](super::Call::deadline)
    /// does. Has an effect before the first item is asked for.
    pub fn deadline(self, time: Duration) -> Self {
        self.call.set_deadline(time);
        self
    }

    /// Says which trace the whole call belongs to, as [`Call::trace`](super::Call::trace) does.
    pub fn trace(self, context: TraceContext) -> Self {
        self.call.set_trace(context);
        self
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
        let item = ready!(this.call.poll_with(cx, |progress, state, key, cx| {
            if let Some(item) = state.take_item(key) {
                return Poll::Ready(Ok(Some(item)));
            }
            let Some(end) = state.claim(key) else {
                state.watch(key, cx);
                state.wake_driver();
                return Poll::Pending;
            };
            progress.leave_ended(state);
            Poll::Ready(end.map(|_| None).map_err(Error::from))
        }));
        this.over = !matches!(item, Ok(Some(_)));
        Poll::Ready(item.transpose())
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

    /// As [`ByteItems::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.bytes = self.bytes.deadline(time);
        self
    }

    /// As [`ByteItems::trace`].
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.bytes = self.bytes.trace(context);
        self
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

/// The caller's stream of byte strings to the server, in a call that has one in either direction;
/// see [`Client::bidirectional_bytes`](super::Client::bidirectional_bytes).
///
/// Dropping it without [`finish`](Self::finish) tells the handler that the stream was cut off
/// ([`Code::CANCELLED`](crate::Code::CANCELLED)).
#[derive(Debug)]
pub struct ByteItemSink {
    call: StreamCall,
    finished: bool,
}

impl ByteItemSink {
    pub(super) fn new(call: StreamCall) -> Self {
        Self {
            call,
            finished: false,
        }
    }

    /// Sends an item. Waits while the server is 64 items or 4 MiB behind; never blocks the thread.
    /// Cancel-safe: if the future is dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for an item above the server's limit. An item for a call that has ended
    /// is dropped: how it ended, the other direction says, or the reply.
    pub async fn send(&mut self, item: impl Into<Vec<u8>>) -> Result<()> {
        let mut item = item.into();
        let (len, limit) = (item.len() as u64, {
            let place = self.call.lock();
            place.core.shared.terms.max_message_out
        });
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        std::future::poll_fn(|cx| {
            if self.call.lock().progress.is_over() {
                // Who sends on and on must still let other tasks run.
                return poll_proceed(cx).map(|coop| {
                    coop.made_progress();
                    Ok(())
                });
            }
            self.call.poll_with(cx, |_, state, key, cx| {
                let sent = state.poll_send_item(key, &mut item, cx);
                sent.map(|sent| sent.map_err(Error::from))
            })
        })
        .await
    }

    /// Ends the stream in an orderly way. The call goes on until the server ends it.
    ///
    /// # Errors
    /// If the call could not begin; otherwise as [`send`](Self::send).
    pub async fn finish(mut self) -> Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> Result<()> {
        self.finished = true;
        let status = Status::new(Code::OK, "");
        std::future::poll_fn(|cx| {
            if self.call.lock().progress.is_over() {
                return Poll::Ready(Ok(()));
            }
            self.call.poll_with(cx, |_, state, key, _| {
                state.finish_upload(key, &status);
                Poll::Ready(Ok(()))
            })
        })
        .await
    }
}

impl Drop for ByteItemSink {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let place = self.call.lock();
        if let Some(key) = place.progress.key() {
            let core = &place.core;
            let mut state = core.lock();
            let text = "the caller dropped its stream";
            state.finish_upload(key, &Status::new(Code::CANCELLED, text));
            core.unlock(state);
        }
    }
}

/// A call that sends a stream of byte strings and gets one reply; see
/// [`Client::client_stream_bytes`](super::Client::client_stream_bytes). Dropping it cancels the
/// call.
#[derive(Debug)]
#[must_use = "the call begins with the first item, or when it is finished"]
pub struct ByteUpload(ByteItemSink);

impl ByteUpload {
    pub(super) fn new(call: StreamCall) -> Self {
        Self(ByteItemSink::new(call))
    }

    /// As [`ByteItems::deadline`].
    pub fn deadline(self, time: Duration) -> Self {
        self.0.call.set_deadline(time);
        self
    }

    /// As [`ByteItems::trace`].
    pub fn trace(self, context: TraceContext) -> Self {
        self.0.call.set_trace(context);
        self
    }

    /// As [`ByteItemSink::send`].
    ///
    /// # Errors
    /// As [`ByteItemSink::send`].
    pub async fn send(&mut self, item: impl Into<Vec<u8>>) -> Result<()> {
        self.0.send(item).await
    }

    /// Ends the stream and waits for the reply.
    ///
    /// # Errors
    /// As [`Client::call_bytes`](super::Client::call_bytes).
    pub async fn finish(mut self) -> Result<Vec<u8>> {
        self.0.end().await?;
        std::future::poll_fn(|cx| self.0.call.poll_end(cx)).await
    }
}

/// [`ByteItemSink`] for serde types.
#[cfg(feature = "serde")]
#[derive(Debug)]
pub struct ItemSink<T> {
    bytes: ByteItemSink,
    item: std::marker::PhantomData<fn(T)>,
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> ItemSink<T> {
    pub(super) fn new(bytes: ByteItemSink) -> Self {
        Self {
            bytes,
            item: std::marker::PhantomData,
        }
    }

    /// As [`ByteItemSink::send`].
    ///
    /// # Errors
    /// As [`ByteItemSink::send`], and [`Error::Codec`] if the item cannot be encoded.
    pub async fn send(&mut self, item: &T) -> Result<()> {
        let mut bytes = Vec::new();
        crate::typed::append_request(item, &mut bytes)?;
        self.bytes.send(bytes).await
    }

    /// As [`ByteItemSink::finish`].
    ///
    /// # Errors
    /// As [`ByteItemSink::finish`].
    pub async fn finish(self) -> Result<()> {
        self.bytes.finish().await
    }
}

/// [`ByteUpload`] for serde types.
#[cfg(feature = "serde")]
#[derive(Debug)]
#[must_use = "the call begins with the first item, or when it is finished"]
pub struct Upload<T, R> {
    bytes: ByteUpload,
    types: std::marker::PhantomData<fn(T) -> R>,
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize, R: serde::de::DeserializeOwned> Upload<T, R> {
    pub(super) fn new(bytes: ByteUpload) -> Self {
        Self {
            bytes,
            types: std::marker::PhantomData,
        }
    }

    /// As [`ByteItems::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.bytes = self.bytes.deadline(time);
        self
    }

    /// As [`ByteItems::trace`].
    pub fn trace(mut self, context: TraceContext) -> Self {
        self.bytes = self.bytes.trace(context);
        self
    }

    /// As [`ItemSink::send`].
    ///
    /// # Errors
    /// As [`ItemSink::send`].
    pub async fn send(&mut self, item: &T) -> Result<()> {
        let mut bytes = Vec::new();
        crate::typed::append_request(item, &mut bytes)?;
        self.bytes.send(bytes).await
    }

    /// As [`ByteUpload::finish`].
    ///
    /// # Errors
    /// As [`ByteUpload::finish`], and [`Error::Codec`] if the reply is not an `R`.
    pub async fn finish(self) -> Result<R> {
        crate::typed::reply(&self.bytes.finish().await?)
    }
}
