//! Messages, blocking.

use super::messages::{MessageRx, MessageTx, Received};
use super::open::{Open, Place, WaitStats};
use crate::client::ClientBuilder;
use crate::error::{Identity, Result, Small};
use crate::link::{Link, Outgoing, Waited, Waiter};
use crate::settings::{Spin, Transport};
use std::time::{Duration, Instant};

/// A connection that carries messages in both directions, for threads.
///
/// Messages are byte strings of any length up to the receiver's limit. They arrive whole, in the
/// order in which they were sent. One that does not fit into the ring travels in pieces.
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// use nearwire::{Connection, Listener};
///
/// let listener = Listener::bind("chat")?;
/// std::thread::spawn(|| -> nearwire::Result<()> {
///     let mut client = Connection::connect("chat")?;
///     client.send(b"hello")
/// });
/// let mut connection = listener.accept()?;
/// let mut message = Vec::new();
/// while connection.recv(&mut message)? {
///     println!("{} bytes from process {}", message.len(), connection.peer().pid);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    receiver: Receiver,
}

/// The sending half of a [`Connection`]. Dropping it finishes this direction, and waits for nothing:
/// over the socket the end itself may be sent by another thread then, which ends with the process.
/// Who exits [finishes](Self::finish) first.
#[derive(Debug)]
pub struct Sender {
    half: MessageTx,
    waiter: Waiter,
}

