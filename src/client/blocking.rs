//! A client for one thread, without a runtime.

use super::ClientBuilder;
use super::methods::{self, Method, check_shape};
use super::pipeline::Pipeline;
use super::span;
use crate::error::{CloseReason, Error, Result, Small, Status, Violation};
use crate::info::ConnectionInfo;
use crate::link::{
    Incoming, KEPT_BUFFER, Link, Outgoing, Waited, Waiter, Wanted, next_incoming, stage_frame,
    stage_plain, whole_max,
};
use crate::metrics::{ClientMetrics, Latencies};
use crate::proto::frame::{Frame, Header, Kind, Tag, TraceContext};
use crate::proto::handshake::CallShape;
use crate::proto::reassembly::{Message, Reassembly};
use crate::settings::Spin;
use crate::stream::WaitStats;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// A connection to a server for calls from one thread at a time.
///
/// A call spins for a while and then sleeps until its reply is there ([`Spin`]). The steady path
/// of [`call_into`](Self::call_into) allocates nothing.
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// use nearwire::BlockingClient;
///
/// let mut client = BlockingClient::connect("text")?;
/// assert_eq!(client.call_bytes("reverse", b"wire")?, b"eriw");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BlockingClient {
    pub(super) link: Link,
    pub(super) waiter: Waiter,
    pub(super) reassembly: Reassembly,
    /// Where replies are copied to.
    pub(super) buffer: Vec<u8>,
    next_id: u64,
    pub(super) latencies: Latencies,
    /// A call that was given up and of which the server must hear before it hears of another: its
    /// request may be there in part.
    owed_cancel: Option<u64>,
    /// Whether the server has said that it shuts down.
    draining: bool,
    /// Goes with the calls that follow.
    pub(super) trace: Option<TraceContext>,
}

/// What ends a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// A reply, in so many bytes of the client's buffer.
    Buffered { id: u64, len: usize },
    /// A reply with a buffer of its own, or an error of the handler.
    Ended {
        id: u64,
        ended: Result<Vec<u8>, Status>,
    },
}

