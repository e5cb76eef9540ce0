//! The async client: many calls in flight on one connection, from any number of tasks.
//!
//! # Who receives
//! There is no task in the background. Whichever call is polled takes everything that has arrived,
//! stores the replies of the others and wakes them. One of the pending calls is the *leader*: it
//! watches the ring (polling in place for a while, then in the reactor), the others only wait for
//! their wakers. So a lone call pays for no hand-over between tasks, and of 64 calls 63 do not
//! poll.
//!
//! # Invariant: pending calls have somebody who will look
//! While a call is pending there is a leader, or a call whose reply is there but was not claimed:
//! its task was woken, will be polled or dropped, and then either finds nobody pending, or wakes
//! one of the pending calls, which becomes the leader. Leadership ends when the leader's call
//! ends, for whatever reason.

use super::blocking::status_of;
use super::methods::{self, Method};
use super::{ClientBuilder, blocking};
use crate::error::{CloseReason, Error, Identity, Result};
use crate::link::{
    AsyncWaiter, Incoming, Link, Outgoing, Shared, Waited, Wanted, next_incoming, stage_plain,
    whole_max,
};
use crate::proto::frame::{Header, Kind, Tag};
use crate::proto::reassembly::{Message, Reassembly};
use crate::ring::Ready;
use crate::settings::Spin;
use slab::Slab;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Records that one poll takes at most, so that no task holds its thread for long.
const RECORDS_PER_POLL: usize = 256;

/// A connection to a server, for calls from any number of tasks. Cheap to clone; clones share the
/// connection, which closes with the last of them.
///
/// No method blocks the thread. A pending call polls the ring in place for the [`Spin`] budget,
/// letting other tasks run in between, and then sleeps in Tokio's reactor. Dropping a call's
/// future cancels the call.
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::Client;
/// use std::time::Duration;
///
/// let client = Client::connect("text").await?;
/// let reply = client.call_bytes("reverse", b"wire").deadline(Duration::from_millis(50)).await?;
/// assert_eq!(reply, b"eriw");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    link: Link,
    waiter: AsyncWaiter,
    reassembly: Reassembly,
    /// Where replies are copied to.
    buffer: Vec<u8>,
    calls: Slab<Pending>,
    /// Told apart calls that had the same place; part of their number on the wire.
    generation: u32,
    /// The call that watches the ring.
    leader: Option<usize>,
    /// Calls whose result is there and was not taken.
    unclaimed: usize,
    /// The call whose fragments are on their way; at most one may be.
    fragmenting: Option<usize>,
    /// Calls that wait for this one's fragments to be through.
    want_turn: Vec<usize>,
    /// Calls that wait for space in the ring, and the most that any of them needs, in bytes.
    want_space: Vec<usize>,
    space_needed: usize,
    /// Futures that wait for a place among the calls, by ticket.
    want_place: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    /// The server broke the protocol; nothing more is read.
    broken: bool,
    /// Calls that were given up and the server does not know yet.
    cancelled: Vec<u64>,
    /// Wakers of calls that got their reply, to be called without the lock.
    to_wake: Vec<Waker>,
}

/// A call that has a place.
#[derive(Debug)]
struct Pending {
    id: u64,
    waker: Option<Waker>,
    result: Option<Result<Vec<u8>>>,
    /// In `want_space` or `want_turn`.
    queued: bool,
}

