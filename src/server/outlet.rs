//! The handler's end of a stream of items.

use crate::error::Status;
use crate::proto::credit::CreditBalance;
use crate::proto::status::Code;
use crate::worker::{Address, CallEvent};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// What the caller has paid for, and who waits for more. Shared by the handler and the worker.
#[derive(Debug)]
pub(crate) struct Account(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    balance: CreditBalance,
    waiting: Option<Waker>,
    closed: bool,
}

impl Account {
    pub(crate) fn new(credits: u32) -> Self {
        let balance = CreditBalance::new(credits);
        Self(Mutex::new(Inner {
            balance,
            waiting: None,
            closed: false,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The caller has taken items.
    pub(crate) fn grant(&self, credits: u32) {
        let waiting = {
            let mut inner = self.lock();
            inner.balance.grant(credits);
            inner.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The caller is gone.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll_spend(&self, len: u64, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut inner = self.lock();
        if inner.closed {
            return Poll::Ready(Err(Status::new(Code::CANCELLED, "the caller is gone")));
        }
        if inner.balance.spend(len) {
            return Poll::Ready(Ok(()));
        }
        inner.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Sends the items of a stream to the caller, in order.
///
/// Credits apply the brakes: [`send`](Self::send) waits while the caller has not taken what it was
/// sent, so a slow reader makes neither side's memory grow. The stream ends when the handler does.
#[derive(Debug)]
pub struct ByteItemSender {
    account: Arc<Account>,
    address: Address,
    /// The largest item that the caller accepts, in bytes.
    max_item: u64,
}

impl ByteItemSender {
    pub(crate) fn new(account: Arc<Account>, address: Address, max_item: u64) -> Self {
        Self {
            account,
            address,
            max_item,
        }
    }

    /// Sends an item. Waits until the caller has room for it; never blocks the thread.
    ///
    /// # Errors
    /// A [`Status`] to return from the handler with `?`: [`Code::CANCELLED`] if the caller is
    /// gone, [`Code::REPLY_TOO_LARGE`](crate::Code::REPLY_TOO_LARGE) if it does not accept items
    /// of this size.
    pub async fn send(&mut self, item: impl Into<Vec<u8>>) -> Result<(), Status> {
        let item = item.into();
        let len = item.len() as u64;
        if len > self.max_item {
            let text = format!(
                "the item has {len} bytes, the caller accepts {}",
                self.max_item
            );
            return Err(Status::new(Code::REPLY_TOO_LARGE, text));
        }
        std::future::poll_fn(|cx| self.account.poll_spend(len, cx)).await?;
        self.address.post(CallEvent::Item(item));
        Ok(())
    }
}

/// Sends serde types as the items of a stream; see [`ByteItemSender`].
#[cfg(feature = "serde")]
#[derive(Debug)]
pub struct ItemSender<T> {
    bytes: ByteItemSender,
    item: std::marker::PhantomData<fn(T)>,
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> ItemSender<T> {
    pub(crate) fn new(bytes: ByteItemSender) -> Self {
        Self {
            bytes,
            item: std::marker::PhantomData,
        }
    }

    /// As [`ByteItemSender::send`]; and [`Code::INTERNAL`](crate::Code::INTERNAL) if the item cannot
    /// be encoded.
    ///
    /// # Errors
    /// As said.
    pub async fn send(&mut self, item: &T) -> Result<(), Status> {
        let mut bytes = Vec::new();
        crate::typed::append_reply(item, &mut bytes)?;
        self.bytes.send(bytes).await
    }
}
