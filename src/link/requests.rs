//! The mpmc transport: requests by one queue that all clients of a server write, replies by a ring of
//! each client's own.
//!
//! ```text
//! client     Tx -> private ring -> Feed --\
//! client     Tx -> private ring -> Feed ---+--> queue --> a worker, whichever comes first
//! client     Tx -> private ring -> Feed --/                  -> Inlet -> private ring -> Rx
//! ```
//!
//! Each client keeps its ring towards the server as a *private* one, in its own heap; the server has
//! another of the same size. [`Feed`] copies what is published, in pieces, into slots of the queue, and
//! [`Inlet`] writes the pieces at the same positions of the server's ring. So everything above, and
//! everything between the two ends that is not data (the head, the parked words), is what it is
//! without a queue: the words lie in the connection's two segments as ever.
//!
//! # Slots
//! A slot's four words (`layout::queue`) are length and flags, the piece's number, its position in
//! the ring, and the connection's number. Pieces of a connection are numbered from 0. What was published
//! together is a batch: its first piece has BEGIN, its last one COMMIT. A piece ends at the end
//! of the ring at the latest; one that ends with a filler's word has SKIP, and the next one is at the ring's
//! start. CLOSE, without a body, ends the ring.
//!
//! # Any worker takes any piece
//! So pieces of a connection may come to its [`Inlet`] in another order; it keeps the numbers of those
//! that are early. A batch becomes visible as in any ring, by its first word, when all of it is there. A
//! worker that took a piece of another worker's connection wakes that one if the connection is parked: it
//! writes the ring, then looks at the word, with a fence in between, as a client does that has a ring
//! of its own (see `waiter`).
//!
//! # Trust
//! Every client can write the whole queue. What the server reads there it checks as it would anything
//! from a peer, so a hostile client does no harm to the server; to the requests of other clients it
//! can do anything.

mod feed;
mod inlet;
#[cfg(all(test, target_os = "linux"))]
mod tests;

pub(super) use feed::Feed;
pub(super) use inlet::Inlet;

use super::Shared;
use crate::error::{SegmentRefused, Violation};
use crate::layout::queue::{BODY, SLOTS};
use crate::queue::{Consumer, Head, Popped, owner};
use crate::segment::QueueWords;
use crate::sys::Handle;
use inlet::Delivered;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// Bits of a slot's first word that hold the body's length in bytes.
const LEN: u64 = (1 << 16) - 1;
/// The first piece of a batch.
const BEGIN: u64 = 1 << 16;
/// The last one.
const COMMIT: u64 = 1 << 17;
/// Ends with a filler's word; what follows is at the ring's start.
const SKIP: u64 = 1 << 18;
/// Ends the ring. Has no body.
const CLOSE: u64 = 1 << 19;
/// All of them.
const FLAGS: u64 = BEGIN | COMMIT | SKIP | CLOSE;

/// What a slot's words say of its body.
#[derive(Debug, Clone, Copy)]
struct Piece {
    flags: u64,
    /// Its number among those of the connection.
    number: u64,
    /// Where it belongs in the connection's ring, in bytes since that began.
    position: u64,
    connection: u64,
}

impl Piece {
    fn head(&self, len: usize) -> Head {
        let first = self.flags | len as u64;
        [first, self.number, self.position, self.connection]
    }

    fn of(&[first, number, position, connection]: &Head) -> Self {
        Self {
            flags: first & FLAGS,
            number,
            position,
            connection,
        }
    }

    /// The length in bytes that a slot's words give its body, if they can be a piece's.
    fn len(head: &Head) -> Option<usize> {
        let [first, ..] = *head;
        (first & !(LEN | FLAGS) == 0).then_some((first & LEN) as usize)
    }
}

/// What a connection has of a request queue.
#[derive(Debug)]
pub(super) enum Requests {
    /// On the client's side.
    Fed(std::sync::Mutex<Feed>),
    /// On the server's side.
    Taken(Registration),
}

/// A server's request queue, seen from the server.
#[derive(Debug)]
pub(crate) struct RequestQueue {
    consumer: Consumer<QueueWords>,
    handle: Arc<Handle>,
    /// Where the pieces go, by what the queue calls the connection: its number's lowest bits, so that
    /// one of every 2^30 has the same.
    inlets: RwLock<HashMap<u64, Arc<Inlet>>>,
    /// Whether it was said that slots are not what a client leaves.
    damaged: AtomicBool,
}

