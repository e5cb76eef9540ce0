//! The receiving half of a link.

use super::Shared;
use crate::error::{Error, Small, Violation};
use crate::ring::{Consumer, Cursors, Ready};
use crate::segment::{LocalWords, PeerData, PeerWords};
use crate::waiter::{Fences, Parking, Waking};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A record in the incoming ring.
pub(crate) type Record<'a> = crate::ring::Record<'a, PeerData>;

/// The receiving half of a link: the consumer of the peer's ring, and who wakes whom about it.
#[derive(Debug)]
pub(crate) struct Rx {
    consumer: Consumer<PeerData, LocalWords>,
    /// This side's words: data-parked is this half's, and the head.
    own: LocalWords,
    /// The peer's words: its space-parked word says whether it sleeps until this half consumes.
    peer: PeerWords,
    waking: Waking,
    parking: Parking,
    /// The released position that the peer was last considered for waking at.
    considered: u64,
    shared: Arc<Shared>,
    rings: u64,
}

impl Rx {
    pub(super) fn new(
        data: PeerData,
        own: LocalWords,
        peer: PeerWords,
        capacity: usize,
        fences: Fences,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            consumer: Consumer::new(data, own.clone(), capacity),
            own,
            peer,
            waking: Waking::new(fences),
            parking: Parking::asking(fences),
            considered: 0,
            shared,
            rings: 0,
        }
    }

    /// See [`Consumer::set_gathering`].
    pub(crate) fn set_gathering(&mut self, gathering: bool) {
        self.consumer.set_gathering(gathering);
    }

    /// See [`Consumer::prefetch_next`].
    #[inline(always)]
    pub(crate) fn prefetch_next(&self) {
        self.consumer.prefetch_next();
    }

    /// Hands the next record to `visit` and consumes it; `None` if there is none.
    #[inline(always)]
    pub(crate) fn pop<R>(&mut self, visit: impl FnOnce(Record<'_>) -> R) -> Small<Option<R>> {
        self.pop_if(|record| (visit(record), true))
    }

    /// As [`pop`](Self::pop), but `visit` says whether the record is consumed. One that stays may
    /// have changed by the next time.
    #[inline(always)]
    pub(crate) fn pop_if<R>(
        &mut self,
        visit: impl FnOnce(Record<'_>) -> (R, bool),
    ) -> Small<Option<R>> {
        match self.consumer.pop_if(visit) {
            Ok(result) => {
                if self.consumer.released() != self.considered {
                    self.wake_producer();
                }
                Ok(result)
            }
            Err(error) => Err(Box::new(self.shared.violated(Violation::Ring(error)))),
        }
    }

    /// What lies at the head.
    #[inline(always)]
    pub(crate) fn ready(&self) -> Ready {
        self.consumer.ready()
    }

    /// See [`Consumer::watch`].
    #[inline(always)]
    pub(crate) fn watch(&self) -> Ready {
        self.consumer.watch()
    }

    /// Shows the peer how far the ring was consumed, and wakes it if it sleeps for space.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        if self.consumer.release() {
            self.wake_producer();
        }
    }

    /// Announces a sleep until there is data; see [`Parking::arm`].
    #[must_use]
    pub(crate) fn arm(&mut self) -> bool {
        self.release();
        self.parking
            .arm(self.own.data_parked(), self.peer.data_fenced())
    }

    /// As [`arm`](Self::arm), without the fence, which the caller owes; see
    /// [`Parking::announce`].
    #[must_use]
    pub(crate) fn announce(&mut self) -> Fences {
        self.release();
        self.parking
            .announce(self.own.data_parked(), self.peer.data_fenced())
    }

    /// See [`Parking::found`].
    #[inline(always)]
    pub(crate) fn found(&mut self) {
        self.parking.found(self.own.data_parked());
    }

    pub(crate) fn disarm(&mut self) {
        self.parking.disarm(self.own.data_parked());
    }

    /// Ends the connection because the peer broke the protocol, and gives the error to report.
    #[cold]
    pub(crate) fn violated(&self, violation: Violation) -> Error {
        self.shared.violated(violation)
    }

    /// How far the ring was consumed, in bytes since it began.
    pub(crate) fn position(&self) -> u64 {
        self.consumer.position()
    }

    /// Bytes received so far, records' overhead included.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> u64 {
        self.consumer.bytes()
    }

    /// How much of it the peer may know of.
    pub(crate) fn released(&self) -> u64 {
        self.consumer.released()
    }

    /// How far the peer said last that it has filled its ring, and whether it sleeps for space: for
    /// people, unchecked.
    pub(crate) fn observe_peer(&self) -> (u64, bool) {
        let parked = self.peer.space_parked().load(Relaxed) & 1 == 1;
        (self.peer.tail().load(Relaxed), parked)
    }

    /// How often the peer had to be woken.
    pub(crate) fn rings(&self) -> u64 {
        self.rings
    }

    #[inline(always)]
    fn wake_producer(&mut self) {
        self.considered = self.consumer.released();
        if self
            .waking
            .is_due(self.peer.space_parked(), self.own.space_fenced())
        {
            self.ring();
        }
    }

    #[cold]
    #[inline(never)]
    fn ring(&mut self) {
        self.rings += 1;
        self.shared.tell_of_space();
    }
}
