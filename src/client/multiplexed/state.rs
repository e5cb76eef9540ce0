//! What is known of a connection and its calls, under one lock.

use crate::client::STREAM_CREDITS;
use crate::client::blocking::{status_of, unexpected};
use crate::error::{CloseReason, Error, Small, Violation};
use crate::link::{
    AsyncWaiter, Incoming, Link, Outgoing, Waited, Wanted, next_incoming, stage_frame,
};
use crate::proto::credit::{CreditBalance, credit_cost};
use crate::proto::frame::{Header, Kind};
use crate::proto::reassembly::{Message, Reassembly};
use crate::ring::Ready;
use slab::Slab;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// Records that are taken at a time, so that no task holds its thread, or the lock, for long.
const RECORDS_PER_LOOK: usize = 256;

#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    /// For the driver's sleep.
    pub(super) waiter: AsyncWaiter,
    reassembly: Reassembly,
    /// Where replies are copied to.
    buffer: Vec<u8>,
    calls: Slab<Slot>,
    /// Tells apart calls that had the same place; part of their number on the wire.
    generation: u32,
    /// Calls whose end has not come.
    pending: usize,
    /// The call whose fragments are on their way; at most one may be.
    fragmenting: Option<usize>,
    /// Calls that wait for that one's fragments to be through.
    want_turn: Vec<usize>,
    /// Calls that wait for space in the ring, and the most that any of them needs, in bytes.
    want_space: Vec<usize>,
    space_needed: usize,
    /// Futures that wait for a place among the calls, by ticket.
    want_place: VecDeque<(u64, Waker)>,
    next_ticket: u64,
    /// Frames about calls (cancellations, credits) for which the ring had no space.
    notes: VecDeque<(Header, [u8; 4])>,
    /// The connection is over: calls find their end in `link.shared`.
    pub(super) over: bool,
    /// Whether the driver will be polled without anybody's doing.
    pub(super) driver_awake: bool,
    /// To wake the driver.
    pub(super) driver: Option<Waker>,
    /// How many calls may be made alone before one looks whether it is.
    pub(super) solo_left: u32,
    /// Wakers due, to be called without the lock.
    pub(super) to_wake: Vec<Waker>,
}

/// A call that has a place.
#[derive(Debug)]
struct Slot {
    id: u64,
    waker: Option<Waker>,
    /// How the call ended, until it is claimed.
    end: Option<Small<Vec<u8>>>,
    /// For calls that are answered by a stream.
    items: Option<ItemQueue>,
    /// In `want_space` or `want_turn`.
    queued: bool,
}

/// Items that arrived and were not taken.
#[derive(Debug)]
struct ItemQueue {
    items: VecDeque<Vec<u8>>,
    /// What the server may still send.
    balance: CreditBalance,
    /// Credits of items that were taken, not yet granted again.
    taken: u32,
}

