//! One connection of a server, served by the worker that owns it.

use super::Bench;
use super::allowance::Allowance;
use crate::error::{CloseReason, Error, Small, Status, Violation};
use crate::link::{
    Incoming, KEPT_BUFFER, Link, Outbox, Outgoing, next_incoming, stage_plain, whole_max,
};
use crate::metrics::{
    ConnectionSlot, Counter, CountersPage, Gauge, Observed, Opened, State, WorkerCounters,
};
use crate::proto::frame::{Header, Kind, Tag, TraceContext};
use crate::proto::handshake::CloseCode;
use crate::proto::reassembly::{Message, Reassembly};
use crate::proto::status::{Code, encode_status};
use crate::rate::RateLimit;
use crate::ring::Ready;
use crate::server::methods::{CallContext, Handler};
use crate::waiter::Fences;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tracing::Span;
#[cfg(feature = "tokio")]
use {
    super::calls::{Calls, Running},
    super::mail::Address,
    crate::link::Withdrawn,
    crate::proto::handshake::CallShape,
    crate::server::inlet::{ByteItemReceiver, Inlet},
    crate::server::methods::{AsyncHandler, Streams},
    crate::server::outlet::{Account, ByteItemSender},
    std::sync::Arc,
    std::task::{Context, Poll, Waker},
    tracing::Instrument,
};

/// Replies after which a turn publishes, if no other connection is swept: the client takes them
/// while the worker goes on. With other connections the client has other replies to take, and each
/// publication costs a line (docs: tuning).
const REPLIES_TOGETHER: u64 = 16;

/// The target of spans and events about calls.
const CALLS: &str = "nearwire::call";

/// What a turn found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Something,
    /// So much that the turn was over before it.
    More,
    /// Something that may not be taken yet: the connection's rate is used up.
    TooMuch,
}

/// One connection. Owned by exactly one worker.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    reassembly: Reassembly,
    context: CallContext,
    #[cfg(feature = "tokio")]
    key: usize,
    /// The longest reply that is staged at once, in bytes: what a record takes and the client
    /// accepts.
    plain_reply_max: usize,
    /// What the ring had no space for. While it is more than one large message, no request is
    /// taken; so it does not grow by what the client sends.
    outbox: Outbox,
    /// Calls that went to the runtime, or wait to.
    #[cfg(feature = "tokio")]
    calls: Calls,
    /// How much it may take of a sweep.
    allowance: Allowance,
    counters: WorkerCounters,
    counted: Counted,
    /// What observers see of it.
    slot: Option<ConnectionSlot>,
    /// When a sweep found something last.
    pub(super) last_busy: Instant,
    /// Whether it is swept.
    pub(super) is_active: bool,
    is_over_socket: bool,
    /// The client has closed the connection: how far its ring is taken at most.
    ends_at: Option<u64>,
    /// Whether the page does not say yet how it was parked.
    pub(super) is_unobserved: bool,
}

/// What a connection has counted, of which the worker's counters know.
#[derive(Debug, Default)]
struct Counted {
    messages_received: u64,
    messages_sent: u64,
    wakeups: u64,
    publications: u64,
    in_flight: usize,
    /// Since when answers wait without one leaving.
    blocked_since: Option<Instant>,
}

impl Connection {
    pub(super) fn new(
        link: Link,
        key: usize,
        max_message: usize,
        max_in_flight: usize,
        rate: Option<RateLimit>,
        counters: WorkerCounters,
    ) -> Self {
        let context = CallContext {
            peer: link.shared.peer,
            connection: link.shared.terms.connection_id,
            deadline: None,
            trace: None,
        };
        #[cfg(not(feature = "tokio"))]
        let _ = (key, max_in_flight);
        let is_over_socket = link.shared.is_over_socket();
        let accepted = usize::try_from(link.shared.terms.max_message_out).unwrap_or(usize::MAX);
        Self {
            plain_reply_max: whole_max(&link.tx).min(accepted),
            link,
            reassembly: Reassembly::new(max_message),
            context,
            #[cfg(feature = "tokio")]
            key,
            outbox: Outbox::default(),
            #[cfg(feature = "tokio")]
            calls: Calls::new(max_in_flight, max_message),
            allowance: Allowance::new(rate),
            counters,
            counted: Counted::default(),
            slot: None,
            last_busy: Instant::now(),
            is_active: false,
            is_unobserved: false,
            is_over_socket,
            ends_at: None,
        }
    }

