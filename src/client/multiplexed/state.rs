//! What is known of a connection and its calls, under one lock.

use super::calls::{Calls, ItemQueue, LINE, Rare, Reply, Slot, Upload};
use crate::client::STREAM_CREDITS;
use crate::client::blocking::{status_of, unexpected};
use crate::error::{CloseReason, Error, Small, Status, Violation};
use crate::layout::WORD;
use crate::link::{
    AsyncWaiter, Incoming, Link, Outbox, Outgoing, Waited, Wanted, Withdrawn, next_incoming,
    plain_reply, stage_plain, whole_max,
};
use crate::metrics::Latencies;
use crate::proto::credit::{CreditBalance, credit_cost};
use crate::proto::frame::{Flags, Header, Kind, Tag, TraceContext};
use crate::proto::handshake::CallShape;
use crate::proto::reassembly::{Message, Reassembly};
use crate::proto::status::encode_status;
use crate::ring::Ready;
use crate::segment::prefetch_for_write;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

/// Records that are taken at a time, so that no task holds its thread, or the lock, for long.
const RECORDS_PER_LOOK: usize = 256;

/// Requests that are published together at most.
const PUBLISHED_TOGETHER: u32 = 8;

/// Lines that are fetched of a task: Tokio's header, and a future that makes a call (docs: tuning).
const TASK_LINES: usize = 4;

#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    /// For the driver's sleep.
    pub(super) waiter: AsyncWaiter,
    reassembly: Reassembly,
    /// Where replies are copied to.
    buffer: Vec<u8>,
    calls: Calls,
    /// Tells apart calls that had the same place; part of their number on the wire.
    generation: u32,
    /// Calls whose end has not come.
    pending: usize,
    /// Calls that were given up and whose end has not come. Until then the driver goes on to
    /// receive: the server reads no cancellation while what it sends for a call finds no space.
    abandoned: usize,
    /// What the ring had no space for. The driver sends it, so that a call whose future is not
    /// polled any more hinders nobody.
    outbox: Outbox,
    /// Futures that wait for a place among the calls, by ticket.
    want_place: VecDeque<(u64, Waker)>,
    /// Futures that wait for the outbox to be nearly empty.
    want_room: Vec<Waker>,
    next_ticket: u64,
    /// The connection is over: calls find their end in `link.shared`.
    pub(super) over: bool,
    /// The server has said that it shuts down; new calls are not sent.
    pub(super) draining: bool,
    /// Whether the driver will be polled without anybody's doing.
    pub(super) driver_awake: bool,
    /// Whether the driver will be polled in a moment, and not only when the doorbell rings.
    pub(super) driver_running: bool,
    /// Requests that are staged and not published; see [`publish_soon`](Self::publish_soon).
    unpublished: u32,
    /// To wake the driver.
    pub(super) driver: Option<Waker>,
    /// How many calls may be made alone before one looks whether it is.
    pub(super) solo_left: u32,
    /// Who waits for the connection's end.
    pub(super) want_end: Vec<Waker>,
    /// Pings that were sent; the last one's number.
    pings: u64,
    /// The number of the last ping that was answered.
    pongs: u64,
    /// Who waits for an answer to a ping.
    want_pong: Vec<Waker>,
    /// Calls that were begun.
    pub(super) begun: u64,
    pub(super) latencies: Latencies,
    /// Spins of the driver that found something, and that did not.
    pub(super) driver_spins: (u64, u64),
    /// Wakers due, to be called without the lock.
    pub(super) to_wake: VecDeque<Waker>,
}

/// Asks for the memory of the task that a waker is of, which the wake-up writes and the task's next
/// run reads: it was last used a round of calls ago. Where the waker's pointer leads to no task, or
/// the future lies elsewhere, lines are fetched in vain.
#[inline(always)]
fn prefetch_task(waker: &Waker) {
    let header = waker.data().cast_mut().cast::<u8>();
    for line in 0..TASK_LINES {
        if let Some(at) = NonNull::new(header.wrapping_add(line * LINE)) {
            prefetch_for_write(at);
        }
    }
}