impl BlockingClient {
    /// Connects with the default settings. Blocks for 5 s at most.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_blocking`].
    pub fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect_blocking(name)
    }

    /// The settings to connect with.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(super) fn new(link: Link, spin: Spin, sampling: u32) -> Self {
        let limit = usize::try_from(link.shared.terms.max_message_in).unwrap_or(usize::MAX);
        Self {
            waiter: Waiter::new(link.shared.clone(), spin),
            reassembly: Reassembly::new(limit),
            buffer: Vec::new(),
            next_id: 1,
            latencies: Latencies::new(sampling),
            owed_cancel: None,
            draining: false,
            trace: None,
            link,
        }
    }

    /// Whether the server has said, as far as replies were taken, that it shuts down: connect anew
    /// for the next call.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Has the calls that follow, those of a [`Pipeline`] too, say which trace they belong to and which
    /// span is their parent; `None`: no more. To a server of a version that does not know of it
    /// nothing is said. Costs 32 bytes per request.
    pub fn set_trace(&mut self, trace: Option<TraceContext>) {
        let carried = self.link.shared.terms.carry_traces();
        self.trace = trace.filter(|_| carried);
    }

    /// Finds a method, to save the search by name in each call.
    ///
    /// # Errors
    /// [`Error::NoMethod`], with the names that there are.
    pub fn method(&self, name: &str) -> Result<Method> {
        methods::find(&self.link.shared, name)
    }

    /// The names of the server's methods.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.link
            .shared
            .terms
            .methods
            .iter()
            .map(|method| &*method.name)
    }

    /// What the connection is made of: who the server is, sizes, limits.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo::of(&self.link.shared)
    }

    /// How this client has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let wakeups = self.link.tx.rings() + self.link.rx.rings();
        WaitStats::new(wakeups, self.waiter.sleeps(), self.waiter.spins())
    }

    /// What this client has counted so far.
    pub fn metrics(&self) -> ClientMetrics {
        let (tx, rx) = (&self.link.tx, &self.link.rx);
        let (spins_paid, spins_wasted) = self.waiter.spins();
        ClientMetrics {
            calls: self.next_id - 1,
            in_flight: 0,
            bytes_sent: tx.bytes(),
            bytes_received: rx.bytes(),
            wakeups_sent: tx.rings() + rx.rings(),
            wakeups_saved: tx.publications().saturating_sub(tx.rings()),
            sleeps: self.waiter.sleeps(),
            spins_paid,
            spins_wasted,
            call_duration: self.latencies.histogram(),
            sampling: self.latencies.one_in(),
        }
    }

    /// Calls a method and waits for the reply, for as long as it takes.
    ///
    /// # Errors
    /// [`Error::NoMethod`] and [`Error::TooLarge`] before anything is sent; [`Error::Status`] if
    /// the handler says no; [`Error::Closed`] if the server is gone; [`Error::Protocol`] if it
    /// broke the protocol.
    pub fn call_bytes(&mut self, method: &str, request: &[u8]) -> Result<Vec<u8>> {
        let method = self.method(method)?;
        self.call_with(method, request, None, |reply| reply.into_owned())
    }

    /// Calls a method and waits for the reply until `timeout` is over.
    ///
    /// # Errors
    /// As [`call_bytes`](Self::call_bytes), and [`Error::DeadlineExceeded`]. The server is told the
    /// time left and stops working on the call when it is over.
    pub fn call_bytes_timeout(
        &mut self,
        method: &str,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>> {
        let method = self.method(method)?;
        self.call_with(method, request, Some(timeout), |reply| reply.into_owned())
    }

    /// Calls a method and puts the reply into `reply`, which is cleared first. A reply that comes in
    /// fragments, or has more than 64 KiB, arrives in another buffer, and the client keeps the old one for the next,
    /// if it has 4 MiB at most.
    ///
    /// # Errors
    /// As [`call_bytes`](Self::call_bytes).
    #[inline]
    pub fn call_into(&mut self, method: Method, request: &[u8], reply: &mut Vec<u8>) -> Result<()> {
        reply.clear();
        let spare = self.call_with(method, request, None, |bytes| match bytes {
            Cow::Borrowed(bytes) => {
                reply.extend_from_slice(bytes);
                None
            }
            // The caller's old buffer serves the next reply of the kind.
            Cow::Owned(bytes) => Some(std::mem::replace(reply, bytes)),
        })?;
        if let Some(spare) = spare
            && spare.capacity() <= KEPT_BUFFER
        {
            self.reassembly.recycle(spare);
        }
        Ok(())
    }

    /// Calls a method with a request and a reply of serde types.
    ///
    /// # Errors
    /// As [`call_bytes`](Self::call_bytes), and [`Error::Codec`] if the request cannot be encoded
    /// or the reply is not an `R`.
    #[cfg(feature = "serde")]
    pub fn call<Q, R>(&mut self, method: &str, request: &Q) -> Result<R>
    where
        Q: serde::Serialize + ?Sized,
        R: serde::de::DeserializeOwned,
    {
        let method = self.method(method)?;
        let mut bytes = Vec::new();
        crate::typed::append_request(&request, &mut bytes)?;
        self.call_with(method, &bytes, None, |bytes| crate::typed::reply(&bytes))?
    }

    /// Tells the server something and wants no answer, not even an error. Returns when the request
    /// is in the ring; blocks while that is full.
    ///
    /// The server takes what is in the ring though this client be dropped meanwhile, but then drops
    /// async handlers that have not ended. What a process had sent that was killed, or exited
    /// without dropping its client, may be lost.
    ///
    /// # Errors
    /// As [`call_bytes`](Self::call_bytes), what the handler says excepted.
    pub fn notify_bytes(&mut self, method: &str, request: &[u8]) -> Result<()> {
        let method = self.method(method)?;
        check_shape(&self.link.shared, method, CallShape::Unary)?;
        let id = self.fresh_id();
        let mut header = Header::request(method.number, id);
        header.trace = self.trace;
        header.one_way = true;
        self.send_slowly(header, request, None)
    }

    /// Starts to keep several calls in flight.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// One call; `take` gets the reply.
    #[inline]
    fn call_with<T>(
        &mut self,
        method: Method,
        request: &[u8],
        timeout: Option<Duration>,
        take: impl FnOnce(Cow<'_, [u8]>) -> T,
    ) -> Result<T> {
        if span::is_wanted() {
            self.call_in_span(method, request, timeout, take)
        } else {
            self.call_unseen(method, request, timeout, take)
        }
    }

    #[cold]
    #[inline(never)]
    fn call_in_span<T>(
        &mut self,
        method: Method,
        request: &[u8],
        timeout: Option<Duration>,
        take: impl FnOnce(Cow<'_, [u8]>) -> T,
    ) -> Result<T> {
        let id = self.next_id;
        let span = span::of_call(&self.link.shared, method, id, self.trace.as_ref());
        let outcome = span.in_scope(|| self.call_unseen(method, request, timeout, take));
        if let Err(error) = &outcome {
            span::note_failure(&span, error);
        }
        outcome
    }

    #[inline(always)]
    fn call_unseen<T>(
        &mut self,
        method: Method,
        request: &[u8],
        timeout: Option<Duration>,
        take: impl FnOnce(Cow<'_, [u8]>) -> T,
    ) -> Result<T> {
        check_shape(&self.link.shared, method, CallShape::Unary)?;
        let id = self.fresh_id();
        let began = self.latencies.begin();
        let mut deadline = None;
        if timeout.is_none() && self.trace.is_none() && self.stage_plain(method, id, request)? {
            self.link.tx.publish();
        } else {
            let mut header = Header::request(method.number, id);
            header.trace = self.trace;
            if let Some(timeout) = timeout {
                if timeout.is_zero() {
                    return Err(Error::DeadlineExceeded);
                }
                // A time that no clock can express is for ever.
                deadline = Instant::now().checked_add(timeout);
                let left = u64::try_from(timeout.as_nanos());
                header.deadline_ns = deadline.map(|_| left.unwrap_or(u64::MAX));
            }
            self.send_slowly(header, request, deadline)?;
        }
        loop {
            match self.poll_answer()? {
                Some(Answer::Buffered { id: of, len }) if of == id => {
                    if let Some(began) = began {
                        self.latencies.end(began);
                    }
                    return Ok(take(Cow::Borrowed(&self.buffer[..len])));
                }
                Some(Answer::Ended { id: of, ended }) if of == id => {
                    if let Some(began) = began {
                        self.latencies.end(began);
                    }
                    return Ok(take(Cow::Owned(ended?)));
                }
                // An answer to a call that was given up.
                Some(_) => {}
                None => self.wait_for_reply(id, deadline)?,
            }
        }
    }

    /// Stages a request, if it is one that needs no more than that.
    #[inline(always)]
    pub(super) fn stage_plain(&mut self, method: Method, id: u64, request: &[u8]) -> Small<bool> {
        Ok(self.owed_cancel.is_none()
            && request.len() <= whole_max(&self.link.tx)
            && request.len() as u64 <= self.link.shared.terms.max_message_out
            && stage_plain(&mut self.link.tx, Tag::request(method.number), id, request)?)
    }

    /// The number of the next call.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// A number for a new call.
    #[inline(always)]
    pub(super) fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Takes frames until one ends a call. `None` if nothing more is there at the moment.
    #[inline(always)]
    pub(super) fn poll_answer(&mut self) -> Small<Option<Answer>> {
        loop {
            match next_incoming(&mut self.link.rx, &mut self.reassembly, &mut self.buffer)? {
                Some(Incoming::Reply { id, payload }) => {
                    return Ok(Some(Answer::Buffered {
                        id,
                        len: payload.len(),
                    }));
                }
                None => return Ok(None),
                Some(Incoming::Partial) => {}
                Some(Incoming::Request { .. }) => {
                    return Err(unexpected(&self.link, "a request").into());
                }
                Some(Incoming::Message(message)) => {
                    let Message { header, payload } = message;
                    self.draining |= header.kind == Kind::GoAway;
                    if let Some(answer) = answer_of(&self.link, &header, payload.into_owned())? {
                        return Ok(Some(answer));
                    }
                }
            }
        }
    }

    /// Waits until a reply may be there. The caller polls again.
    #[inline]
    fn wait_for_reply(&mut self, id: u64, deadline: Option<Instant>) -> Small<()> {
        let wanted = Wanted {
            data: Some(&mut self.link.rx),
            space: None,
        };
        match self.waiter.wait(wanted, deadline)? {
            Waited::Ready if self.link.rx.ready() != crate::ring::Ready::Closed => Ok(()),
            Waited::TimedOut => self.give_up(id),
            _ => Err(self.closed().of_sent_call().into()),
        }
    }

    /// The deadline passed: tells the server, and the caller.
    #[cold]
    fn give_up(&mut self, id: u64) -> Small<()> {
        self.owed_cancel = Some(id);
        // If the ring is full, the next call sends it.
        self.stage_owed_cancel()?;
        self.link.tx.publish();
        Err(Error::DeadlineExceeded.into())
    }

    /// Stages the cancellation that is owed. False if there is no space at the moment.
    fn stage_owed_cancel(&mut self) -> Small<bool> {
        if let Some(id) = self.owed_cancel {
            let header = Header::new(Kind::Cancel, id);
            if !stage_frame(&mut self.link.tx, &header, &[])? {
                return Ok(false);
            }
            self.owed_cancel = None;
        }
        Ok(true)
    }

    /// Sends a request that is large, carries a deadline, or found the ring full. Answers that
    /// arrive meanwhile are of calls that were given up, and let go.
    #[cold]
    #[inline(never)]
    fn send_slowly(
        &mut self,
        header: Header,
        request: &[u8],
        deadline: Option<Instant>,
    ) -> Result<()> {
        let id = header.request_id;
        let mut outgoing = self.outgoing(header, request)?;
        while !self.stage_some(&mut outgoing)? {
            while self.poll_answer()?.is_some() {}
            match self.wait_for_space(outgoing.next_len(), deadline)? {
                Waited::Ready => {}
                // Of a call that was not begun the server need not hear.
                Waited::TimedOut if !outgoing.has_begun() => return Err(Error::DeadlineExceeded),
                Waited::TimedOut => self.give_up(id)?,
                Waited::Closed => return Err(self.closed()),
            }
        }
        Ok(())
    }

    /// Sends what fits of a request, and what must go before it. True if it is through.
    pub(super) fn stage_some(&mut self, outgoing: &mut Outgoing<&[u8]>) -> Small<bool> {
        let through = self.stage_owed_cancel()? && outgoing.stage(&mut self.link.tx)?;
        self.link.tx.publish();
        Ok(through)
    }

    /// Checks a request against the server's limit and makes a message of it.
    pub(super) fn outgoing<'a>(
        &self,
        header: Header,
        request: &'a [u8],
    ) -> Result<Outgoing<&'a [u8]>> {
        let limit = self.link.shared.terms.max_message_out;
        if request.len() as u64 > limit {
            return Err(Error::TooLarge {
                len: request.len() as u64,
                limit,
            });
        }
        Ok(Outgoing::new(&self.link.tx, header, request))
    }

    /// Waits until a frame of `len` bytes may fit, or something arrives.
    pub(super) fn wait_for_space(
        &mut self,
        len: usize,
        deadline: Option<Instant>,
    ) -> Small<Waited> {
        let wanted = Wanted {
            data: Some(&mut self.link.rx),
            space: Some((&mut self.link.tx, len)),
        };
        let waited = self.waiter.wait(wanted, deadline)?;
        if waited == Waited::Ready && self.link.rx.ready() == crate::ring::Ready::Closed {
            return Ok(Waited::Closed);
        }
        Ok(waited)
    }

    /// The error for a connection whose end was seen.
    #[cold]
    pub(super) fn closed(&mut self) -> Error {
        self.link.shared.read_last_word();
        if self.link.shared.closed().is_none() {
            self.link.shared.close(CloseReason::Finished);
        }
        // A call that is made from now on finds that nothing can be sent: it was not executed.
        self.link.tx.close();
        self.link.shared.closed_error()
    }
}

impl Drop for BlockingClient {
    fn drop(&mut self) {
        self.link.tx.close();
        self.link.shared.close(CloseReason::Local);
    }
}

/// The answer that a message is; `None` for messages about something else.
#[cold]
#[inline(never)]
fn answer_of(link: &Link, header: &Header, payload: Vec<u8>) -> Small<Option<Answer>> {
    let ended = match header.kind {
        Kind::Reply => Ok(payload),
        Kind::Error => Err(status_of(header, &payload)),
        Kind::GoAway | Kind::Ping | Kind::Pong => return Ok(None),
        other => return Err(unexpected(link, &format!("a {other:?} frame")).into()),
    };
    Ok(Some(Answer::Ended {
        id: header.request_id,
        ended,
    }))
}

pub(super) fn status_of(header: &Header, payload: &[u8]) -> Status {
    match (Frame {
        header: *header,
        payload,
    })
    .status()
    {
        Some(status) => Status::new(status.code, status.text),
        None => Status::new(crate::Code::UNKNOWN, ""),
    }
}

#[cold]
pub(super) fn unexpected(link: &Link, what: &str) -> Error {
    let text = format!("the server sent {what}, which a client does not take");
    link.shared.violated(Violation::Frame(text))
}