    /// Has the processor fetch what the next turn looks at first.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        self.link.rx.prefetch_next();
    }

    /// Whether replies wait for space.
    pub(super) fn is_blocked(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether the kernel tells of each arrival, so that there is no point in looking.
    #[inline(always)]
    pub(super) fn is_over_socket(&self) -> bool {
        self.is_over_socket
    }

    /// Whether the kernel has told, or would tell, of the end behind what came over the socket.
    #[cold]
    pub(super) fn is_over_socket_that_ends(&self) -> bool {
        let shared = &self.link.shared;
        self.is_over_socket && (shared.closed().is_some() || shared.control().is_peer_gone())
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Whether its rate is used up, so that nothing is taken from it.
    #[inline(always)]
    pub(super) fn is_held_back(&self) -> bool {
        self.allowance.is_held()
    }

    /// Takes nothing from now on, because its rate is used up. Returns until when, unless it is held back
    /// already.
    pub(super) fn hold_back(&mut self) -> Option<Instant> {
        let until = self.allowance.hold();
        self.counters
            .add(Counter::Throttled, until.is_some().into());
        until
    }

    /// Ends what [`hold_back`](Self::hold_back) began.
    pub(super) fn release(&mut self) {
        self.allowance.release();
    }

    /// Its client is at its end: it need not be held back any more.
    pub(super) fn lift_rate(&mut self) {
        self.allowance.lift();
    }

    /// The client has closed the connection behind what it had sent, which is taken first: a ring full
    /// at most, whatever it writes there from now on.
    pub(super) fn finish(&mut self) {
        self.ends_at = Some(self.link.rx.bytes() + self.link.shared.terms.ring_in as u64);
    }

    /// Whether [`finish`](Self::finish) was said.
    #[inline(always)]
    pub(super) fn is_finishing(&self) -> bool {
        self.ends_at.is_some()
    }

    /// Whether as much was taken since then as could have been there.
    pub(super) fn is_finished(&self) -> bool {
        self.ends_at.is_some_and(|end| self.link.rx.bytes() >= end)
    }

    /// The connection's number.
    #[cfg(feature = "tokio")]
    pub(super) fn id(&self) -> u64 {
        self.context.connection
    }

    /// Calls that are not answered yet, and answers that have not left.
    pub(super) fn in_flight(&self) -> usize {
        #[cfg(feature = "tokio")]
        return self.calls.len() + self.outbox.len();
        #[cfg(not(feature = "tokio"))]
        self.outbox.len()
    }

    /// Whether frames may be taken.
    #[inline(always)]
    fn takes_requests(&self) -> bool {
        !self.is_held_back() && self.has_room()
    }

    /// Whether answers find space, and few requests wait for others to end.
    #[inline(always)]
    fn has_room(&self) -> bool {
        #[cfg(feature = "tokio")]
        if self.calls.are_full() {
            return false;
        }
        self.outbox.is_nearly_empty()
    }

    /// Whether a turn would find something to do.
    #[inline(always)]
    pub(super) fn is_ready(&mut self) -> bool {
        (self.link.rx.ready() != Ready::Empty && self.takes_requests())
            || (!self.outbox.is_empty() && self.link.tx.is_ready(self.outbox.next_len()))
    }

    /// As [`is_ready`](Self::is_ready), for a worker that looks at hardly anything else.
    #[inline(always)]
    pub(super) fn watch(&mut self) -> bool {
        (self.link.rx.watch() != Ready::Empty && self.takes_requests())
            || (!self.outbox.is_empty() && self.link.tx.is_ready(self.outbox.next_len()))
    }

    /// Takes what is there, up to a turn's worth, and answers what can be answered at once.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    #[inline(always)]
    pub(super) fn turn(&mut self, bench: &mut Bench) -> Small<Found> {
        if bench.spare.capacity() > 0 {
            self.reassembly.recycle(std::mem::take(&mut bench.spare));
        }
        let mut busy = false;
        let (sent_before, received_before) = (self.link.tx.bytes(), self.link.rx.bytes());
        if !self.outbox.is_empty() {
            self.outbox
                .flush(&mut self.link.tx, |spent| bench.keep_reply(spent))?;
            busy = self.link.tx.bytes() != sent_before;
        }
        // Calls that somebody wants to see go the way on which they have spans.
        let traced = tracing::enabled!(target: CALLS, tracing::Level::DEBUG);
        let (allowed, began) = self.allowance.begin(bench.now);
        let (mut taken, mut answered) = (0, 0);
        // The place of the next call to be sampled, and of the last one.
        let (mut sample_at, mut sampled_at) = (bench.sampler.left(), 0);
        // When the handler of the call before ended, if that was sampled and nothing but its small
        // reply came after: soon enough to be the start of the next one. Looking at the clock takes
        // longer than what lies between, and who samples every call looks once for each.
        let mut just_ended = None;
        while taken < allowed && self.has_room() {
            match next_incoming(&mut self.link.rx, &mut self.reassembly, &mut bench.request)? {
                Some(Incoming::Request {
                    method,
                    id,
                    payload,
                }) => {
                    taken += 1;
                    let (mut began, before) = (None, just_ended.take());
                    if taken == sample_at {
                        sampled_at = taken;
                        sample_at += bench.sampler.next_gap();
                        began = Some(before.unwrap_or_else(Instant::now));
                    }
                    let handler = match bench.methods.get(method) {
                        Some(Handler::Sync(handler)) if !traced => Some(handler),
                        _ => None,
                    };
                    let Some(handler) = handler else {
                        bench.began = began;
                        let payload = payload.to_vec();
                        self.take_other(bench, Header::request(method, id), payload)?;
                        continue;
                    };
                    bench.reply.clear();
                    let (context, reply) = (&self.context, &mut bench.reply);
                    let result =
                        catch_unwind(AssertUnwindSafe(|| handler(context, payload, reply)));
                    let ended = began.map(|began| bench.handler_ended(began));
                    if let Ok(Ok(())) = result
                        && bench.reply.len() <= self.plain_reply_max
                        && self.outbox.is_empty()
                        && stage_plain(&mut self.link.tx, Tag::reply(), id, &bench.reply)?
                    {
                        answered += 1;
                        just_ended = ended;
                        if bench.alone && taken.is_multiple_of(REPLIES_TOGETHER) {
                            self.link.tx.publish();
                        }
                        continue;
                    }
                    self.answer_slowly(bench, id, result)?;
                }
                Some(Incoming::Message(message)) => {
                    taken += 1;
                    just_ended = None;
                    if taken == sample_at {
                        sampled_at = taken;
                        sample_at += bench.sampler.next_gap();
                        bench.began = Some(Instant::now());
                    }
                    let Message { header, payload } = message;
                    let payload = payload.into_owned();
                    self.take_other(bench, header, payload)?;
                }
                Some(Incoming::Partial) => {
                    taken += 1;
                    just_ended = None;
                    if taken == sample_at {
                        sampled_at = taken;
                        sample_at += bench.sampler.next_gap();
                    }
                }
                Some(Incoming::Reply { .. }) => {
                    return Err(self.unexpected("a reply"));
                }
                None => break,
            }
        }
        self.link.tx.publish();
        if let Some(spare) = self.reassembly.take_spare() {
            bench.spare = spare;
        }
        if busy || taken > 0 {
            bench.sampler.pass(taken - sampled_at);
            let (sent, received) = (self.link.tx.bytes(), self.link.rx.bytes());
            self.counters.add(Counter::MessagesReceived, taken);
            self.counters.add(Counter::CallsOk, answered);
            self.counters.add(Counter::MessagesSent, answered);
            self.counters.add(Counter::BytesSent, sent - sent_before);
            self.counters
                .add(Counter::BytesReceived, received - received_before);
            self.counters.add(Counter::Turns, 1);
            self.counted.messages_received += taken;
            self.counted.messages_sent += answered;
            self.count_rest(bench, taken, sent != sent_before);
        }
        if taken > 0 {
            self.link.rx.found();
        } else {
            self.link.rx.release();
            match self.link.rx.ready() {
                Ready::Closed => return Err(Error::closed(CloseReason::Finished).into()),
                Ready::Data if allowed == 0 && self.has_room() => {
                    self.allowance.end(0, began);
                    return Ok(Found::TooMuch);
                }
                _ => {}
            }
        }
        Ok(match self.allowance.end(taken, began) {
            true => Found::More,
            false if busy || taken > 0 => Found::Something,
            false => Found::Nothing,
        })
    }

    /// Counts what a turn has changed besides messages and bytes.
    #[inline(always)]
    fn count_rest(&mut self, bench: &mut Bench, taken: u64, some_left: bool) {
        self.count_wakeups();
        let in_flight = self.in_flight();
        if in_flight != self.counted.in_flight {
            self.count_in_flight(in_flight);
        }
        if self.outbox.is_empty() {
            self.counted.blocked_since = None;
        } else if some_left || self.counted.blocked_since.is_none() {
            self.counted.blocked_since = Some(bench.now);
        }
        if bench.turns.is_due() {
            bench.distributions.batch_size.record(taken);
            bench.distributions.queue_depth.record(in_flight as u64);
        }
    }

    /// Adds publications, and the wake-ups that some of them took, to what the worker has counted.
    #[inline(always)]
    fn count_wakeups(&mut self) {
        let (tx, counted) = (&self.link.tx, &mut self.counted);
        let publications = tx.publications() - counted.publications;
        counted.publications += publications;
        let wakeups = tx.rings() + self.link.rx.rings() - counted.wakeups;
        counted.wakeups += wakeups;
        // Rarely more: a wake-up for space follows no publication.
        let saved = publications.saturating_sub(wakeups);
        self.counters.add(Counter::WakeupsSaved, saved);
        if wakeups > 0 {
            self.counters.add(Counter::WakeupsSent, wakeups);
        }
    }

    #[cold]
    fn count_in_flight(&mut self, now: usize) {
        let before = std::mem::replace(&mut self.counted.in_flight, now);
        self.counters
            .replace(Gauge::CallsInFlight, before as u64, now as u64);
    }

    /// Counts how a call ended.
    fn count_call<T>(&self, ended: &Result<T, Status>) {
        if let Err(status) = ended {
            let (code, connection) = (status.code, self.context.connection);
            tracing::debug!(target: CALLS, %code, connection, "a call failed: {}", status.message);
        }
        self.counters.add(outcome(ended), 1);
    }

    /// Takes a slot of the page, in which observers see the connection.
    pub(super) fn show(&mut self, page: &CountersPage, worker: usize) {
        let shared = &self.link.shared;
        self.slot = page.open_slot();
        if let Some(slot) = &self.slot {
            slot.open(&Opened {
                id: shared.terms.connection_id,
                pid: shared.peer.pid,
                since: page.at(self.last_busy),
                ring_in: shared.terms.ring_in,
                ring_out: shared.terms.ring_out,
                features: shared.terms.features,
                worker,
                max_in_flight: shared.terms.max_in_flight,
                huge_pages: shared.huge_pages,
                label: &shared.terms.peer_label,
            });
        }
    }

    /// Says in the page how the connection is.
    pub(super) fn observe(&self, page: &CountersPage, now: Instant) {
        let Some(slot) = &self.slot else {
            return;
        };
        let (tx, rx, counted) = (&self.link.tx, &self.link.rx, &self.counted);
        let ((peer_head, peer_sleeps), (peer_tail, peer_waits)) =
            (tx.observe_peer(), rx.observe_peer());
        // What is sent over the socket is taken by this process, of which nobody sleeps for it.
        let peer_sleeps = peer_sleeps && !self.is_over_socket;
        let parked = !self.is_active;
        slot.observe(&Observed {
            state: match parked {
                true if self.is_held_back() => State::Throttled,
                true => State::Parked,
                false => State::Active,
            },
            messages_received: counted.messages_received,
            messages_sent: counted.messages_sent,
            consumed: rx.position(),
            head: rx.released(),
            peer_tail,
            produced: tx.position(),
            peer_head,
            in_flight: self.in_flight(),
            waiting: self.outbox.len(),
            blocked_since: counted.blocked_since.map_or(0, |since| page.at(since)),
            parked: [
                parked && self.takes_requests(),
                parked && !self.outbox.is_empty(),
                peer_sleeps,
                peer_waits,
            ],
            busy_at: page.at(self.last_busy),
            at: page.at(now),
        });
    }

    /// Announces that the worker will sleep until this connection has something, and says which
    /// fences must follow before the last look (see `waiter`).
    pub(super) fn announce(&mut self) -> [Option<Fences>; 2] {
        // Late answers are published by the next turn, and there will be none.
        self.link.tx.publish();
        // Over the socket it is the worker itself that fills the ring, when the kernel tells it to.
        let looks = !self.is_over_socket && self.takes_requests();
        let for_data = looks.then(|| self.link.rx.announce());
        let for_space = (!self.outbox.is_empty()).then(|| self.link.tx.announce());
        [for_data, for_space]
    }

    pub(super) fn disarm(&mut self) {
        self.link.rx.disarm();
        self.link.tx.disarm();
    }

    /// Tells the client that the server drains: calls that it has not sent should not be.
    pub(super) fn go_away(&mut self) -> Small<()> {
        let (header, payload) = status_frame(Kind::GoAway, 0, &Status::new(Code::OK, ""));
        self.send(header, payload)?;
        self.link.tx.publish();
        Ok(())
    }

    /// The connection ends: calls in flight are dropped, the peer sees the end of the ring and the
    /// reason.
    pub(super) fn close(mut self, code: CloseCode, reason: CloseReason) {
        #[cfg(feature = "tokio")]
        self.calls.abort_all();
        self.count_in_flight(0);
        self.count_wakeups();
        let orderly = !matches!(reason, CloseReason::Violation(_));
        if orderly {
            self.link.tx.publish();
        }
        // Before the end of the ring, so that a client that finds the end finds the reason too:
        // it says whether requests that have no answer may have been executed.
        self.link.shared.close_as(code, reason);
        if orderly {
            self.link.tx.close();
        }
    }

    /// Everything but a plain request to a sync handler.
    #[cold]
    #[inline(never)]
    fn take_other(&mut self, bench: &mut Bench, header: Header, payload: Vec<u8>) -> Small<()> {
        match header.kind {
            Kind::Request => self.take_request(bench, header, payload),
            #[cfg(feature = "tokio")]
            Kind::Cancel => self.cancel(bench, header.request_id),
            #[cfg(feature = "tokio")]
            Kind::Credit => {
                let credits = payload
                    .first_chunk()
                    .map_or(0, |bytes| u32::from_le_bytes(*bytes));
                self.calls.grant(header.request_id, credits);
                Ok(())
            }
            #[cfg(feature = "tokio")]
            Kind::StreamItem | Kind::StreamEnd => {
                let taken = self.calls.take_item(&header, payload);
                taken.map_err(|text| self.link.shared.violated(Violation::Frame(text)).into())
            }
            #[cfg(not(feature = "tokio"))]
            Kind::Cancel | Kind::Credit => Ok(()),
            Kind::Ping => self.send(Header::new(Kind::Pong, 0), payload).map(drop),
            Kind::Pong => Ok(()),
            Kind::Finish => Err(Error::closed(CloseReason::Finished).into()),
            other => Err(self.unexpected(&format!("a {other:?} frame"))),
        }
    }

    fn take_request(&mut self, bench: &mut Bench, header: Header, payload: Vec<u8>) -> Small<()> {
        if bench.draining {
            let text = "the server is shutting down; the call was not started";
            return self.refuse(&header, Code::DRAINING, text.into());
        }
        let id = header.request_id;
        let methods = bench.methods.clone();
        let Some(handler) = methods.get(header.method) else {
            let text = format!("the server has no method number {}", header.method);
            return self.refuse(&header, Code::UNKNOWN_METHOD, text);
        };
        if handler.shape().has_client_stream() != header.client_stream {
            let text = "the method takes a stream and got one request, or the other way round";
            return self.refuse(&header, Code::WRONG_SHAPE, text.into());
        }
        if header.deadline_ns == Some(0) {
            let status = Status::new(Code::DEADLINE_EXCEEDED, "");
            return self.answer_request(&header, Err(status));
        }
        let began = bench.began.take();
        let mut context = self.context.clone();
        let left = header.deadline_ns.map(Duration::from_nanos);
        context.deadline = left.and_then(|left| Instant::now().checked_add(left));
        if header.trace.is_some() && !self.link.shared.terms.carry_traces() {
            return Err(self.unexpected("a trace context, which was not agreed on,"));
        }
        // What names no trace is as good as none.
        context.trace = header.trace.filter(TraceContext::is_valid);
        let span = self.span(methods.name(header.method), &context, id);
        match handler {
            Handler::Sync(handler) => {
                bench.reply.clear();
                let reply = &mut bench.reply;
                let result = span.in_scope(|| {
                    catch_unwind(AssertUnwindSafe(|| handler(&context, &payload, reply)))
                });
                if let Some(began) = began {
                    bench.handler_ended(began);
                }
                if payload.capacity() <= KEPT_BUFFER {
                    self.reassembly.recycle(payload);
                }
                if header.one_way {
                    self.count_call(&ended(bench, result));
                    return Ok(());
                }
                self.answer_slowly(bench, id, result)
            }
            #[cfg(feature = "tokio")]
            Handler::Async { shape, start } => {
                bench.began = began;
                let start = (*shape, &**start);
                self.start(bench, &header, context, payload, start, span)
            }
        }
    }

    /// A call, as those see it who trace: from the handler's start to its end.
    fn span(&self, method: &str, context: &CallContext, id: u64) -> Span {
        let span = tracing::debug_span!(
            target: CALLS,
            "call",
            method,
            id,
            connection = context.connection,
            peer.pid = context.peer.pid,
            traceparent = tracing::field::Empty,
        );
        if let Some(trace) = &context.trace {
            span.record("traceparent", tracing::field::display(trace));
        }
        span
    }

    /// Starts an async handler, or puts the request off until another call has ended.
    #[cfg(feature = "tokio")]
    fn start(
        &mut self,
        bench: &mut Bench,
        header: &Header,
        context: CallContext,
        payload: Vec<u8>,
        (shape, start): (CallShape, &AsyncHandler),
        span: Span,
    ) -> Small<()> {
        let id = header.request_id;
        if self.calls.contains(id) {
            return Err(self.unexpected(&format!("call {id} twice at a time")));
        }
        if self.calls.are_all_running() {
            if shape != CallShape::Unary {
                let text = "too many calls are in flight on this connection";
                return self.refuse(header, Code::TOO_MANY_IN_FLIGHT, text.into());
            }
            self.calls.defer(*header, payload);
            return Ok(());
        }
        let began = bench.began.take();
        let account = shape.has_server_stream().then(|| {
            let credits = self.link.shared.terms.stream_credits;
            Arc::new(Account::new(credits))
        });
        let inlet = shape.has_client_stream().then(|| Arc::new(Inlet::new()));
        let streams = Streams {
            sender: account.clone().map(|account| {
                let max_item = self.link.shared.terms.max_message_out;
                ByteItemSender::new(account, self.address(bench, id), max_item)
            }),
            receiver: inlet
                .clone()
                .map(|inlet| ByteItemReceiver::new(inlet, self.address(bench, id))),
        };
        // Not returned: when the future's drop panics behind it, a returned value is lost for good.
        let mut ready = None;
        let started = catch_unwind(AssertUnwindSafe(|| {
            let mut call = span.in_scope(|| start(context, payload, streams));
            if !span.is_disabled() {
                call = Box::pin(call.instrument(span));
            }
            if shape != CallShape::Unary {
                return Some(call);
            }
            // Wake-ups meanwhile are not lost: a call that is not ready is spawned, and spawning
            // polls it again.
            match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => {
                    ready = Some(result);
                    None
                }
                Poll::Pending => Some(call),
            }
        }));
        let call = match started {
            Ok(Some(call)) => call,
            Ok(None) => {
                let result = ready.expect("a call that is not pending is ready");
                if let Some(began) = began {
                    bench.handler_ended(began);
                }
                return self.answer_request(header, result.map_err(Status::of_handler));
            }
            Err(panic) => return self.answer_request(header, Err(panicked(&*panic))),
        };
        let Some(runtime) = &bench.runtime else {
            let text = "the server has no runtime for async handlers";
            return self.answer_request(header, Err(Status::new(Code::INTERNAL, text)));
        };
        let Some(permit) = bench.running.permit() else {
            // It was polled, and may have done something.
            let limit = bench.running.limit();
            let text = format!("the server has {limit} calls that are not ready, its limit");
            let status = Status::new(Code::RESOURCE_EXHAUSTED, text);
            return self.answer_request(header, Err(status));
        };
        let left = header.deadline_ns.map(Duration::from_nanos);
        let running = Running {
            _permit: permit,
            abort: super::calls::spawn(runtime, call, left, self.address(bench, id)),
            shape,
            one_way: header.one_way,
            began,
            account,
            inlet,
        };
        self.calls.run(id, running);
        Ok(())
    }

    #[cfg(feature = "tokio")]
    fn address(&self, bench: &Bench, request: u64) -> Address {
        Address {
            mailbox: bench.mailbox.clone(),
            key: self.key,
            connection: self.id(),
            request,
        }
    }

    /// The caller has given up a call.
    #[cfg(feature = "tokio")]
    fn cancel(&mut self, bench: &mut Bench, id: u64) -> Small<()> {
        let status = Status::new(Code::CANCELLED, "");
        if let Some(header) = self.calls.withdraw_deferred(id) {
            return self.answer_request(&header, Err(status));
        }
        let Some(call) = self.calls.end(id) else {
            return Ok(());
        };
        call.abort();
        if call.shape.has_server_stream() {
            self.count_call::<()>(&Err(status.clone()));
            // Items that wait are of no use to anybody.
            let torn = matches!(self.outbox.withdraw(id), Withdrawn::Torn { .. });
            let (header, payload) = status_frame(Kind::StreamEnd, id, &status);
            let end = Outgoing::new(&self.link.tx, header, payload);
            if torn {
                self.outbox.push_first(end);
            } else {
                self.outbox.push(end);
            }
            self.outbox.flush(&mut self.link.tx, drop)?;
        } else if !call.one_way {
            self.answer(id, Err(status))?;
        } else {
            self.count_call::<()>(&Err(status));
        }
        self.start_deferred(bench)
    }

    /// Starts calls that waited for others to end.
    #[cfg(feature = "tokio")]
    fn start_deferred(&mut self, bench: &mut Bench) -> Small<()> {
        while let Some((header, payload)) = self.calls.next_deferred() {
            // Whether it was to be sampled when it came is forgotten.
            bench.began = bench.deferred.is_due().then(Instant::now);
            self.take_request(bench, header, payload)?;
        }
        Ok(())
    }

    /// The answer of a call that moved to the runtime. Published by the next turn.
    #[cfg(feature = "tokio")]
    pub(super) fn answer_late(
        &mut self,
        bench: &mut Bench,
        id: u64,
        result: Result<Vec<u8>, Status>,
    ) -> Small<()> {
        let Some(call) = self.calls.end(id) else {
            // Cancelled and answered meanwhile.
            return Ok(());
        };
        call.leave();
        if let Some(began) = call.began {
            bench.handler_ended(began);
        }
        if call.shape.has_server_stream() {
            self.end_stream(id, result.map(drop))?;
        } else if !call.one_way {
            self.answer(id, result)?;
        } else {
            self.count_call(&result);
        }
        self.start_deferred(bench)
    }

    /// An item of a stream. Credits bound how many of them can wait in the outbox.
    #[cfg(feature = "tokio")]
    pub(super) fn send_item(&mut self, id: u64, item: Vec<u8>) -> Small<()> {
        if !self.calls.contains(id) {
            return Ok(());
        }
        self.send(Header::new(Kind::StreamItem, id), item).map(drop)
    }

    /// Tells the caller that the handler took items of its stream.
    #[cfg(feature = "tokio")]
    pub(super) fn send_credits(&mut self, id: u64, credits: u32) -> Small<()> {
        if !self.calls.grant_caller(id, credits) {
            return Ok(());
        }
        self.send(
            Header::new(Kind::Credit, id),
            credits.to_le_bytes().to_vec(),
        )
        .map(drop)
    }

    /// The end of a stream.
    #[cfg(feature = "tokio")]
    fn end_stream(&mut self, id: u64, result: Result<(), Status>) -> Small<()> {
        self.count_call(&result);
        let status = result.err().unwrap_or_else(|| Status::new(Code::OK, ""));
        let (header, payload) = status_frame(Kind::StreamEnd, id, &status);
        self.send(header, payload).map(drop)
    }

    /// Answers a call whose reply is not plain, or found no space.
    #[cold]
    #[inline(never)]
    fn answer_slowly(
        &mut self,
        bench: &mut Bench,
        id: u64,
        result: std::thread::Result<Result<(), Status>>,
    ) -> Small<()> {
        let result = ended(bench, result);
        let spent = self.answer(id, result)?;
        bench.keep_reply(spent);
        if bench.reply.capacity() > KEPT_BUFFER {
            bench.reply = Vec::new();
        }
        Ok(())
    }

    /// Turns a request away without a handler having seen it.
    fn refuse(&mut self, header: &Header, code: Code, text: String) -> Small<()> {
        self.answer_request(header, Err(Status::new(code, text)))
    }

    /// Answers a request, unless the caller wants no answer.
    fn answer_request(&mut self, header: &Header, result: Result<Vec<u8>, Status>) -> Small<()> {
        if header.one_way {
            self.count_call(&result);
            return Ok(());
        }
        self.answer(header.request_id, result).map(drop)
    }

    /// Answers a call. Returns the reply's buffer, as [`send`](Self::send) does.
    fn answer(&mut self, id: u64, result: Result<Vec<u8>, Status>) -> Small<Vec<u8>> {
        let limit = self.link.shared.terms.max_message_out;
        let too_large = |reply: &Vec<u8>| reply.len() as u64 > limit;
        match &result {
            Ok(reply) if too_large(reply) => self.counters.add(Counter::CallsFailed, 1),
            result => self.count_call(result),
        }
        let (header, payload) = match result {
            Ok(reply) if !too_large(&reply) => (Header::reply(id), reply),
            Ok(reply) => {
                let text = format!(
                    "the reply has {} bytes, the caller accepts {limit}",
                    reply.len()
                );
                let status = Status::new(Code::REPLY_TOO_LARGE, text);
                status_frame(Kind::Error, id, &status)
            }
            Err(status) => status_frame(Kind::Error, id, &status),
        };
        self.send(header, payload)
    }

    /// Stages a message, or as much of it as fits; the rest waits. Returns the payload's buffer,
    /// or an empty one while it is needed.
    fn send(&mut self, header: Header, payload: Vec<u8>) -> Small<Vec<u8>> {
        self.counters.add(Counter::MessagesSent, 1);
        self.counted.messages_sent += 1;
        let mut message = Outgoing::new(&self.link.tx, header, payload);
        if self.outbox.is_empty() && message.stage(&mut self.link.tx)? {
            return Ok(message.into_payload());
        }
        self.counters.add(Counter::FullRingWaits, 1);
        self.outbox.push(message);
        Ok(Vec::new())
    }

    #[cold]
    fn unexpected(&self, what: &str) -> Box<Error> {
        let text = format!("the client sent {what}, which a server does not take");
        self.link.shared.violated(Violation::Frame(text)).into()
    }
}

