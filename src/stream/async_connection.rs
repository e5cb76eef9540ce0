//! Messages, for tasks.

use super::messages::{MessageRx, MessageTx, Received};
use super::open::{Open, Place, WaitStats};
use crate::client::ClientBuilder;
use crate::error::{Identity, Result, Small};
use crate::link::{AsyncWaiter, Link, Outgoing, Waited};
use crate::settings::{Spin, Transport};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use tokio::task::coop;

/// A connection that carries messages in both directions, for tasks.
///
/// The async counterpart of [`Connection`](crate::Connection); the two kinds can be at the two ends
/// of a connection. No method blocks the thread: a waiting task looks at the ring in short slices
/// for the [`Spin`] budget, letting other tasks run in between, and then sleeps in the reactor of
/// the runtime that the connection was made in.
///
/// Every future can be dropped at any time. A message whose `send` is dropped is either sent whole
/// or not at all; see [`AsyncSender::send`].
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::AsyncConnection;
///
/// let mut connection = AsyncConnection::connect("chat").await?;
/// connection.send(b"hello").await?;
/// let mut answer = Vec::new();
/// while connection.recv(&mut answer).await? {
///     println!("{} bytes", answer.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncConnection {
    sender: AsyncSender,
    receiver: AsyncReceiver,
}

/// The sending half of an [`AsyncConnection`]. Dropping it finishes this direction, and waits for
/// nothing: over the socket what the system has no room for is sent by another thread then, which
/// ends with the process. Who exits [finishes](Self::finish) first.
#[derive(Debug)]
pub struct AsyncSender {
    half: MessageTx,
    waiter: AsyncWaiter,
    /// The rest of a message whose future was dropped when a part was on its way.
    rest: Option<Outgoing<Vec<u8>>>,
}

/// The receiving half of an [`AsyncConnection`].
#[derive(Debug)]
pub struct AsyncReceiver {
    half: MessageRx,
    waiter: AsyncWaiter,
    /// Where messages of a batch are copied to.
    buffer: Vec<u8>,
}

impl AsyncConnection {
    /// Connects to a [`Listener`](crate::Listener) with the default settings. Takes 5 s at most.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_messages`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect_messages(name).await
    }

    /// Must be called inside the runtime whose reactor is to watch the connection.
    pub(crate) fn new(link: Box<Link>, spin: Spin, place: Option<Place>) -> Result<Self> {
        let Link { tx, rx, shared } = *link;
        let open = Open::new(shared.clone(), place);
        Ok(Self {
            sender: AsyncSender {
                half: MessageTx::new(tx, open.clone()),
                waiter: AsyncWaiter::new(shared.clone(), spin)?,
                rest: None,
            },
            receiver: AsyncReceiver {
                half: MessageRx::new(rx, open),
                waiter: AsyncWaiter::new(shared, spin)?,
                buffer: Vec::new(),
            },
        })
    }

    /// As [`AsyncSender::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        self.sender.send(message).await
    }

    /// As [`AsyncSender::try_send`].
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.sender.try_send(message)
    }

    /// As [`AsyncSender::send_batch`].
    ///
    /// # Errors
    /// As there.
    pub async fn send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<usize> {
        self.sender.send_batch(messages).await
    }

    /// As [`AsyncReceiver::recv`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, message: &mut Vec<u8>) -> Result<bool> {
        self.receiver.recv(message).await
    }

    /// As [`AsyncReceiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    pub fn try_recv(&mut self, message: &mut Vec<u8>) -> Result<Received> {
        self.receiver.try_recv(message)
    }

    /// As [`AsyncReceiver::recv_batch`].
    ///
    /// # Errors
    /// As there.
    pub async fn recv_batch(&mut self, max: usize, visit: impl FnMut(&[u8])) -> Result<usize> {
        self.receiver.recv_batch(max, visit).await
    }

    /// As [`AsyncSender::finish`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish(&mut self) -> Result<()> {
        self.sender.finish().await
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (AsyncSender, AsyncReceiver) {
        (self.sender, self.receiver)
    }

    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.sender.peer()
    }

    /// What carries the frames.
    pub fn transport(&self) -> Transport {
        self.sender.half.open.transport()
    }

    /// What the peer calls itself; empty if it said nothing.
    pub fn peer_label(&self) -> &str {
        self.sender.half.open.peer_label()
    }

    /// The largest message that the peer takes, in bytes.
    pub fn max_message(&self) -> usize {
        self.sender.max_message()
    }

    /// How both halves have waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        self.sender.wait_stats().and(self.receiver.wait_stats())
    }
}