impl State {
    pub(super) fn new(link: Link, waiter: AsyncWaiter, sampling: u32) -> Self {
        let limit = usize::try_from(link.shared.terms.max_message_in).unwrap_or(usize::MAX);
        Self {
            link,
            waiter,
            reassembly: Reassembly::new(limit),
            buffer: Vec::new(),
            calls: Calls::default(),
            generation: 0,
            pending: 0,
            abandoned: 0,
            outbox: Outbox::default(),
            want_place: VecDeque::new(),
            want_room: Vec::new(),
            next_ticket: 0,
            over: false,
            draining: false,
            driver_awake: false,
            driver_running: false,
            unpublished: 0,
            driver: None,
            solo_left: 0,
            want_end: Vec::new(),
            pings: 0,
            pongs: 0,
            want_pong: Vec::new(),
            begun: 0,
            latencies: Latencies::new(sampling),
            driver_spins: (0, 0),
            to_wake: VecDeque::new(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Whether one call is in flight and its request is with the server.
    #[inline(always)]
    pub(super) fn is_solo(&self) -> bool {
        self.calls.len() == 1 && self.outbox.is_empty()
    }

    /// Whether a call's end, or anything else that the server will send, is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending > 0 || self.abandoned > 0 || !self.outbox.is_empty() || self.pongs < self.pings
    }

    /// Whether [`receive`](Self::receive) would find something.
    #[inline(always)]
    pub(super) fn has_news(&mut self) -> bool {
        self.link.rx.watch() != Ready::Empty
            || (!self.outbox.is_empty() && self.link.tx.is_ready(self.outbox.next_len()))
    }

    /// A place for a call, and its number; `None` at the connection's limit.
    pub(super) fn take_place(
        &mut self,
        ticket: Option<&mut Option<u64>>,
        shape: CallShape,
    ) -> Option<(usize, u64)> {
        if self.calls.len() >= self.link.shared.terms.max_in_flight {
            return None;
        }
        if let Some(ticket) = ticket.and_then(Option::take) {
            self.want_place.retain(|(other, _)| *other != ticket);
        }
        self.generation = self.generation.wrapping_add(1);
        self.begun += 1;
        // How long a stream takes says little.
        let began = match shape {
            CallShape::Unary => self.latencies.begin(),
            _ => None,
        };
        let items = shape.has_server_stream().then(|| ItemQueue {
            items: VecDeque::new(),
            balance: CreditBalance::new(STREAM_CREDITS),
            taken: 0,
        });
        let upload = shape.has_client_stream().then(|| Upload {
            balance: CreditBalance::new(self.link.shared.terms.stream_credits),
            waker: None,
            finished: false,
        });
        let is_rare = began.is_some() || shape != CallShape::Unary;
        let rare = is_rare.then(|| {
            Box::new(Rare {
                began,
                items,
                upload,
            })
        });
        let (key, id) = self.calls.insert(self.generation, rare);
        self.pending += 1;
        Some((key, id))
    }

    /// Has the future woken when a place may be free.
    pub(super) fn queue_for_place(&mut self, ticket: &mut Option<u64>, cx: &Context<'_>) {
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

    /// Gives up a ticket. If it was called up already, the next one is.
    pub(super) fn leave_queue(&mut self, ticket: &mut Option<u64>) {
        if let Some(ticket) = ticket.take() {
            let before = self.want_place.len();
            self.want_place.retain(|(other, _)| *other != ticket);
            if self.want_place.len() == before {
                self.call_up_next();
            }
        }
    }

    fn call_up_next(&mut self) {
        self.to_wake
            .extend(self.want_place.pop_front().map(|(_, waker)| waker));
    }

    /// Sends a call's message, or as much of it as fits; the driver sends the rest.
    #[inline]
    pub(super) fn send(&mut self, header: Header, payload: Cow<'_, [u8]>) -> Small<()> {
        if header.flags() == Flags::NONE
            && header.kind == Kind::Request
            && self.send_plain(header.method, header.request_id, &payload)?
        {
            return Ok(());
        }
        self.send_slowly(header, payload)
    }

    /// Sends a request of which nothing more is to be said, if it fits into the ring now.
    #[inline]
    pub(super) fn send_plain(&mut self, method: u16, id: u64, payload: &[u8]) -> Small<bool> {
        let tx = &mut self.link.tx;
        let sent = payload.len() <= whole_max(tx)
            && self.outbox.lets_pass(WORD + payload.len(), tx)
            && stage_plain(tx, Tag::request(method), id, payload)?;
        if sent {
            self.publish_soon();
        }
        Ok(sent)
    }

    #[cold]
    pub(super) fn send_slowly(&mut self, header: Header, payload: Cow<'_, [u8]>) -> Small<()> {
        let mut message = Outgoing::new(&self.link.tx, header, payload);
        if self.outbox.is_empty() && message.stage(&mut self.link.tx)? {
            self.publish();
            return Ok(());
        }
        self.publish();
        self.outbox.push(message.map_payload(Cow::into_owned));
        // The driver may be asleep for data alone.
        self.driver_awake = false;
        self.wake_driver();
        Ok(())
    }

    /// Sends a request that gets no answer. Waits while more than one large message waits to go
    /// out, so that a flood does not fill the memory.
    pub(super) fn poll_notify(
        &mut self,
        method: u16,
        payload: &[u8],
        trace: Option<TraceContext>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if self.over || self.draining {
            return Poll::Ready(Err(self.error()));
        }
        if !self.outbox.is_nearly_empty() {
            // Once, however often it is polled while the server takes nothing.
            self.want_room.retain(|waker| !waker.will_wake(cx.waker()));
            self.want_room.push(cx.waker().clone());
            return Poll::Pending;
        }
        self.generation = self.generation.wrapping_add(1);
        self.begun += 1;
        // No call has this place.
        let id = u64::from(self.generation) << 32 | u64::from(u32::MAX);
        let mut header = Header::request(method, id);
        header.trace = trace;
        header.one_way = true;
        let sent = self.send(header, Cow::Borrowed(payload));
        if sent.is_err() {
            self.end_all();
        }
        Poll::Ready(sent.map_err(Error::from))
    }

    /// Sends a ping, the first time, and waits for its answer.
    pub(super) fn poll_ping(
        &mut self,
        number: &mut Option<u64>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if number.is_some_and(|number| number <= self.pongs) {
            return Poll::Ready(Ok(()));
        }
        if self.over || (number.is_none() && self.draining) {
            return Poll::Ready(Err(self.error()));
        }
        if number.is_none() {
            self.pings += 1;
            *number = Some(self.pings);
            let ping = Header::new(Kind::Ping, 0);
            let payload = self.pings.to_le_bytes().to_vec();
            if let Err(error) = self.send(ping, Cow::Owned(payload)) {
                self.end_all();
                return Poll::Ready(Err(error.into()));
            }
        }
        self.want_pong.retain(|waker| !waker.will_wake(cx.waker()));
        self.want_pong.push(cx.waker().clone());
        self.wake_driver();
        Poll::Pending
    }

    /// As [`send`](Self::send), for small frames about a call. An error is found by whoever looks
    /// next.
    fn note(&mut self, header: Header, payload: Vec<u8>) {
        let _ = self.send(header, Cow::Owned(payload));
    }

    /// Sends an item of a call's stream when there are credits for it.
    pub(super) fn poll_send_item(
        &mut self,
        key: usize,
        item: &mut Vec<u8>,
        cx: &Context<'_>,
    ) -> Poll<Small<()>> {
        let call = &mut self.calls[key];
        let (id, over) = (call.id, call.end.is_some());
        let Some(upload) = call.upload() else {
            return Poll::Ready(Ok(()));
        };
        if over {
            // The call's end says how it went; nobody needs the item any more.
            return Poll::Ready(Ok(()));
        }
        if !upload.balance.spend(item.len() as u64) {
            upload.waker = Some(cx.waker().clone());
            self.wake_driver();
            return Poll::Pending;
        }
        let header = Header::new(Kind::StreamItem, id);
        Poll::Ready(self.send(header, Cow::Owned(std::mem::take(item))))
    }

    /// Ends a call's stream to the server, once.
    pub(super) fn finish_upload(&mut self, key: usize, status: &Status) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        let (id, over) = (call.id, call.end.is_some());
        if let Some(upload) = call.upload()
            && !std::mem::replace(&mut upload.finished, true)
            && !over
        {
            let (code, text) = encode_status(status.code, &status.message);
            let header = Header::new(Kind::StreamEnd, id);
            self.note(header, [&code, text].concat());
        }
    }

    /// Publishes a staged request: at once, or with a few others if several calls are in flight
    /// and the driver, which publishes whatever is staged, is about to run.
    ///
    /// The server polls the line behind the last published record. Publishing there takes the line
    /// back from it, and the next locked instruction waits for that; once for eight calls is
    /// cheaper than once for each.
    #[inline]
    pub(super) fn publish_soon(&mut self) {
        self.unpublished += 1;
        if !self.driver_running || self.calls.len() == 1 || self.unpublished >= PUBLISHED_TOGETHER {
            self.publish();
        }
    }

    /// Publishes whatever is staged.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.unpublished = 0;
        self.link.tx.publish();
    }

    /// Remembers whom to wake for a call.
    #[inline]
    pub(super) fn watch(&mut self, key: usize, cx: &Context<'_>) {
        let waker = &mut self.calls[key].waker;
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes the driver, unless it is awake.
    #[inline]
    pub(super) fn wake_driver(&mut self) {
        if !std::mem::replace(&mut self.driver_awake, true) {
            self.driver_running = true;
            self.to_wake.extend(self.driver.clone());
        }
    }

    /// How a call ended, once.
    #[inline]
    pub(super) fn claim(&mut self, key: usize) -> Option<Small<Vec<u8>>> {
        self.calls.claim(key)
    }

    /// The next item of a stream, if one is there. Grants the server credits for it.
    pub(super) fn take_item(&mut self, key: usize) -> Option<Vec<u8>> {
        let call = &mut self.calls[key];
        let (id, ended) = (call.id, call.end.is_some());
        let queue = call.items()?;
        let item = queue.items.pop_front()?;
        queue.taken += u32::try_from(credit_cost(item.len() as u64)).unwrap_or(u32::MAX);
        // Half the window at a time: few frames, and the server never runs dry meanwhile.
        if queue.taken >= STREAM_CREDITS / 2 && !ended {
            let credits = std::mem::take(&mut queue.taken);
            queue.balance.grant(credits);
            let header = Header::new(Kind::Credit, id);
            self.note(header, credits.to_le_bytes().to_vec());
        }
        Some(item)
    }

    /// Takes everything that has arrived, up to a bound, and notes whom to wake. Returns how much
    /// it was. When the connection is over, every call gets its end.
    #[inline]
    pub(super) fn receive(&mut self) -> usize {
        if self.over {
            return 0;
        }
        match self.exchange() {
            Ok(count) => count,
            Err(_) => {
                // `violated` has noted the reason.
                self.end_all();
                1
            }
        }
    }

    #[inline]
    fn exchange(&mut self) -> Small<usize> {
        if !self.outbox.is_empty() {
            self.outbox.flush(&mut self.link.tx, drop)?;
            self.room_made();
        }
        let count = self.take_records()?;
        if count > 0 {
            self.link.rx.found();
        }
        if count == 0 && self.link.rx.ready() == Ready::Closed {
            self.end_all();
            return Ok(1);
        }
        Ok(count)
    }

    #[inline]
    fn take_records(&mut self) -> Small<usize> {
        for count in 0..RECORDS_PER_LOOK {
            match self.take_short_reply()? {
                None => return Ok(count),
                Some(true) => continue,
                Some(false) => {}
            }
            let incoming =
                next_incoming(&mut self.link.rx, &mut self.reassembly, &mut self.buffer)?;
            match incoming {
                None => return Ok(count),
                Some(Incoming::Reply { id, payload }) => {
                    if let Some(call) = self.calls.get_mut(id as u32 as usize)
                        && call.id == id
                        && call.end.is_none()
                    {
                        call.end = Some(Ok(Reply::Owned(payload.to_vec())));
                        self.pending -= 1;
                        self.to_wake.extend(call.waker.take());
                        if call.upload().is_some() {
                            self.end_upload(id);
                        }
                    } else {
                        // Another number, or none, in its place: a call that was given up.
                        self.abandoned = self.abandoned.saturating_sub(1);
                    }
                }
                Some(Incoming::Partial) => {}
                Some(Incoming::Request { .. }) => {
                    return Err(unexpected(&self.link, "a request").into());
                }
                Some(Incoming::Message(message)) => {
                    let Message { header, payload } = message;
                    let payload = payload.into_owned();
                    self.take_message(&header, payload)?;
                }
            }
        }
        Ok(RECORDS_PER_LOOK)
    }

    /// Takes what has come if it is a short reply that somebody waits for: straight to its place.
    /// `false` if it is something else, which is still there.
    #[inline(always)]
    fn take_short_reply(&mut self) -> Small<Option<bool>> {
        let Self {
            link,
            reassembly,
            calls,
            pending,
            to_wake,
            ..
        } = self;
        link.rx.pop_if(|record| {
            let Some(id) = plain_reply(&record, reassembly) else {
                return (false, false);
            };
            let Some((call, short)) = calls.find(id) else {
                return (false, false);
            };
            let len = record.len() - WORD;
            let Some(short) = short.0.get_mut(..len) else {
                return (false, false);
            };
            if call.end.is_some() || call.upload().is_some() {
                return (false, false);
            }
            record.read(WORD, short);
            call.end = Some(Ok(Reply::Short(len)));
            *pending -= 1;
            if let Some(waker) = call.waker.take() {
                prefetch_task(&waker);
                to_wake.push_back(waker);
            }
            (true, true)
        })
    }

    /// A call that sends a stream has ended, perhaps before the stream has: whoever waits for
    /// credits waits no longer, and what waits for the ring is of no use.
    #[cold]
    fn end_upload(&mut self, id: u64) {
        let call = self.calls.get_mut(id as u32 as usize);
        let Some(upload) = call.and_then(Slot::upload) else {
            return;
        };
        self.to_wake.extend(upload.waker.take());
        let withdrawn = self.withdraw(id);
        if let Withdrawn::Torn { .. } = withdrawn {
            self.cancel(id, withdrawn);
        }
    }

    fn take_message(&mut self, header: &Header, payload: Vec<u8>) -> Small<()> {
        let call = self.calls.get_mut(header.request_id as u32 as usize);
        let call = call.filter(|call| call.id == header.request_id && call.end.is_none());
        let end = match header.kind {
            Kind::Reply => Ok(Reply::Owned(payload)),
            Kind::Error => Err(Box::new(status_of(header, &payload).into())),
            Kind::StreamEnd => {
                let status = status_of(header, &payload);
                if status.code == crate::Code::OK {
                    Ok(Reply::Owned(Vec::new()))
                } else {
                    Err(Box::new(status.into()))
                }
            }
            Kind::StreamItem => {
                let Some(call) = call else { return Ok(()) };
                if let Some(queue) = call.items() {
                    if !queue.balance.spend(payload.len() as u64) {
                        let text = "the server sent more of a stream than it has credits for";
                        return Err(self
                            .link
                            .shared
                            .violated(Violation::Frame(text.into()))
                            .into());
                    }
                    queue.items.push_back(payload);
                    self.to_wake.extend(call.waker.take());
                }
                return Ok(());
            }
            Kind::Credit => {
                let credits = payload
                    .first_chunk()
                    .map_or(0, |bytes| u32::from_le_bytes(*bytes));
                if let Some(upload) = call.and_then(Slot::upload) {
                    upload.balance.grant(credits);
                    self.to_wake.extend(upload.waker.take());
                }
                return Ok(());
            }
            Kind::GoAway => {
                self.draining = true;
                self.to_wake.extend(self.want_end.drain(..));
                return Ok(());
            }
            Kind::Pong => {
                let number = payload
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_le_bytes(*bytes));
                // No more than was asked for, whatever the server says.
                self.pongs = self.pongs.max(number.min(self.pings));
                self.to_wake.extend(self.want_pong.drain(..));
                return Ok(());
            }
            Kind::Ping => return Ok(()),
            other => return Err(unexpected(&self.link, &format!("a {other:?} frame")).into()),
        };
        if let Some(call) = call {
            call.end = Some(end);
            self.pending -= 1;
            self.to_wake.extend(call.waker.take());
            if call.upload().is_some() {
                self.end_upload(header.request_id);
            }
        } else {
            self.abandoned = self.abandoned.saturating_sub(1);
        }
        Ok(())
    }

    /// The driver's sleep until there is something, or somebody wants space and there is.
    pub(super) fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<Small<Waited>> {
        let link = &mut self.link;
        let waiting = !self.outbox.is_empty();
        let space = waiting.then_some((&mut link.tx, self.outbox.next_len()));
        let waited = self.waiter.poll_wait(
            cx,
            Wanted {
                data: Some(&mut link.rx),
                space,
            },
        );
        if let Poll::Ready(Ok(Waited::Ready)) = waited
            && self.link.rx.ready() == Ready::Closed
        {
            return Poll::Ready(Ok(Waited::Closed));
        }
        waited
    }

    /// The driver's sleep while nothing is to come, until the connection is over.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Small<Waited>> {
        self.stay_awake();
        self.waiter.poll_idle(cx)
    }