/// What a sync handler has made of a call.
fn ended(
    bench: &mut Bench,
    result: std::thread::Result<Result<(), Status>>,
) -> Result<Vec<u8>, Status> {
    match result {
        Ok(Ok(())) => Ok(std::mem::take(&mut bench.reply)),
        Ok(Err(status)) => Err(status.of_handler()),
        Err(panic) => Err(panicked(&*panic)),
    }
}

/// Where a call is counted.
fn outcome<T>(ended: &Result<T, Status>) -> Counter {
    let Err(status) = ended else {
        return Counter::CallsOk;
    };
    match status.code {
        Code::HANDLER_PANICKED => Counter::CallsPanicked,
        Code::CANCELLED => Counter::CallsCancelled,
        Code::DEADLINE_EXCEEDED => Counter::CallsDeadline,
        Code::DRAINING | Code::TOO_MANY_IN_FLIGHT | Code::UNKNOWN_METHOD | Code::WRONG_SHAPE => {
            Counter::CallsRefused
        }
        _ => Counter::CallsFailed,
    }
}

fn status_frame(kind: Kind, id: u64, status: &Status) -> (Header, Vec<u8>) {
    let (code, text) = encode_status(status.code, &status.message);
    let mut payload = code.to_vec();
    payload.extend_from_slice(text);
    (Header::new(kind, id), payload)
}

/// What the caller is told about a handler that panicked.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Status {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "no message",
    };
    Status::new(
        Code::HANDLER_PANICKED,
        format!("the handler panicked: {text}"),
    )
}