impl AsyncSender {
    /// Sends a message; waits while the ring is full.
    ///
    /// # Cancellation
    /// If the future is dropped, the message is not sent, or sent whole: of one that travels in
    /// pieces and is partly on its way, the rest is copied and goes out ahead of whatever this half
    /// does next ([`flush`](Self::flush) does nothing else). If that never happens the connection
    /// ends with an error for the peer.
    ///
    /// # Errors
    /// As [`Sender::send`](super::Sender::send).
    pub async fn send(&mut self, message: &[u8]) -> Result<()> {
        coop::consume_budget().await;
        if self.rest.is_some() || !self.half.stage_plain(message)? {
            self.stage(Some(message)).await?;
        }
        self.half.tx.publish();
        Ok(())
    }

    /// Sends a message if there is space for it in the ring now; otherwise sends nothing and
    /// returns false.
    ///
    /// # Errors
    /// As [`Sender::try_send`](super::Sender::try_send).
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.half.check_plain(message)?;
        let staged = self.stage_rest()? && self.half.stage_plain(message)?;
        self.half.tx.publish();
        Ok(staged)
    }

    /// Sends messages, made visible to the peer together: about every quarter of the ring, and at
    /// the end. Returns how many there were. If the future is dropped, so are the messages that
    /// were not sent yet.
    ///
    /// # Errors
    /// As [`send`](Self::send); the messages before the one that failed are sent.
    pub async fn send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<usize> {
        let batch = Batch(self);
        let sender = &mut *batch.0;
        let portion = sender.half.tx.capacity() as u64 / 4;
        let mut publish_at = sender.half.tx.position() + portion;
        let mut count = 0;
        for message in messages {
            let message = message.as_ref();
            if sender.rest.is_some() || !sender.half.stage_plain(message)? {
                sender.stage(Some(message)).await?;
            }
            count += 1;
            if sender.half.tx.position() >= publish_at {
                sender.half.tx.publish();
                publish_at = sender.half.tx.position() + portion;
                // Other tasks get their turn here if this one has had its share.
                coop::consume_budget().await;
            }
        }
        Ok(count)
    }

    /// Sends the rest of a message whose future was dropped, if there is any. Everything else is
    /// visible to the peer already.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn flush(&mut self) -> Result<()> {
        if self.rest.is_some() {
            self.stage(None).await?;
        }
        Ok(())
    }

    /// Ends this direction: the peer receives everything that was sent and then the end, even if
    /// this process exits as soon as this is ready. Waits if a `send` was dropped, and over the socket
    /// until the system has it all. Sending afterwards is an error.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn finish(&mut self) -> Result<()> {
        self.flush().await?;
        self.half.finish();
        poll_fn(|cx| self.waiter.poll_sent(cx)).await?;
        Ok(())
    }

    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// The largest message that the peer takes, in bytes.
    pub fn max_message(&self) -> usize {
        self.half.open.max_message_out()
    }

    /// The largest message that [`try_send`](Self::try_send) takes, in bytes: about half the ring.
    pub fn max_try_send(&self) -> usize {
        self.half.plain_max()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.tx.rings(), waiter.sleeps(), waiter.spins())
    }

    /// Stages what a dropped `send` left, and then a message. Waits while there is no space.
    async fn stage(&mut self, message: Option<&[u8]>) -> Small<()> {
        let outgoing = message.map(|m| self.half.outgoing(m)).transpose()?;
        let mut sending = Sending {
            sender: self,
            outgoing,
        };
        poll_fn(|cx| sending.poll(cx)).await
    }

    /// Stages what a dropped `send` left, as far as there is space. True if nothing is left.
    fn stage_rest(&mut self) -> Small<bool> {
        if let Some(rest) = &mut self.rest {
            if !rest.stage(&mut self.half.tx)? {
                return Ok(false);
            }
            self.rest = None;
        }
        Ok(true)
    }
}

