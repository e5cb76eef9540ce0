//! From a client's private ring to the queue.

use super::{BEGIN, CLOSE, COMMIT, Piece, SKIP};
use crate::layout::queue::BODY;
use crate::layout::{WORD, record_size};
use crate::queue::Producer;
use crate::ring::{Cursors, FILLER, LEN_MASK, Source};
use crate::segment::{PeerData, PeerWords, QueueWords};
use crate::sync::{AtomicU64, spin_hint};
use crate::waiter::{Fences, Waking};
use std::sync::atomic::Ordering::Relaxed;

/// How often who publishes looks for room in a full queue, before another thread sees to it.
const LOOKS: usize = 64;
/// Pauses between two looks.
const PAUSES: usize = 16;

/// Puts what a client publishes into the queue. Nothing here blocks.
#[derive(Debug)]
pub(in crate::link) struct Feed {
    queue: Producer<QueueWords>,
    /// The private ring.
    source: PeerData,
    /// Bytes in it.
    capacity: usize,
    connection: u64,
    /// The number of the next piece.
    number: u64,
    /// How far the ring is in the queue.
    sent: u64,
    /// How far it is published.
    published: u64,
    /// Where the record ends of which `sent` is a part.
    boundary: u64,
    /// Whether the last piece was not the end of a batch.
    in_batch: bool,
    /// The ring was closed, and the queue does not say so yet.
    close_due: bool,
    /// Nothing more goes into the queue.
    stopped: bool,
    /// Whether the process's flusher sends the rest.
    pub(in crate::link) is_with_flusher: bool,
    /// The server's words, which say whether it sleeps.
    server: PeerWords,
    /// Whom the flusher wakes. It fences for itself and grants nothing: that is the sender's
    /// part (see `waiter`).
    waking: Waking,
    granted: AtomicU64,
}

impl Feed {
    pub(in crate::link) fn new(
        queue: QueueWords,
        source: PeerData,
        capacity: usize,
        connection: u64,
        server: PeerWords,
    ) -> Self {
        Self {
            queue: Producer::new(queue, connection),
            source,
            capacity,
            connection,
            number: 0,
            sent: 0,
            published: 0,
            boundary: 0,
            in_batch: false,
            close_due: false,
            stopped: false,
            is_with_flusher: false,
            server,
            waking: Waking::new(Fences::Symmetric),
            granted: AtomicU64::new(0),
        }
    }

    /// The ring is published up to here now. True if all of it is in the queue; else there is no
    /// room, though this has looked for some for a moment, and somebody must call
    /// [`send`](Self::send) again.
    #[inline]
    pub(in crate::link) fn publish(&mut self, position: u64) -> bool {
        self.published = position;
        self.send() || self.send_patiently()
    }

    /// The ring ends where it is published.
    pub(in crate::link) fn close(&mut self, position: u64) -> bool {
        self.close_due = true;
        self.publish(position)
    }

    #[cold]
    fn send_patiently(&mut self) -> bool {
        // What another thread has to send is not waited for here.
        let looks = if self.is_with_flusher { 0 } else { LOOKS };
        (0..looks).any(|_| {
            (0..PAUSES).for_each(|_| spin_hint());
            self.send()
        })
    }

    /// Puts as much into the queue as it has room for. True if nothing is left.
    pub(in crate::link) fn send(&mut self) -> bool {
        while !self.stopped && self.sent < self.published {
            if !self.send_piece() {
                return false;
            }
        }
        if self.close_due && !self.stopped {
            let piece = self.piece(CLOSE);
            if !self.queue.push(&piece.head(0), &[]) {
                return false;
            }
            self.stopped = true;
        }
        true
    }

    /// Nothing goes into the queue from here on. The server, when it is told that the connection is
    /// over, may free what this side has claimed.
    pub(in crate::link) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether the server sleeps and must be woken, after [`send`](Self::send) by another thread
    /// than the one that publishes.
    pub(in crate::link) fn is_server_due(&mut self) -> bool {
        self.waking.is_due(self.server.data_parked(), &self.granted)
    }

    fn piece(&self, flags: u64) -> Piece {
        Piece {
            flags,
            number: self.number,
            position: self.sent,
            connection: self.connection,
        }
    }

    fn offset(&self, position: u64) -> usize {
        position as usize & (self.capacity - 1)
    }

    #[inline]
    fn send_piece(&mut self) -> bool {
        let (start, most) = (self.sent, self.sent + BODY as u64);
        let (mut end, mut boundary, mut after) = (start, self.boundary, None);
        // Whole records, and of the last one what there is space for.
        while end < most {
            if end == boundary {
                let lap_over = end > start && self.offset(end) == 0;
                if end == self.published || lap_over {
                    break;
                }
                let word = self.source.word(self.offset(end)).load(Relaxed);
                if word & FILLER != 0 {
                    end += WORD as u64;
                    boundary = (end - 1) / self.capacity as u64 * self.capacity as u64
                        + self.capacity as u64;
                    after = Some(boundary);
                    break;
                }
                boundary = end + record_size((word & LEN_MASK) as usize) as u64;
            }
            end = boundary.min(most);
        }
        let next = after.unwrap_or(end);
        let commit = next == self.published;
        let mut flags = 0;
        for (set, flag) in [
            (!self.in_batch, BEGIN),
            (commit, COMMIT),
            (after.is_some(), SKIP),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut body = [0; BODY];
        let body = &mut body[..(end - start) as usize];
        self.source.copy_out(self.offset(start), body);
        if !self.queue.push(&self.piece(flags).head(body.len()), body) {
            return false;
        }
        (self.sent, self.boundary) = (next, boundary);
        self.number += 1;
        self.in_batch = !commit;
        true
    }
}