    /// Takes back the driver's announcement that it sleeps. If there was one, nobody rings the
    /// driver any more, so the next pending call must wake it.
    #[inline]
    pub(super) fn stay_awake(&mut self) {
        if self.waiter.is_armed() {
            let link = &mut self.link;
            let space = Some((&mut link.tx, 0));
            self.waiter.disarm(Wanted {
                data: Some(&mut link.rx),
                space,
            });
            self.driver_awake = false;
        }
    }

    /// Takes out a call that has ended and was claimed.
    #[inline]
    pub(super) fn remove(&mut self, key: usize) {
        let rare = self.calls.remove(key);
        if let Some(began) = rare.and_then(|rare| rare.began) {
            self.latencies.end(began);
        }
        self.call_up_next();
    }

    /// Takes out a call that nobody waits for any more. What the server has of it is cancelled.
    pub(super) fn abandon(&mut self, key: usize) {
        let call = &self.calls[key];
        let (id, over) = (call.id, call.end.is_some());
        self.calls.remove(key);
        if !over {
            self.pending -= 1;
            let withdrawn = self.withdraw(id);
            if !matches!(
                withdrawn,
                Withdrawn::Unseen | Withdrawn::Torn { request: true }
            ) {
                self.abandoned += 1;
                // Who waited for the call's end is gone; the driver waits in its place.
                self.wake_driver();
            }
            self.cancel(id, withdrawn);
        }
        self.call_up_next();
    }