impl Drop for AsyncSender {
    fn drop(&mut self) {
        if !matches!(self.stage_rest(), Ok(true)) {
            self.half.cut_off();
        }
        self.half.finish();
    }
}

/// Publishes what a batch has staged, however the batch ends.
struct Batch<'a>(&'a mut AsyncSender);

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.0.half.tx.publish();
    }
}

/// A message on its way, behind what an earlier one left.
struct Sending<'s, 'm> {
    sender: &'s mut AsyncSender,
    outgoing: Option<Outgoing<&'m [u8]>>,
}

impl Sending<'_, '_> {
    /// Ready when everything is staged.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Small<()>> {
        let polled = self.poll_staged(cx);
        if let Poll::Ready(Err(_)) = polled
            && self.sender.rest.is_none()
            && self.outgoing.take().is_some_and(|o| o.has_begun())
        {
            self.sender.half.cut_off();
        }
        polled
    }

    fn poll_staged(&mut self, cx: &mut Context<'_>) -> Poll<Small<()>> {
        loop {
            let sender = &mut *self.sender;
            if sender.half.open.is_closed() {
                return Poll::Ready(Err(sender.half.open.closed_error().into()));
            }
            let next_len = if !sender.stage_rest()? {
                sender.rest.as_ref().map_or(0, Outgoing::next_len)
            } else if let Some(outgoing) = &mut self.outgoing
                && !outgoing.stage(&mut sender.half.tx)?
            {
                outgoing.next_len()
            } else {
                self.outgoing = None;
                sender.waiter.disarm(sender.half.space(0));
                return Poll::Ready(Ok(()));
            };
            sender.half.tx.publish();
            let space = sender.half.space(next_len);
            if ready!(sender.waiter.poll_wait(cx, space))? == Waited::Closed {
                return Poll::Ready(Err(sender.half.open.closed_error().into()));
            }
        }
    }
}

impl Drop for Sending<'_, '_> {
    fn drop(&mut self) {
        if let Some(outgoing) = self.outgoing.take()
            && outgoing.has_begun()
        {
            self.sender.rest = Some(outgoing.map_payload(<[u8]>::to_vec));
        }
    }
}

impl AsyncReceiver {
    /// Receives the next message into `message`, whose content it replaces. Returns false, and
    /// leaves the buffer alone, if the peer has finished. If the future is dropped, no message is
    /// lost.
    ///
    /// # Errors
    /// As [`Receiver::recv`](super::Receiver::recv).
    pub async fn recv(&mut self, message: &mut Vec<u8>) -> Result<bool> {
        let received = poll_fn(|cx| self.poll_receive(cx, message)).await?;
        Ok(received.is_message())
    }

    /// Receives the next message if it is there.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self, message: &mut Vec<u8>) -> Result<Received> {
        Ok(self.half.try_take(message)?)
    }

    /// Hands messages to `visit`: waits for the first, then takes what else is there, `max` at
    /// most. Returns how many; 0 if the peer has finished (or `max` is 0). If the future is
    /// dropped, no message is lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv). What was visited before is received.
    pub async fn recv_batch(&mut self, max: usize, mut visit: impl FnMut(&[u8])) -> Result<usize> {
        if max == 0 {
            return Ok(0);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        if !self.recv(&mut buffer).await? {
            return Ok(0);
        }
        visit(&buffer);
        let mut count = 1;
        while count < max && self.half.take(&mut buffer)? {
            visit(&buffer);
            count += 1;
        }
        self.buffer = buffer;
        Ok(count)
    }

    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.rx.rings(), waiter.sleeps(), waiter.spins())
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Vec<u8>,
    ) -> Poll<Small<Received>> {
        let coop = ready!(coop::poll_proceed(cx));
        loop {
            if self.half.take(message)? {
                coop.made_progress();
                self.waiter.disarm(self.half.data());
                return Poll::Ready(Ok(Received::Message));
            }
            if self.half.is_finished()? {
                return Poll::Ready(Ok(Received::Finished));
            }
            if ready!(self.waiter.poll_wait(cx, self.half.data()))? == Waited::Closed {
                return Poll::Ready(self.half.take_last(message));
            }
        }
    }
}