impl State {
    pub(super) fn new(link: Link, waiter: AsyncWaiter) -> Self {
        let limit = usize::try_from(link.shared.terms.max_message_in).unwrap_or(usize::MAX);
        Self {
            link,
            waiter,
            reassembly: Reassembly::new(limit),
            buffer: Vec::new(),
            calls: Slab::new(),
            generation: 0,
            pending: 0,
            fragmenting: None,
            want_turn: Vec::new(),
            want_space: Vec::new(),
            space_needed: 0,
            want_place: VecDeque::new(),
            next_ticket: 0,
            notes: VecDeque::new(),
            over: false,
            driver_awake: false,
            driver: None,
            solo_left: 0,
            to_wake: Vec::new(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Whether a call's end, or anything else that the server will send, is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending > 0 || !self.want_space.is_empty()
    }

    /// Whether [`receive`](Self::receive) would find something.
    #[inline(always)]
    pub(super) fn has_news(&mut self) -> bool {
        self.link.rx.ready() != Ready::Empty
            || (!self.want_space.is_empty() && self.link.tx.is_ready(self.space_needed))
    }

    /// A place for a call, and its number; `None` at the connection's limit.
    pub(super) fn take_place(
        &mut self,
        ticket: &mut Option<u64>,
        stream: bool,
    ) -> Option<(usize, u64)> {
        if self.calls.len() >= self.link.shared.terms.max_in_flight {
            return None;
        }
        if let Some(ticket) = ticket.take() {
            self.want_place.retain(|(other, _)| *other != ticket);
        }
        self.generation = self.generation.wrapping_add(1);
        let items = stream.then(|| ItemQueue {
            items: VecDeque::new(),
            balance: CreditBalance::new(STREAM_CREDITS),
            taken: 0,
        });
        let entry = self.calls.vacant_entry();
        let key = entry.key();
        let id = u64::from(self.generation) << 32 | key as u64;
        entry.insert(Slot {
            id,
            waker: None,
            end: None,
            items,
            queued: false,
        });
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

    /// Sends what fits of a request. True if it is through.
    pub(super) fn send(
        &mut self,
        key: usize,
        outgoing: &mut Outgoing<Cow<'_, [u8]>>,
    ) -> Small<bool> {
        if !self.send_notes()? {
            return Ok(false);
        }
        if outgoing.is_fragmented() && *self.fragmenting.get_or_insert(key) != key {
            return Ok(false);
        }
        let through = outgoing.stage(&mut self.link.tx)?;
        self.link.tx.publish();
        if through {
            self.fragments_through(key);
        }
        Ok(through)
    }

    /// Whether nothing must be sent before a new request.
    #[inline(always)]
    pub(super) fn may_send(&self) -> bool {
        self.notes.is_empty()
    }

    fn fragments_through(&mut self, key: usize) {
        if self.fragmenting == Some(key) {
            self.fragmenting = None;
            let keys = std::mem::take(&mut self.want_turn);
            self.call_up(keys);
        }
    }

    /// Notes that a call cannot go on sending: for want of space, or because another call's
    /// fragments are on their way.
    pub(super) fn queue(&mut self, key: usize, outgoing: &Outgoing<Cow<'_, [u8]>>) {
        self.space_needed = self.space_needed.max(outgoing.next_len());
        if std::mem::replace(&mut self.calls[key].queued, true) {
            return;
        }
        if outgoing.is_fragmented() && self.fragmenting.is_some_and(|other| other != key) {
            self.want_turn.push(key);
            return;
        }
        self.want_space.push(key);
        // The driver may be asleep for data alone.
        self.to_wake.extend(self.driver.clone());
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
            self.to_wake.extend(self.driver.clone());
        }
    }

    /// How a call ended, once.
    #[inline]
    pub(super) fn claim(&mut self, key: usize) -> Option<Small<Vec<u8>>> {
        self.calls[key].end.take()
    }

    /// The next item of a stream, if one is there. Grants the server credits for it.
    pub(super) fn take_item(&mut self, key: usize) -> Option<Vec<u8>> {
        let call = &mut self.calls[key];
        let ended = call.end.is_some();
        let queue = call.items.as_mut()?;
        let item = queue.items.pop_front()?;
        queue.taken += u32::try_from(credit_cost(item.len() as u64)).unwrap_or(u32::MAX);
        // Half the window at a time: few frames, and the server never runs dry meanwhile.
        if queue.taken >= STREAM_CREDITS / 2 && !ended {
            let credits = std::mem::take(&mut queue.taken);
            queue.balance.grant(credits);
            self.notes
                .push_back((Header::new(Kind::Credit, call.id), credits.to_le_bytes()));
            // An error is found by whoever looks next.
            let _ = self.send_notes();
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
        if !self.want_space.is_empty() && self.link.tx.is_ready(self.space_needed) {
            self.space_needed = 0;
            let keys = std::mem::take(&mut self.want_space);
            self.call_up(keys);
        }
        match self.take_records() {
            Ok(count) => count,
            Err(_) => {
                // `violated` has noted the reason.
                self.end_all();
                1
            }
        }
    }

    #[inline]
    fn take_records(&mut self) -> Small<usize> {
        for count in 0..RECORDS_PER_LOOK {
            let incoming =
                next_incoming(&mut self.link.rx, &mut self.reassembly, &mut self.buffer)?;
            match incoming {
                None => return Ok(count),
                Some(Incoming::Reply { id, payload }) => {
                    // Another number, or none, in its place: a call that was given up.
                    if let Some(call) = self.calls.get_mut(id as u32 as usize)
                        && call.id == id
                        && call.end.is_none()
                    {
                        call.end = Some(Ok(payload.to_vec()));
                        self.pending -= 1;
                        self.to_wake.extend(call.waker.take());
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

    fn take_message(&mut self, header: &Header, payload: Vec<u8>) -> Small<()> {
        let call = self.calls.get_mut(header.request_id as u32 as usize);
        let call = call.filter(|call| call.id == header.request_id && call.end.is_none());
        let end = match header.kind {
            Kind::Reply => Ok(payload),
            Kind::Error => Err(Box::new(status_of(header, &payload).into())),
            Kind::StreamEnd => {
                let status = status_of(header, &payload);
                if status.code == crate::Code::OK {
                    Ok(Vec::new())
                } else {
                    Err(Box::new(status.into()))
                }
            }
            Kind::StreamItem => {
                let Some(call) = call else { return Ok(()) };
                if let Some(queue) = &mut call.items {
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
            Kind::GoAway | Kind::Ping | Kind::Pong => return Ok(()),
            other => return Err(unexpected(&self.link, &format!("a {other:?} frame")).into()),
        };
        if let Some(call) = call {
            call.end = Some(end);
            self.pending -= 1;
            self.to_wake.extend(call.waker.take());
        }
        Ok(())
    }

    /// The driver's sleep until there is something, or somebody wants space and there is.
    pub(super) fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<Small<Waited>> {
        let link = &mut self.link;
        let space = (!self.want_space.is_empty()).then_some((&mut link.tx, self.space_needed));
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

    /// Sends what frames about calls are due. False if they do not all fit.
    fn send_notes(&mut self) -> Small<bool> {
        if self.notes.is_empty() {
            return Ok(true);
        }
        while let Some((header, payload)) = self.notes.front() {
            let payload: &[u8] = if header.kind == Kind::Credit {
                payload
            } else {
                &[]
            };
            if !stage_frame(&mut self.link.tx, header, payload)? {
                break;
            }
            self.notes.pop_front();
        }
        self.link.tx.publish();
        Ok(self.notes.is_empty())
    }

    /// Takes a call out. `cancel`: the server has the request, or some of it, and is told that
    /// nobody waits for its answer.
    pub(super) fn remove(&mut self, key: usize, cancel: bool) {
        let call = self.calls.remove(key);
        // The slot of a claimed unary call has no end any more, but is not pending either; the
        // caller tells them apart by `cancel`.
        if cancel && call.end.is_none() {
            self.pending -= 1;
            self.notes
                .push_back((Header::new(Kind::Cancel, call.id), [0; 4]));
            // An error is found by whoever looks next.
            let _ = self.send_notes();
        }
        self.fragments_through(key);
        self.call_up_next();
    }

    /// Takes a call out of which the server knows nothing.
    pub(super) fn remove_unsent(&mut self, key: usize) {
        if self.calls[key].end.is_none() {
            self.pending -= 1;
        }
        self.remove(key, false);
    }

    /// The connection is over: every call gets its end.
    pub(super) fn end_all(&mut self) {
        self.over = true;
        self.link.shared.read_control();
        if self.link.shared.closed().is_none() {
            self.link.shared.close(CloseReason::Finished);
        }
        for (_, call) in &mut self.calls {
            if call.end.is_none() {
                call.end = Some(Err(self.link.shared.closed_error().into()));
            }
            self.to_wake.extend(call.waker.take());
        }
        self.pending = 0;
        self.to_wake
            .extend(self.want_place.drain(..).map(|(_, waker)| waker));
        self.to_wake.extend(self.driver.clone());
    }

    /// The error for calls on a connection that is over.
    pub(super) fn error(&self) -> Error {
        self.link.shared.closed_error()
    }

    /// Closes the connection from this side.
    pub(super) fn close(&mut self) {
        self.link.tx.close();
        self.link.shared.close(CloseReason::Local);
    }
}