/// The receiving half of a [`Connection`].
#[derive(Debug)]
pub struct Receiver {
    half: MessageRx,
    waiter: Waiter,
    /// Where messages of a batch are copied to.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to a [`Listener`](super::Listener) with the default settings. Blocks for 5 s at
    /// most.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_messages_blocking`].
    pub fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect_messages_blocking(name)
    }

    pub(crate) fn new(link: Box<Link>, spin: Spin, place: Option<Place>) -> Self {
        let Link { mut tx, rx, shared } = *link;
        let open = Open::new(shared.clone(), place);
        tx.set_patient(true);
        Self {
            sender: Sender {
                half: MessageTx::new(tx, open.clone()),
                waiter: Waiter::new(shared.clone(), spin),
            },
            receiver: Receiver {
                half: MessageRx::new(rx, open),
                waiter: Waiter::new(shared, spin),
                buffer: Vec::new(),
            },
        }
    }

    /// As [`Sender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        self.sender.send(message)
    }

    /// As [`Sender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.sender.try_send(message)
    }

    /// As [`Sender::send_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<usize> {
        self.sender.send_batch(messages)
    }

    /// As [`Receiver::recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv(&mut self, message: &mut Vec<u8>) -> Result<bool> {
        self.receiver.recv(message)
    }

    /// As [`Receiver::try_recv`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_recv(&mut self, message: &mut Vec<u8>) -> Result<Received> {
        self.receiver.try_recv(message)
    }

    /// As [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&mut self, message: &mut Vec<u8>, timeout: Duration) -> Result<Received> {
        self.receiver.recv_timeout(message, timeout)
    }

    /// As [`Receiver::recv_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_batch(&mut self, max: usize, visit: impl FnMut(&[u8])) -> Result<usize> {
        self.receiver.recv_batch(max, visit)
    }

    /// As [`Sender::finish`].
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// The two halves, for two threads.
    pub fn split(self) -> (Sender, Receiver) {
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

impl Sender {
    /// Sends a message. Blocks while the ring is full, which for a message larger than the ring
    /// means: until the peer has received most of it.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) before anything is sent, if the message is
    /// above the peer's limit; [`Error::Closed`](crate::Error::Closed) if the peer is gone or this
    /// side has finished; [`Error::Protocol`](crate::Error::Protocol) if the peer broke the
    /// protocol.
    // Not left to the compiler: a call's spills are stores, and those are dear here (docs: tuning).
    #[inline(always)]
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        if !self.half.push_plain(message)? {
            self.send_slowly(message)?;
        }
        Ok(())
    }

    /// Sends a message if there is space for it in the ring now; otherwise sends nothing and
    /// returns false. Never blocks.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`Error::TooLarge`](crate::Error::TooLarge) also for a message
    /// above [`max_try_send`](Self::max_try_send).
    #[inline]
    pub fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.half.check_plain(message)?;
        self.half.tx.set_patient(false);
        let pushed = self.half.push_plain(message);
        self.half.tx.set_patient(true);
        Ok(pushed?)
    }

    /// Sends messages, made visible to the peer together: about every quarter of the ring, and at
    /// the end. Blocks while the ring is full. Returns how many there were.
    ///
    /// # Errors
    /// As [`send`](Self::send); the messages before the one that failed are sent.
    pub fn send_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<usize> {
        let mut count = 0;
        let outcome = self.stage_batch(messages, &mut count);
        self.half.tx.publish();
        outcome?;
        Ok(count)
    }

    fn stage_batch<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
        count: &mut usize,
    ) -> Small<()> {
        // So that the peer receives while the rest is being staged.
        let portion = self.half.tx.capacity() as u64 / 4;
        let mut publish_at = self.half.tx.position() + portion;
        for message in messages {
            let message = message.as_ref();
            if !self.half.stage_plain(message)? {
                self.stage_slowly(message)?;
            }
            *count += 1;
            if self.half.tx.position() >= publish_at {
                self.half.tx.publish();
                publish_at = self.half.tx.position() + portion;
            }
        }
        Ok(())
    }

    /// Ends this direction: the peer receives everything that was sent and then the end. Needs no
    /// space in the ring, and blocks only over the socket, until the system has all of it, so that
    /// this process may exit. Sending afterwards is an error.
    pub fn finish(&mut self) {
        self.half.finish();
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

    #[cold]
    #[inline(never)]
    fn send_slowly(&mut self, message: &[u8]) -> Small<()> {
        self.stage_slowly(message)?;
        self.half.tx.publish();
        Ok(())
    }

    /// A message that needs several records, or finds the ring full.
    #[cold]
    #[inline(never)]
    fn stage_slowly(&mut self, message: &[u8]) -> Small<()> {
        let mut outgoing = self.half.outgoing(message)?;
        let staged = self.stage_waiting(&mut outgoing);
        if staged.is_err() && outgoing.has_begun() {
            self.half.cut_off();
        }
        staged
    }

    fn stage_waiting(&mut self, outgoing: &mut Outgoing<&[u8]>) -> Small<()> {
        while !outgoing.stage(&mut self.half.tx)? {
            self.half.tx.publish();
            let space = self.half.space(outgoing.next_len());
            let waited = self.waiter.wait(space, None)?;
            if waited != Waited::Ready || self.half.open.is_closed() {
                return Err(self.half.open.closed_error().into());
            }
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.half.tx.set_patient(false);
        self.finish();
    }
}

impl Receiver {
    /// Receives the next message into `message`, whose content it replaces; a buffer that is used
    /// again and again allocates only for messages larger than any before. Returns false, and
    /// leaves the buffer alone, if the peer has finished. Blocks until one of the two.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed) if the peer is gone without having finished, after
    /// everything that it had sent; [`Error::Protocol`](crate::Error::Protocol) if it broke the
    /// protocol. On an error the buffer's content is unspecified.
    #[inline]
    pub fn recv(&mut self, message: &mut Vec<u8>) -> Result<bool> {
        Ok(self.receive(message, None)?.is_message())
    }

    /// Receives the next message if it is there. Never blocks. Who does nothing but this in a loop
    /// takes a processor; [`recv`](Self::recv) is faster and sleeps when it should.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn try_recv(&mut self, message: &mut Vec<u8>) -> Result<Received> {
        Ok(self.half.try_take(message)?)
    }

    /// Receives the next message. Blocks for `timeout` at most.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, message: &mut Vec<u8>, timeout: Duration) -> Result<Received> {
        // A time that no clock can express is for ever.
        let deadline = Instant::now().checked_add(timeout);
        Ok(self.receive(message, deadline)?)
    }

    /// Hands messages to `visit`: waits for the first, then takes what else is there, `max` at
    /// most. Returns how many; 0 if the peer has finished (or `max` is 0).
    ///
    /// # Errors
    /// As [`recv`](Self::recv). What was visited before is received.
    pub fn recv_batch(&mut self, max: usize, mut visit: impl FnMut(&[u8])) -> Result<usize> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let count = self.visit_batch(max, &mut buffer, &mut visit);
        self.buffer = buffer;
        count
    }

    fn visit_batch(
        &mut self,
        max: usize,
        buffer: &mut Vec<u8>,
        visit: &mut impl FnMut(&[u8]),
    ) -> Result<usize> {
        if max == 0 || !self.recv(buffer)? {
            return Ok(0);
        }
        visit(buffer);
        let mut count = 1;
        while count < max && self.half.take(buffer)? {
            visit(buffer);
            count += 1;
        }
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

    #[inline(always)]
    fn receive(&mut self, message: &mut Vec<u8>, deadline: Option<Instant>) -> Small<Received> {
        if self.half.take(message)? {
            return Ok(Received::Message);
        }
        self.wait_and_receive(message, deadline)
    }

    fn wait_and_receive(
        &mut self,
        message: &mut Vec<u8>,
        deadline: Option<Instant>,
    ) -> Small<Received> {
        loop {
            if self.half.is_finished()? {
                return Ok(Received::Finished);
            }
            match self.waiter.wait(self.half.data(), deadline)? {
                Waited::Ready => {}
                Waited::TimedOut => return Ok(Received::Nothing),
                Waited::Closed => return self.half.take_last(message),
            }
            if self.half.take(message)? {
                return Ok(Received::Message);
            }
        }
    }
}