impl Client {
    /// Connects with the default settings.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect(name).await
    }

    /// The settings to connect with.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Must be called inside the runtime whose reactor is to watch the connection.
    pub(super) fn new(link: Link, spin: Spin) -> Result<Self> {
        let shared = link.shared.clone();
        let limit = usize::try_from(shared.terms.max_message_in).unwrap_or(usize::MAX);
        let state = State {
            waiter: AsyncWaiter::new(shared.clone(), spin)?,
            link,
            reassembly: Reassembly::new(limit),
            buffer: Vec::new(),
            calls: Slab::new(),
            generation: 0,
            leader: None,
            unclaimed: 0,
            fragmenting: None,
            want_turn: Vec::new(),
            want_space: Vec::new(),
            space_needed: 0,
            want_place: VecDeque::new(),
            next_ticket: 0,
            broken: false,
            cancelled: Vec::new(),
            to_wake: Vec::new(),
        };
        Ok(Self {
            core: Arc::new(Core {
                shared,
                state: Mutex::new(state),
            }),
        })
    }

    /// Finds a method, to save the search by name in each call.
    ///
    /// # Errors
    /// [`Error::NoMethod`], with the names that there are.
    pub fn method(&self, name: &str) -> Result<Method> {
        methods::find(&self.core.shared, name)
    }

    /// The names of the server's methods.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.core
            .shared
            .terms
            .methods
            .iter()
            .map(|method| &*method.name)
    }

    /// Who the server is, as the system tells.
    pub fn server(&self) -> Identity {
        self.core.shared.peer
    }

    /// The largest request that the server accepts, in bytes.
    pub fn max_request(&self) -> u64 {
        self.core.shared.terms.max_message_out
    }

    /// Calls that are in flight on this connection.
    pub fn in_flight(&self) -> usize {
        self.core.lock().calls.len()
    }

    /// A call with bytes, to be awaited. Nothing is sent before.
    ///
    /// The future gives [`Error::NoMethod`] and [`Error::TooLarge`] before anything is sent;
    /// [`Error::Status`] if the handler says no; [`Error::Closed`] if the server is gone;
    /// [`Error::Protocol`] if it broke the protocol.
    pub fn call_bytes<'a>(&self, method: &str, request: &'a [u8]) -> Call<'a> {
        match self.method(method) {
            Ok(method) => self.call_method(method, request),
            Err(error) => Call::new(self.core.clone(), Stage::Failed(Some(error))),
        }
    }

    /// A call of a method found before. Otherwise as [`call_bytes`](Self::call_bytes).
    pub fn call_method<'a>(&self, method: Method, request: &'a [u8]) -> Call<'a> {
        let request = Request {
            method,
            payload: Cow::Borrowed(request),
        };
        Call::new(self.core.clone(), Stage::New(request))
    }

    /// A call with a request and a reply of serde types, to be awaited.
    ///
    /// The future gives what [`call_bytes`](Self::call_bytes) does, and [`Error::Codec`] if the
    /// request cannot be encoded or the reply is not an `R`.
    #[cfg(feature = "serde")]
    pub fn call<R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> TypedCall<R> {
        let mut payload = Vec::new();
        let stage = match crate::typed::append_request(&request, &mut payload)
            .and_then(|()| self.method(method))
        {
            Ok(method) => Stage::New(Request {
                method,
                payload: Cow::Owned(payload),
            }),
            Err(error) => Stage::Failed(Some(error)),
        };
        TypedCall {
            call: Call::new(self.core.clone(), stage),
            reply: std::marker::PhantomData,
        }
    }
}

impl ClientBuilder {
    /// Connects to a server, for calls from any number of tasks. The handshake runs on a blocking
    /// thread of the runtime.
    ///
    /// # Errors
    /// As [`connect_blocking`](Self::connect_blocking).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn connect(&self, name: &str) -> Result<Client> {
        let (settings, name) = (self.clone(), name.to_owned());
        let link = tokio::task::spawn_blocking(move || {
            settings.link(&name, crate::proto::mode::Mode::Calls)
        });
        let link = link.await.map_err(|_| {
            Error::io("connect: the runtime is shutting down")(std::io::ErrorKind::Other.into())
        })??;
        Client::new(link, self.spin)
    }
}

#[derive(Debug)]
struct Request<'a> {
    method: Method,
    payload: Cow<'a, [u8]>,
}

