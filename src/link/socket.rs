//! The socket transport: what stands in for a peer that shares no memory.
//!
//! Each side of such a connection has *private* rings, in its own heap, with the same records as
//! shared ones. A [`Pump`] is at their other ends: it consumes what this side publishes and sends
//! it, and it receives and produces what this side consumes. To the ring's producer and consumer,
//! and to all layers above, it is the peer; the parked words and the doorbell work as ever, and the
//! one difference is that where a peer would be woken the pump is run.
//!
//! # Who runs it
//! [`Outward`]'s data-parked word is always odd, so each publication runs it once: a batch is one
//! system call. [`Inward`] is run by whoever sleeps on the connection when the socket wakes it (see
//! `Shared::read_control`), and by who has consumed some of a ring that was full. Either may run on
//! any thread; a lock keeps the runs apart.
//!
//! # Backpressure
//! What the socket does not take stays in the ring, and one batch in [`Outward`]; the rest is sent
//! by the process's [`flusher`] as soon as there is room, so that what was published reaches the
//! peer whatever its sender does next. What the ring does not take stays in the socket, and one
//! read in [`Inward`]. So nothing grows by what the peer sends or does not read.
//!
//! # Hostile peers
//! A length is checked before anything is kept for it, and a record is looked at again by the layer
//! above as if it came from shared memory. Nothing that the peer has sent can change any more.

mod flusher;
mod inward;
mod outward;

pub(super) use flusher::{flush_later, nudge};
pub(super) use inward::{Filled, Inward};
pub(super) use outward::{Flushed, Outward};

use super::{Rx, Shared, Tx};
use crate::segment;
use crate::sys::Doorbell;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that are received or sent at a time, about.
const BATCH: usize = 64 << 10;

thread_local! {
    /// Where batches are put together, so that a connection that holds nothing back has no buffer.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Where they are received, of [`BATCH`] bytes once it was used.
    static IN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The other ends of a connection's private rings.
#[derive(Debug)]
pub(super) struct Pump {
    outward: Mutex<Outward>,
    inward: Mutex<Inward>,
}

/// This side's ends of its private rings.
pub(super) struct Ends {
    own: (segment::LocalWords, segment::LocalData),
    peer: (segment::PeerWords, segment::PeerData),
}

impl Pump {
    /// A pump, and the ends of its rings. `received` came behind the handshake.
    pub(super) fn new(ring_out: usize, ring_in: usize, received: Vec<u8>) -> (Self, Ends) {
        let (own_words, own_data, own_seen, out_data) = segment::private(ring_out);
        let (words, in_data, seen, peer_data) = segment::private(ring_in);
        let outward = Outward::new(out_data, words.clone(), own_seen.clone(), ring_out);
        let inward = Inward::new(in_data, words, own_seen, ring_in, received);
        let pump = Self {
            outward: Mutex::new(outward),
            inward: Mutex::new(inward),
        };
        let ends = Ends {
            own: (own_words, own_data),
            peer: (seen, peer_data),
        };
        (pump, ends)
    }

    pub(super) fn outward(&self) -> MutexGuard<'_, Outward> {
        self.outward.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn inward(&self) -> MutexGuard<'_, Inward> {
        self.inward.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Ends {
    pub(super) fn into_halves(self, shared: &Arc<Shared>) -> (Tx, Rx) {
        let Self {
            own: (words, data),
            peer: (peer_words, peer_data),
        } = self;
        let terms = &shared.terms;
        let (out, into, fences) = (terms.ring_out, terms.ring_in, terms.fences);
        let tx = Tx::new(
            data,
            words.clone(),
            peer_words.clone(),
            out,
            fences,
            shared.clone(),
        );
        let rx = Rx::new(peer_data, words, peer_words, into, fences, shared.clone());
        (tx, rx)
    }
}

/// Rings the side's own doorbell if the run of a pump made that due.
fn ring_if(due: bool, bell: &Doorbell) {
    if due {
        bell.ring();
    }
}
