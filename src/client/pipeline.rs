//! Several calls in flight from one thread.

use super::blocking::{Answer, BlockingClient};
use super::methods::{Method, check_shape};
use crate::error::{Error, Result, Status};
use crate::link::{Waited, Wanted};
use crate::proto::frame::{Header, TraceContext};
use crate::proto::handshake::CallShape;
use crate::ring::Ready;
use std::collections::VecDeque;
use std::time::Instant;

/// Looks that find nothing, between two looks whether the server is still there.
const LOOKS_PER_CONTROL: u32 = 4096;

/// Requests that are staged at most before they are published, whoever waits: the server has them while
/// further ones are written (docs: tuning).
const PUBLISHED_TOGETHER: u32 = 16;

/// Names a call of a [`Pipeline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// Keeps several calls in flight on one connection: submit some, take replies, submit more.
///
/// Requests are published together: 16 at a time, and what there is when a reply is waited for, when the
/// ring is full, or by [`flush`](Self::flush), which who goes from one pipeline to another should call.
/// Replies come in the order in which the server finishes, which for sync handlers is the order of
/// submission; but one of more than half the ring may be overtaken by smaller ones. Dropping the pipeline gives up what is still in flight:
/// the server runs it, the replies are ignored.
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// # let mut client = nearwire::BlockingClient::connect("text")?;
/// let reverse = client.method("reverse")?;
/// let mut pipeline = client.pipeline();
/// for word in ["one", "two", "three"] {
///     pipeline.submit(reverse, word.as_bytes())?;
/// }
/// while pipeline.in_flight() > 0 {
///     pipeline.next(|id, reply| println!("{id:?}: {reply:?}"))?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipeline<'a> {
    client: &'a mut BlockingClient,
    /// The number of the first call of this pipeline: earlier ones were given up.
    first: u64,
    in_flight: usize,
    /// Requests submitted since something was published.
    staged: u32,
    /// How often `try_next` found nothing.
    looks_in_vain: u32,
    /// Replies that arrived while a request waited for space. At most `in_flight`.
    early: VecDeque<(u64, Result<Vec<u8>, Status>)>,
    /// Calls in flight whose times are sampled, in the order of their numbers.
    sampled: VecDeque<(u64, Instant)>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a mut BlockingClient) -> Self {
        let first = client.next_id();
        Self {
            client,
            first,
            in_flight: 0,
            staged: 0,
            looks_in_vain: 0,
            early: VecDeque::new(),
            sampled: VecDeque::new(),
        }
    }

    /// Calls that were submitted and whose reply was not taken.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The most calls that may be in flight on this connection.
    pub fn max_in_flight(&self) -> usize {
        self.client.link.shared.terms.max_in_flight
    }

    /// Starts a call. Blocks only while the server takes no requests because it is busy; replies
    /// that arrive meanwhile are kept for [`next`](Self::next).
    ///
    /// # Errors
    /// [`Error::TooManyInFlight`] at the connection's limit; otherwise as
    /// [`BlockingClient::call_bytes`].
    #[inline]
    pub fn submit(&mut self, method: Method, request: &[u8]) -> Result<CallId> {
        if self.in_flight >= self.max_in_flight() {
            return Err(Error::TooManyInFlight {
                limit: self.max_in_flight(),
            });
        }
        check_shape(&self.client.link.shared, method, CallShape::Unary)?;
        let id = self.client.fresh_id();
        if self.client.trace.is_some() || !self.client.stage_plain(method, id, request)? {
            self.submit_slowly(method, id, request)?;
        }
        if self.client.latencies.is_due() {
            self.sample(id);
        }
        self.in_flight += 1;
        self.staged += 1;
        if self.staged == PUBLISHED_TOGETHER {
            self.flush();
        }
        Ok(CallId(id))
    }

    /// As [`BlockingClient::set_trace`], which the pipeline's calls follow too.
    pub fn set_trace(&mut self, trace: Option<TraceContext>) {
        self.client.set_trace(trace);
    }

    /// Makes submitted requests visible to the server at once.
    pub fn flush(&mut self) {
        self.staged = 0;
        self.client.link.tx.publish();
    }

    /// Waits for the next reply and hands it to `visit`. Blocks; returns at once, without a
    /// visit, if nothing is in flight.
    ///
    /// # Errors
    /// [`Error::Closed`] if the server is gone, [`Error::Protocol`] if it broke the protocol. What
    /// a handler says is no error here: `visit` gets it.
    #[inline]
    pub fn next<T>(
        &mut self,
        visit: impl FnOnce(CallId, Result<&[u8], Status>) -> T,
    ) -> Result<Option<T>> {
        self.next_or(visit, Self::wait_for_answer)
    }

    /// Hands the next reply to `visit` if it is there. Never blocks; `None` also while replies are
    /// to come. Publishes nothing: see [`flush`](Self::flush).
    ///
    /// # Errors
    /// As [`next`](Self::next).
    #[inline]
    pub fn try_next<T>(
        &mut self,
        visit: impl FnOnce(CallId, Result<&[u8], Status>) -> T,
    ) -> Result<Option<T>> {
        self.next_or(visit, Self::look_for_end)
    }

    /// The next reply; `wait` is called when there is none, and says whether to look again.
    #[inline(always)]
    fn next_or<T>(
        &mut self,
        visit: impl FnOnce(CallId, Result<&[u8], Status>) -> T,
        wait: fn(&mut Self) -> Result<bool>,
    ) -> Result<Option<T>> {
        if self.in_flight > 0
            && let Some((id, reply)) = self.early.pop_front()
        {
            self.note_end(id);
            return Ok(Some(visit(
                CallId(id),
                reply.as_deref().map_err(Clone::clone),
            )));
        }
        while self.in_flight > 0 {
            match self.client.poll_answer()? {
                Some(Answer::Buffered { id, len }) => {
                    if self.is_ours(id) {
                        self.note_end(id);
                        return Ok(Some(visit(CallId(id), Ok(&self.client.buffer[..len]))));
                    }
                }
                Some(Answer::Ended { id, ended }) => {
                    if self.is_ours(id) {
                        self.note_end(id);
                        return Ok(Some(visit(
                            CallId(id),
                            ended.as_deref().map_err(Clone::clone),
                        )));
                    }
                }
                None => {
                    if !wait(self)? {
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    #[cold]
    #[inline(never)]
    fn sample(&mut self, id: u64) {
        self.sampled.push_back((id, Instant::now()));
    }

    /// Whether a call of this pipeline has this number. A lower one is of a call that was given up
    /// before; a higher one was never made, whatever the server says.
    #[inline(always)]
    fn is_ours(&self, id: u64) -> bool {
        (self.first..self.client.next_id()).contains(&id)
    }

    /// A call has ended, and the caller gets its reply.
    #[inline(always)]
    fn note_end(&mut self, id: u64) {
        self.in_flight -= 1;
        if !self.sampled.is_empty() {
            self.time(id);
        }
    }

    /// Takes down the time of a call, if it is one of those sampled.
    #[cold]
    #[inline(never)]
    fn time(&mut self, id: u64) {
        if let Ok(place) = self.sampled.binary_search_by_key(&id, |&(of, _)| of)
            && let Some((_, began)) = self.sampled.remove(place)
        {
            self.client.latencies.end(began);
        }
    }

    /// Notes that no reply is there, or why none will come.
    #[inline]
    fn look_for_end(&mut self) -> Result<bool> {
        let link = &mut self.client.link;
        link.rx.release();
        self.looks_in_vain = self.looks_in_vain.wrapping_add(1);
        let over_socket = link.shared.is_over_socket();
        if over_socket || self.looks_in_vain.is_multiple_of(LOOKS_PER_CONTROL) {
            // A server that was killed ends no ring; over the socket nothing comes without a look.
            link.shared.read_control();
            if link.rx.ready() == Ready::Data {
                return Ok(true);
            }
        }
        // In this order: what the server published before it was gone is delivered first.
        let gone = link.shared.closed().is_some();
        match link.rx.ready() {
            Ready::Data => Ok(false),
            Ready::Empty if !gone => Ok(false),
            _ => Err(self.client.closed().of_sent_call()),
        }
    }

    /// Publishes what was submitted and waits until an answer may be there.
    fn wait_for_answer(&mut self) -> Result<bool> {
        self.flush();
        let client = &mut *self.client;
        let wanted = Wanted {
            data: Some(&mut client.link.rx),
            space: None,
        };
        let waited = client.waiter.wait(wanted, None)?;
        if waited == Waited::Closed || client.link.rx.ready() == Ready::Closed {
            return Err(client.closed().of_sent_call());
        }
        Ok(true)
    }

    /// A request that is large, carries a trace context or finds the ring full. The server may be unable to take it before
    /// its replies are taken, so these are.
    #[cold]
    #[inline(never)]
    fn submit_slowly(&mut self, method: Method, id: u64, request: &[u8]) -> Result<()> {
        let mut header = Header::request(method.number, id);
        header.trace = self.client.trace;
        let mut outgoing = self.client.outgoing(header, request)?;
        while !self.client.stage_some(&mut outgoing)? {
            while let Some(answer) = self.client.poll_answer()? {
                let (id, ended) = match answer {
                    Answer::Buffered { id, len } => (id, Ok(self.client.buffer[..len].to_vec())),
                    Answer::Ended { id, ended } => (id, ended),
                };
                // No more than were asked for: the call that is being sent is not one of them yet.
                if self.is_ours(id) && self.early.len() < self.in_flight {
                    self.early.push_back((id, ended));
                }
            }
            if self.client.wait_for_space(outgoing.next_len(), None)? == Waited::Closed {
                return Err(self.client.closed());
            }
        }
        Ok(())
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.client.link.tx.publish();
    }
}
