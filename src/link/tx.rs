//! The sending half of a link.

use super::Shared;
use crate::error::{Error, Small, Violation};
use crate::ring::{Cursors, Producer, PushError, Reservation};
use crate::segment::{LocalData, LocalWords, PeerWords};
use crate::waiter::{Fences, Parking, Waking};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Space for one record in the outgoing ring.
pub(crate) type Slot<'a> = Reservation<'a, LocalData, PeerWords>;

/// The sending half of a link: the producer of this side's ring, and who wakes whom about it.
#[derive(Debug)]
pub(crate) struct Tx {
    producer: Producer<LocalData, PeerWords>,
    /// This side's words: space-parked is this half's.
    own: LocalWords,
    /// The peer's words: its data-parked word says whether it sleeps until this half publishes.
    peer: PeerWords,
    waking: Waking,
    parking: Parking,
    shared: Arc<Shared>,
    rings: u64,
    /// How often something was published.
    publications: u64,
    /// See [`Shared::tell_of_data`].
    patient: bool,
    /// Whether what is published goes into a request queue.
    #[cfg(feature = "mpmc_transport")]
    feeds: bool,
}

impl Tx {
    pub(super) fn new(
        data: LocalData,
        own: LocalWords,
        peer: PeerWords,
        capacity: usize,
        fences: Fences,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            producer: Producer::new(data, peer.clone(), capacity),
            own,
            peer,
            waking: Waking::new(fences),
            parking: Parking::new(fences),
            #[cfg(feature = "mpmc_transport")]
            feeds: shared.feeds_queue(),
            shared,
            rings: 0,
            publications: 0,
            patient: false,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.producer.capacity()
    }

    /// The longest body of a record, in bytes.
    pub(crate) fn max_body(&self) -> usize {
        self.producer.max_body()
    }

    /// Space for a record with a body of `len` bytes, or `None` if there is none at the moment.
    #[inline(always)]
    pub(crate) fn reserve(&mut self, len: usize) -> Small<Option<Slot<'_>>> {
        match self.producer.reserve(len) {
            Ok(slot) => Ok(Some(slot)),
            Err(PushError::Full) => Ok(None),
            Err(error) => Err(push_error(&self.shared, error)),
        }
    }

    /// Stages a record whose body is `body`. False if there is no space at the moment.
    #[inline(always)]
    pub(crate) fn stage(&mut self, tag: u32, body: &[u8]) -> Small<bool> {
        match self.producer.stage(tag, body) {
            Ok(()) => Ok(true),
            Err(PushError::Full) => Ok(false),
            Err(error) => Err(push_error(&self.shared, error)),
        }
    }

    /// Stages a record whose body is `body`, and publishes. False, and nothing was done, if there is
    /// no space at the moment.
    #[inline(always)]
    pub(crate) fn push(&mut self, tag: u32, body: &[u8]) -> Small<bool> {
        match self.producer.push(tag, body) {
            Ok(()) => {
                self.publications += 1;
                self.feed(false);
                if self.is_peer_due() {
                    self.ring();
                }
                Ok(true)
            }
            Err(PushError::Full) => Ok(false),
            Err(error) => Err(push_error(&self.shared, error)),
        }
    }

    /// Makes everything staged visible, and wakes the peer if it sleeps for it.
    #[inline(always)]
    pub(crate) fn publish(&mut self) {
        if self.producer.publish() {
            self.publications += 1;
            self.feed(false);
            if self.is_peer_due() {
                self.ring();
            }
        }
    }

    /// Whether a record with a body of `len` bytes would fit, or would fail for good.
    pub(crate) fn is_ready(&mut self, len: usize) -> bool {
        !matches!(self.producer.has_space(len), Ok(false))
    }

    /// Announces a sleep until there is space; see [`Parking::arm`]. What is staged is published
    /// first, for nobody else could.
    #[must_use]
    pub(crate) fn arm(&mut self) -> bool {
        self.publish();
        self.producer.mirror_tail(&self.own);
        self.parking
            .arm(self.own.space_parked(), self.peer.space_fenced())
    }

    /// As [`arm`](Self::arm), without the fence, which the caller owes; see
    /// [`Parking::announce`].
    #[must_use]
    pub(crate) fn announce(&mut self) -> Fences {
        self.publish();
        self.producer.mirror_tail(&self.own);
        self.parking
            .announce(self.own.space_parked(), self.peer.space_fenced())
    }

    pub(crate) fn disarm(&mut self) {
        self.parking.disarm(self.own.space_parked());
    }

    /// Ends this direction: the peer sees everything published and then the end.
    pub(crate) fn close(&mut self) {
        self.producer.close();
        self.feed(true);
        if self.is_peer_due() {
            self.ring();
        }
    }

    /// Whether publishing may block, over the socket, until the system has all that was published.
    /// At first it may not: then the rest is sent by another thread, as long as this process lives.
    pub(crate) fn set_patient(&mut self, patient: bool) {
        self.patient = patient;
    }

    /// How often the peer had to be woken.
    pub(crate) fn rings(&self) -> u64 {
        self.rings
    }

    /// How often something was published.
    pub(crate) fn publications(&self) -> u64 {
        self.publications
    }

    /// How far the peer says that it has consumed this half's ring, and whether it sleeps for data:
    /// for people, unchecked.
    pub(crate) fn observe_peer(&self) -> (u64, bool) {
        let parked = self.peer.data_parked().load(Relaxed) & 1 == 1;
        (self.peer.head().load(Relaxed), parked)
    }

    /// How far the ring was filled, in bytes since it began.
    pub(crate) fn position(&self) -> u64 {
        self.producer.position()
    }

    /// Bytes sent so far, records' overhead included.
    pub(crate) fn bytes(&self) -> u64 {
        self.producer.bytes()
    }

    /// Everything staged was published, and the ring ended perhaps: sends it on if it is not the peer
    /// that reads the ring.
    #[inline(always)]
    fn feed(&self, ends: bool) {
        #[cfg(feature = "mpmc_transport")]
        if self.feeds {
            self.shared.feed(self.producer.position(), ends);
        }
        let _ = ends;
    }

    /// Whether the peer must be woken, now that something was published.
    #[inline(always)]
    fn is_peer_due(&mut self) -> bool {
        self.waking
            .is_due(self.peer.data_parked(), self.own.data_fenced())
    }

    #[cold]
    #[inline(never)]
    fn ring(&mut self) {
        self.rings += 1;
        self.producer.mirror_tail(&self.own);
        self.shared.tell_of_data(self.patient);
    }
}

#[cold]
fn push_error(shared: &Arc<Shared>, error: PushError) -> Box<Error> {
    Box::new(match error {
        PushError::Broken(error) => shared.violated(Violation::Ring(error)),
        PushError::TooLong { len, max } => Error::TooLarge {
            len: len as u64,
            limit: max as u64,
        },
        _ => shared.closed_error(),
    })
}
