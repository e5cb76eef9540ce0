//! Several calls in flight from one thread.

use super::blocking::BlockingClient;
use super::methods::Method;
use crate::error::{Error, Result, Status};
use crate::link::{Waited, Wanted, stage_plain, whole_max};
use crate::proto::frame::Tag;
use crate::ring::Ready;
use std::borrow::Cow;
use std::collections::VecDeque;

/// Names a call of a [`Pipeline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// Keeps several calls in flight on one connection: submit some, take replies, submit more.
///
/// Requests are published together when a reply is waited for, when the ring is full, or by
/// [`flush`](Self::flush). Replies come in the order in which the server finishes, which for sync
/// handlers is the order of submission. Dropping the pipeline gives up what is still in flight:
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
    /// Replies that arrived while a request waited for space. At most `max_in_flight`.
    early: VecDeque<(u64, Result<Vec<u8>, Status>)>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a mut BlockingClient) -> Self {
        let first = client.fresh_id();
        Self {
            client,
            first,
            in_flight: 0,
            early: VecDeque::new(),
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
        let id = self.client.fresh_id();
        let tx = &mut self.client.link.tx;
        if request.len() > whole_max(tx)
            || request.len() as u64 > self.client.link.shared.terms.max_message_out
            || !stage_plain(tx, Tag::request(method.number), id, request)?
        {
            self.submit_slowly(method, id, request)?;
        }
        self.in_flight += 1;
        Ok(CallId(id))
    }

    /// Makes submitted requests visible to the server at once.
    pub fn flush(&mut self) {
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
        let mut visit = Some(visit);
        while self.in_flight > 0 {
            if let Some(taken) = self.try_next(&mut visit)? {
                return Ok(Some(taken));
            }
            self.client.link.tx.publish();
            let wanted = Wanted {
                data: Some(&mut self.client.link.rx),
                space: None,
            };
            let waited = self.client.waiter.wait(wanted, None)?;
            if waited == Waited::Closed || self.client.link.rx.ready() == Ready::Closed {
                return Err(self.client.closed());
            }
        }
        Ok(None)
    }

    /// Takes a reply that is there already. `None`: there is none.
    #[inline(always)]
    fn try_next<T, V>(&mut self, visit: &mut Option<V>) -> Result<Option<T>>
    where
        V: FnOnce(CallId, Result<&[u8], Status>) -> T,
    {
        if let Some((id, reply)) = self.early.pop_front() {
            self.in_flight -= 1;
            let visit = visit.take();
            return Ok(visit.map(|visit| visit(CallId(id), reply.as_deref().map_err(Clone::clone))));
        }
        let first = self.first;
        loop {
            let taken = self.client.poll_reply(|id, ended| {
                if id < first {
                    return None;
                }
                let visit = visit.take()?;
                Some(match ended {
                    Ok(reply) => visit(CallId(id), Ok(&reply)),
                    Err(status) => visit(CallId(id), Err(status)),
                })
            })?;
            match taken {
                Some(Some(taken)) => {
                    self.in_flight -= 1;
                    return Ok(Some(taken));
                }
                // Of a call given up before this pipeline.
                Some(None) => {}
                None => return Ok(None),
            }
        }
    }

    /// A request that is large or finds the ring full. The server may be unable to take it before
    /// its replies are taken, so these are.
    #[cold]
    #[inline(never)]
    fn submit_slowly(&mut self, method: Method, id: u64, request: &[u8]) -> Result<()> {
        let mut outgoing = self.client.outgoing(method, id, request, None)?;
        while !outgoing.stage(&mut self.client.link.tx)? {
            self.client.link.tx.publish();
            let first = self.first;
            let early = &mut self.early;
            while self
                .client
                .poll_reply(|id, ended| {
                    if id >= first {
                        early.push_back((id, ended.map(Cow::into_owned)));
                    }
                })?
                .is_some()
            {}
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