    /// Takes out what waits of a call.
    fn withdraw(&mut self, id: u64) -> Withdrawn {
        let withdrawn = self.outbox.withdraw(id);
        self.room_made();
        withdrawn
    }

    /// Less waits in the outbox than did: whoever waits for that has its turn. Nobody else says so
    /// once the outbox is empty, for then nothing is left to be sent.
    fn room_made(&mut self) {
        if self.outbox.is_nearly_empty() {
            self.to_wake.extend(self.want_room.drain(..));
        }
    }

    /// Tells the server that nobody waits for a call, whose messages were withdrawn.
    fn cancel(&mut self, id: u64, withdrawn: Withdrawn) {
        let header = Header::new(Kind::Cancel, id);
        match withdrawn {
            Withdrawn::Unseen => {}
            Withdrawn::Whole => self.note(header, Vec::new()),
            Withdrawn::Torn { .. } => {
                let mut cancel = Outgoing::new(&self.link.tx, header, Vec::new());
                if !matches!(cancel.stage(&mut self.link.tx), Ok(true)) {
                    self.outbox.push_first(cancel);
                    self.driver_awake = false;
                    self.wake_driver();
                }
                self.publish();
            }
        }
    }

    /// The connection is over: every call gets its end.
    pub(super) fn end_all(&mut self) {
        self.over = true;
        self.link.shared.read_last_word();
        if self.link.shared.closed().is_none() {
            self.link.shared.close(CloseReason::Finished);
        }
        for call in self.calls.iter_mut() {
            if call.end.is_none() {
                let error = match self.outbox.withdraw(call.id) {
                    // The server cannot have seen a whole request.
                    Withdrawn::Unseen | Withdrawn::Torn { request: true } => {
                        self.link.shared.closed_error()
                    }
                    _ => self.link.shared.closed_error().of_sent_call(),
                };
                call.end = Some(Err(error.into()));
            }
            self.to_wake.extend(call.waker.take());
            let upload = call.upload();
            self.to_wake
                .extend(upload.and_then(|upload| upload.waker.take()));
        }
        self.pending = 0;
        self.abandoned = 0;
        self.outbox = Outbox::default();
        self.to_wake
            .extend(self.want_place.drain(..).map(|(_, waker)| waker));
        self.to_wake.extend(self.want_room.drain(..));
        self.to_wake.extend(self.want_end.drain(..));
        self.to_wake.extend(self.want_pong.drain(..));
        self.to_wake.extend(self.driver.clone());
    }

    /// The error for calls that are not sent: the connection is over, or about to be.
    pub(super) fn error(&self) -> Error {
        if self.over {
            return self.link.shared.closed_error();
        }
        let text = "the server is shutting down; the call was not sent";
        Status::new(crate::Code::DRAINING, text).into()
    }

    /// Closes the connection from this side.
    pub(super) fn close(&mut self) {
        self.link.tx.close();
        self.link.shared.close(CloseReason::Local);
    }
}