/// How far a call is.
#[derive(Debug)]
enum Stage<'a> {
    /// Wrong before it began; the error is given once.
    Failed(Option<Error>),
    /// Not known to the connection.
    New(Request<'a>),
    /// Has a place; not, or not wholly, in the ring.
    Sending {
        key: usize,
        outgoing: Outgoing<Cow<'a, [u8]>>,
    },
    /// Has a place; the server has the request.
    Sent { key: usize },
    /// The result was given.
    Done,
}

/// A call in progress: a future of the reply. Dropping it cancels the call; the server drops an
/// async handler's future then.
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct Call<'a> {
    core: Arc<Core>,
    stage: Stage<'a>,
    deadline: Option<Instant>,
    /// Wakes the call at its deadline. Made when it must wait for longer than a moment.
    timer: Option<Pin<Box<Sleep>>>,
    /// Its ticket in the queue for a place. A wake-up meant for it must not be lost with it.
    ticket: Option<u64>,
}

impl<'a> Call<'a> {
    fn new(core: Arc<Core>, stage: Stage<'a>) -> Self {
        Self {
            core,
            stage,
            deadline: None,
            timer: None,
            ticket: None,
        }
    }

    /// Gives the call this much time from now on. When it is over the future gives
    /// [`Error::DeadlineExceeded`]; the server knows the time left and stops by itself.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(Instant::now() + time);
        self
    }
}

impl Future for Call<'_> {
    type Output = Result<Vec<u8>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.core.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut turn = Turn {
            stage: &mut this.stage,
            timer: &mut this.timer,
            ticket: &mut this.ticket,
        };
        let polled = turn.advance(&mut state, this.deadline, cx);
        if polled.is_ready() {
            turn.leave(&mut state);
        }
        let woken = std::mem::take(&mut state.to_wake);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        polled
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Done | Stage::Failed(_)) {
            return;
        }
        let mut state = self.core.lock();
        let mut turn = Turn {
            stage: &mut self.stage,
            timer: &mut self.timer,
            ticket: &mut self.ticket,
        };
        turn.give_up(&mut state);
        let woken = std::mem::take(&mut state.to_wake);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// A call's own part while the connection's state is locked.
struct Turn<'t, 'a> {
    stage: &'t mut Stage<'a>,
    timer: &'t mut Option<Pin<Box<Sleep>>>,
    ticket: &'t mut Option<u64>,
}

