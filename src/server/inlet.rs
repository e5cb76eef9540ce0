//! The handler's end of a stream that the caller sends.

use crate::error::Status;
use crate::proto::credit::{CreditBalance, credit_cost};
use crate::worker::{Address, CallEvent};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Credits that a server grants each stream of a caller in advance: 64 items or 4 MiB.
pub(crate) const STREAM_CREDITS: u32 = 64;

/// Items that arrived and were not taken. Shared by the worker, which fills it, and the handler.
#[derive(Debug)]
pub(crate) struct Inlet(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    items: VecDeque<Vec<u8>>,
    /// What the caller may still send.
    balance: CreditBalance,
    /// Credits of items that were taken, not yet granted again.
    taken: u32,
    /// How the stream ended; `Ok` for an orderly end. Told to the handler once.
    end: Option<Result<(), Status>>,
    waiting: Option<Waker>,
    /// Whether the handler's end is gone. Items are dropped then, and paid back at once.
    abandoned: bool,
}

impl Inlet {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner {
            items: VecDeque::new(),
            balance: CreditBalance::new(STREAM_CREDITS),
            taken: 0,
            end: None,
            waiting: None,
            abandoned: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// An item has arrived. False if the caller had no credits for it.
    pub(crate) fn push(&self, item: Vec<u8>) -> bool {
        let waiting = {
            let mut inner = self.lock();
            if !inner.balance.spend(item.len() as u64) {
                return false;
            }
            if inner.abandoned {
                // Nobody takes it; the caller finds out when the handler ends.
                inner.balance.grant(cost(&item));
                return true;
            }
            if inner.end.is_none() {
                inner.items.push_back(item);
            }
            inner.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
        true
    }

    /// Nothing more comes. The first end stays.
    pub(crate) fn end(&self, end: Result<(), Status>) {
        let waiting = {
            let mut inner = self.lock();
            inner.end.get_or_insert(end);
            inner.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Books credits that are about to be sent to the caller. False if it needs none any more.
    pub(crate) fn grant(&self, credits: u32) -> bool {
        let mut inner = self.lock();
        inner.balance.grant(credits);
        inner.end.is_none()
    }
}

fn cost(item: &[u8]) -> u32 {
    u32::try_from(credit_cost(item.len() as u64)).unwrap_or(u32::MAX)
}

/// Receives the items of a stream that the caller sends, in order.
///
/// Taking items lets the caller send more: it is never more than 64 items or 4 MiB ahead. A handler
/// that returns without having taken all ends the call nevertheless.
#[derive(Debug)]
pub struct ByteItemReceiver {
    inlet: Arc<Inlet>,
    address: Address,
}

impl ByteItemReceiver {
    pub(crate) fn new(inlet: Arc<Inlet>, address: Address) -> Self {
        Self { inlet, address }
    }

    /// The next item; `None` when the caller has ended its stream. Cancel-safe: an item is taken
    /// only if it is returned.
    ///
    /// An error is the caller's reason for not ending the stream in an orderly way, for example
    /// [`Code::CANCELLED`](crate::Code::CANCELLED); afterwards there is `None`.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, Status>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Status>>> {
        let mut inner = self.inlet.lock();
        if let Some(item) = inner.items.pop_front() {
            inner.taken = inner.taken.saturating_add(cost(&item));
            // Half the window at a time: few frames, and the caller never runs dry meanwhile.
            if inner.taken >= STREAM_CREDITS / 2 && inner.end.is_none() {
                let credits = std::mem::take(&mut inner.taken);
                drop(inner);
                self.address.post(CallEvent::Credits(credits));
            }
            return Poll::Ready(Some(Ok(item)));
        }
        match &mut inner.end {
            Some(end) => match std::mem::replace(end, Ok(())) {
                Ok(()) => Poll::Ready(None),
                Err(status) => Poll::Ready(Some(Err(status))),
            },
            None => {
                inner.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl futures_core::Stream for ByteItemReceiver {
    type Item = Result<Vec<u8>, Status>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ByteItemReceiver::poll_next(self.get_mut(), cx)
    }
}

impl Drop for ByteItemReceiver {
    fn drop(&mut self) {
        let credits = {
            let mut inner = self.inlet.lock();
            inner.abandoned = true;
            let waiting: u32 = inner.items.drain(..).map(|item| cost(&item)).sum();
            inner.taken.saturating_add(waiting)
        };
        if credits > 0 {
            self.address.post(CallEvent::Credits(credits));
        }
    }
}

/// Receives serde types from the caller; see [`ByteItemReceiver`].
#[cfg(feature = "serde")]
#[derive(Debug)]
pub struct ItemReceiver<T> {
    bytes: ByteItemReceiver,
    item: std::marker::PhantomData<fn() -> T>,
}

#[cfg(feature = "serde")]
impl<T: serde::de::DeserializeOwned> ItemReceiver<T> {
    pub(crate) fn new(bytes: ByteItemReceiver) -> Self {
        Self {
            bytes,
            item: std::marker::PhantomData,
        }
    }

    /// As [`ByteItemReceiver::next`]; and
    /// [`Code::INVALID_ARGUMENT`](crate::Code::INVALID_ARGUMENT) for an item that is not a `T`.
    pub async fn next(&mut self) -> Option<Result<T, Status>> {
        let item = self.bytes.next().await?;
        Some(item.and_then(|bytes| crate::typed::request(&bytes)))
    }
}