impl RequestQueue {
    /// An empty queue.
    pub(crate) fn create(workers: usize) -> io::Result<Arc<Self>> {
        let (words, handle) = QueueWords::create()?;
        Ok(Arc::new(Self {
            consumer: Consumer::new(words, workers),
            handle: Arc::new(handle.into()),
            inlets: RwLock::default(),
            damaged: AtomicBool::new(false),
        }))
    }

    /// What clients need to write it.
    pub(super) fn handle(&self) -> Arc<Handle> {
        self.handle.clone()
    }

    /// Whether [`drain`](Self::drain) would find something.
    #[inline(always)]
    pub(crate) fn is_ready(&self) -> bool {
        self.consumer.is_ready()
    }

    /// Takes up to `max` pieces to where they belong. The keys of the worker's own connections that
    /// got something are added to `own`; other workers are woken if need be. Returns how many pieces
    /// there were.
    pub(crate) fn drain(&self, max: usize, worker: usize, own: &mut Vec<usize>) -> usize {
        if !self.is_ready() {
            return 0;
        }
        let mut body = [0; BODY];
        // Told without the lock: who drops the last hold of a connection takes it for writing.
        let mut to_tell: Vec<(Arc<Shared>, Option<Violation>)> = Vec::new();
        let inlets = self.inlets.read().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < max {
            let (head, len) = match self.consumer.pop(&mut body, Piece::len) {
                Popped::Nothing => break,
                Popped::Record(head, len) => (head, len),
                Popped::Skipped => {
                    count += 1;
                    continue;
                }
                Popped::Damaged => {
                    self.note_damage();
                    count += 1;
                    continue;
                }
            };
            count += 1;
            let piece = Piece::of(&head);
            // Of a connection that is closed already, unless somebody makes it up.
            let Some(inlet) = inlets.get(&owner(piece.connection)) else {
                continue;
            };
            match inlet.take(piece, &body[..len], worker) {
                Ok(Delivered::Nothing) => {}
                Ok(Delivered::Own(key)) => own.push(key),
                Ok(Delivered::ToWake) => {
                    to_tell.extend(inlet.shared().map(|shared| (shared, None)))
                }
                Err(violation) => {
                    to_tell.extend(inlet.shared().map(|shared| (shared, Some(violation))));
                }
            }
        }
        drop(inlets);
        for (shared, violation) in to_tell {
            match violation {
                None => shared.bell().ring(),
                // Its worker learns of it from the socket.
                Some(violation) => drop(shared.violated(violation)),
            }
        }
        count
    }

    /// As [`drain`](Self::drain), until nothing is left that was there, and what other workers had
    /// taken is where it belongs.
    pub(crate) fn settle(&self, worker: usize, own: &mut Vec<usize>) {
        self.drain(SLOTS, worker, own);
        // Who takes pieces holds the lock until they are there.
        drop(self.inlets.write());
    }

    fn note_damage(&self) {
        if !self.damaged.swap(true, Relaxed) {
            tracing::error!("a client has damaged the request queue");
        }
    }

    /// Puts the queue's tail right if a client has written into it what cannot be, and frees the
    /// next slot if somebody has claimed it who is no client any more: one whose connection was
    /// closed on this side, and who did not know it yet.
    pub(crate) fn skip_strays(&self) {
        if self.consumer.mend() {
            self.note_damage();
        }
        let Some(stray) = self.consumer.waits_for() else {
            return;
        };
        let inlets = self.inlets.read().unwrap_or_else(PoisonError::into_inner);
        if !inlets.contains_key(&stray) {
            self.consumer.skip_claims(stray);
        }
    }

    /// Has the pieces of a connection go to this inlet until what is returned is dropped.
    pub(super) fn register(self: &Arc<Self>, connection: u64, inlet: Inlet) -> Registration {
        let inlet = Arc::new(inlet);
        let mut inlets = self.inlets.write().unwrap_or_else(PoisonError::into_inner);
        inlets.insert(owner(connection), inlet.clone());
        Registration {
            queue: self.clone(),
            connection,
            inlet,
        }
    }
}

/// A connection's place in a [`RequestQueue`].
#[derive(Debug)]
pub(super) struct Registration {
    queue: Arc<RequestQueue>,
    connection: u64,
    inlet: Arc<Inlet>,
}

impl Registration {
    pub(super) fn inlet(&self) -> &Inlet {
        &self.inlet
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let inlets = self.queue.inlets.write();
        let gone = inlets
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&owner(self.connection));
        drop(gone);
        // A client that was killed may have claimed slots and will not fill them.
        self.queue.consumer.skip_claims(self.connection);
    }
}

/// The queue that a server sent, as its clients see it.
pub(super) fn open(handle: Handle) -> Result<QueueWords, SegmentRefused> {
    QueueWords::open(&handle.into())
}