impl Turn<'_, '_> {
    /// Goes on with the call as far as it can.
    fn advance(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<u8>>> {
        if let Stage::Failed(error) = self.stage {
            let error = error.take().unwrap_or(Error::Closed {
                reason: CloseReason::Local,
            });
            return Poll::Ready(Err(error));
        }
        if state.broken {
            return Poll::Ready(Err(state.link.shared.closed_error()));
        }
        if matches!(self.stage, Stage::New(_)) && !self.begin(state, deadline, cx)? {
            return self.poll_deadline(state, deadline, cx);
        }
        if matches!(self.stage, Stage::Sending { .. }) {
            self.send(state)?;
        }
        loop {
            let key = match *self.stage {
                Stage::Sending { key, .. } | Stage::Sent { key } => key,
                _ => unreachable!("a call without a place does not get here"),
            };
            if let Some(result) = state.claim(key) {
                return Poll::Ready(result);
            }
            if let Err(error) = state.receive() {
                return Poll::Ready(Err(error));
            }
            if let Some(result) = state.claim(key) {
                return Poll::Ready(result);
            }
            if matches!(self.stage, Stage::Sending { .. }) {
                self.send(state)?;
            }
            state.watch(key, cx);
            let leads = *state.leader.get_or_insert(key) == key;
            if let Stage::Sending { outgoing, .. } = &*self.stage {
                state.queue(key, outgoing);
            }
            if !leads {
                return self.poll_deadline(state, deadline, cx);
            }
            match state.poll_ring(cx) {
                Poll::Ready(Ok(Waited::Closed)) => return Poll::Ready(Err(state.closed())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if state.waiter.is_armed() => {
                    return self.poll_deadline(state, deadline, cx);
                }
                // Polled again in a moment; a look at the clock is cheaper than a timer.
                Poll::Pending => {
                    return match deadline {
                        Some(deadline) if Instant::now() >= deadline => self.time_is_up(state),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Takes a place and sends the request, or as much as fits. False if there is no place.
    fn begin(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Result<bool> {
        let Stage::New(request) = &*self.stage else {
            return Ok(true);
        };
        let terms = &state.link.shared.terms;
        let (limit, places) = (terms.max_message_out, terms.max_in_flight);
        let len = request.payload.len();
        if len as u64 > limit {
            return Err(Error::TooLarge {
                len: len as u64,
                limit,
            });
        }
        if state.calls.len() >= places {
            state.queue_for_place(self.ticket, cx);
            return Ok(false);
        }
        if let Some(ticket) = self.ticket.take() {
            state.want_place.retain(|(other, _)| *other != ticket);
        }
        state.generation = state.generation.wrapping_add(1);
        let entry = state.calls.vacant_entry();
        let key = entry.key();
        let id = u64::from(state.generation) << 32 | key as u64;
        entry.insert(Pending {
            id,
            waker: None,
            result: None,
            queued: false,
        });
        let method = request.method.number;
        let plain = deadline.is_none() && len <= whole_max(&state.link.tx);
        let may_go = state.cancelled.is_empty();
        if plain
            && may_go
            && stage_plain(
                &mut state.link.tx,
                Tag::request(method),
                id,
                &request.payload,
            )?
        {
            state.link.tx.publish();
            *self.stage = Stage::Sent { key };
            return Ok(true);
        }
        let mut header = Header::request(method, id);
        header.deadline_ns = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1)
        });
        let Stage::New(request) = std::mem::replace(self.stage, Stage::Done) else {
            unreachable!("matched above")
        };
        let outgoing = Outgoing::new(&state.link.tx, header, request.payload);
        *self.stage = Stage::Sending { key, outgoing };
        Ok(true)
    }

    /// Sends what fits. The stage tells whether it was all.
    fn send(&mut self, state: &mut State) -> Result<()> {
        let Stage::Sending { key, outgoing } = self.stage else {
            return Ok(());
        };
        if !state.tell_cancelled()? {
            return Ok(());
        }
        if outgoing.is_fragmented() && *state.fragmenting.get_or_insert(*key) != *key {
            return Ok(());
        }
        if outgoing.stage(&mut state.link.tx)? {
            let key = *key;
            state.link.tx.publish();
            *self.stage = Stage::Sent { key };
            state.sent(key);
        }
        Ok(())
    }

    /// Pending, until the deadline.
    fn poll_deadline(
        &mut self,
        state: &mut State,
        deadline: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<u8>>> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => self.time_is_up(state),
        }
    }

    fn time_is_up(&mut self, state: &mut State) -> Poll<Result<Vec<u8>>> {
        self.give_up(state);
        Poll::Ready(Err(Error::DeadlineExceeded))
    }

    /// Ends a call that has no result: frees its place and cancels it at the server.
    #[cold]
    fn give_up(&mut self, state: &mut State) {
        let (key, began) = match &*self.stage {
            Stage::Sending { key, outgoing } => (*key, outgoing.has_begun()),
            Stage::Sent { key } => (*key, true),
            _ => return self.leave(state),
        };
        // The result may have come meanwhile; then there is nothing to cancel.
        if began && state.calls[key].result.is_none() {
            state.cancelled.push(state.calls[key].id);
            // An error closes the connection, which whoever looks next reports.
            let _ = state.tell_cancelled();
        }
        self.leave(state);
    }

    /// Frees what the call holds of the connection's state.
    fn leave(&mut self, state: &mut State) {
        if let Stage::Sending { key, .. } | Stage::Sent { key } =
            std::mem::replace(self.stage, Stage::Done)
        {
            state.remove(key);
        }
        if let Some(ticket) = self.ticket.take() {
            let before = state.want_place.len();
            state.want_place.retain(|(other, _)| *other != ticket);
            if state.want_place.len() == before {
                // It was called up and does not come: the next one's turn.
                state.call_up_next();
            }
        }
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.link.tx.close();
        self.link.shared.close(CloseReason::Local);
    }
}

impl State {
    /// Takes everything that has arrived, up to a bound, and wakes whose reply is among it.
    ///
    /// # Errors
    /// A violation by the server; all calls learn it as they look.
    fn receive(&mut self) -> Result<()> {
        let received = self.take_records();
        self.broken |= received.is_err();
        received
    }

    #[inline]
    fn take_records(&mut self) -> Result<()> {
        for _ in 0..RECORDS_PER_POLL {
            let incoming =
                next_incoming(&mut self.link.rx, &mut self.reassembly, &mut self.buffer)?;
            let (id, result) = match incoming {
                None => return Ok(()),
                Some(Incoming::Reply { id, payload }) => (id, Ok(payload.to_vec())),
                Some(Incoming::Partial) => continue,
                Some(Incoming::Request { .. }) => {
                    return Err(blocking::unexpected(&self.link, "a request"));
                }
                Some(Incoming::Message(Message { header, payload })) => match header.kind {
                    Kind::Reply => (header.request_id, Ok(payload.into_owned())),
                    Kind::Error => (header.request_id, Err(status_of(&header, &payload).into())),
                    Kind::GoAway | Kind::Ping | Kind::Pong => continue,
                    other => {
                        let what = format!("a {other:?} frame");
                        return Err(blocking::unexpected(&self.link, &what));
                    }
                },
            };
            // An answer to a call that was given up finds another number in its place, or none.
            if let Some(call) = self.calls.get_mut(id as u32 as usize)
                && call.id == id
                && call.result.is_none()
            {
                call.result = Some(result);
                self.unclaimed += 1;
                self.to_wake.extend(call.waker.take());
            }
        }
        Ok(())
    }

    /// The result of a call, once.
    fn claim(&mut self, key: usize) -> Option<Result<Vec<u8>>> {
        let result = self.calls[key].result.take()?;
        self.unclaimed -= 1;
        Some(result)
    }

    /// Remembers whom to wake for a call.
    fn watch(&mut self, key: usize, cx: &Context<'_>) {
        let waker = &mut self.calls[key].waker;
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Notes that a call cannot go on sending: for want of space, or because another call's
    /// fragments are on their way.
    fn queue(&mut self, key: usize, outgoing: &Outgoing<Cow<'_, [u8]>>) {
        self.space_needed = self.space_needed.max(outgoing.next_len());
        if std::mem::replace(&mut self.calls[key].queued, true) {
            return;
        }
        let another = outgoing.is_fragmented() && self.fragmenting != Some(key);
        if another && self.fragmenting.is_some() {
            self.want_turn.push(key);
            return;
        }
        self.want_space.push(key);
        // The leader must look for space from now on.
        if let Some(leader) = self.leader
            && leader != key
        {
            self.to_wake.extend(self.calls[leader].waker.clone());
        }
    }

    /// Wakes the calls of a queue.
    fn call_up(&mut self, keys: Vec<usize>) {
        for key in keys {
            if let Some(call) = self.calls.get_mut(key) {
                call.queued = false;
                self.to_wake.extend(call.waker.clone());
            }
        }
    }

    fn queue_for_place(&mut self, ticket: &mut Option<u64>, cx: &Context<'_>) {
        let known = ticket.and_then(|ticket| {
            self.want_place
                .iter_mut()
                .find(|(other, _)| *other == ticket)
        });
        match known {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                *ticket = Some(self.next_ticket);
                self.want_place
                    .push_back((self.next_ticket, cx.waker().clone()));
                self.next_ticket += 1;
            }
        }
    }

    /// Wakes the first of those who wait for a place.
    fn call_up_next(&mut self) {
        self.to_wake
            .extend(self.want_place.pop_front().map(|(_, waker)| waker));
    }

    /// The leader's look at the ring: for data, and for space if anybody wants it.
    fn poll_ring(&mut self, cx: &mut Context<'_>) -> Poll<Result<Waited>> {
        let link = &mut self.link;
        let len = self.space_needed;
        let space = !self.want_space.is_empty();
        let wanted = Wanted {
            data: Some(&mut link.rx),
            space: space.then_some((&mut link.tx, len)),
        };
        let polled = self.waiter.poll_wait(cx, wanted);
        if let Poll::Ready(Ok(Waited::Ready)) = polled {
            if space && self.link.tx.is_ready(len) {
                self.space_needed = 0;
                let keys = std::mem::take(&mut self.want_space);
                self.call_up(keys);
            } else if self.link.rx.ready() == Ready::Closed {
                return Poll::Ready(Ok(Waited::Closed));
            }
        }
        polled
    }

    /// Sends what cancellations are due. False if they do not all fit.
    fn tell_cancelled(&mut self) -> Result<bool> {
        while let Some(&id) = self.cancelled.last() {
            let mut cancel = Outgoing::new(&self.link.tx, Header::new(Kind::Cancel, id), [0; 0]);
            if !cancel.stage(&mut self.link.tx)? {
                self.link.tx.publish();
                return Ok(false);
            }
            self.cancelled.pop();
        }
        self.link.tx.publish();
        Ok(true)
    }

    /// A call's fragments are all on their way, or given up: the next may begin.
    fn sent(&mut self, key: usize) {
        if self.fragmenting == Some(key) {
            self.fragmenting = None;
            let keys = std::mem::take(&mut self.want_turn);
            self.call_up(keys);
        }
    }

    /// Takes a call out. If nobody is left to look for the pending ones, one is woken to do so.
    fn remove(&mut self, key: usize) {
        let call = self.calls.remove(key);
        if call.result.is_some() {
            self.unclaimed -= 1;
        }
        self.sent(key);
        if self.leader == Some(key) {
            self.leader = None;
            self.waiter.disarm(Wanted {
                data: Some(&mut self.link.rx),
                space: Some((&mut self.link.tx, 0)),
            });
        }
        self.call_up_next();
        if self.leader.is_none() && self.unclaimed == 0 && !self.calls.is_empty() {
            let pending = self
                .calls
                .iter_mut()
                .find_map(|(_, call)| call.waker.take());
            self.to_wake.extend(pending);
        }
    }

    /// The error for a connection whose end was seen.
    #[cold]
    fn closed(&self) -> Error {
        let shared = &self.link.shared;
        shared.read_control();
        match shared.closed() {
            Some(_) => shared.closed_error(),
            None => Error::Closed {
                reason: CloseReason::Finished,
            },
        }
    }
}

/// A typed call in progress; see [`Client::call`].
#[cfg(feature = "serde")]
#[derive(Debug)]
#[must_use = "a call is sent when it is awaited"]
pub struct TypedCall<R> {
    call: Call<'static>,
    reply: std::marker::PhantomData<fn() -> R>,
}

#[cfg(feature = "serde")]
impl<R> TypedCall<R> {
    /// As [`Call::deadline`].
    pub fn deadline(mut self, time: Duration) -> Self {
        self.call = self.call.deadline(time);
        self
    }
}

#[cfg(feature = "serde")]
impl<R: serde::de::DeserializeOwned> Future for TypedCall<R> {
    type Output = Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.call)
            .poll(cx)
            .map(|reply| crate::typed::reply(&reply?))
    }
}
