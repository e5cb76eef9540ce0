//! From the ring to the socket.

use super::{BATCH, OUT, ring_if};
use crate::ring::{CLOSE, COMMITTED, Consumer, Cursors, Ready, TAG_SHIFT};
use crate::segment::{LocalWords, PeerData, PeerWords};
use crate::sys::{ControlSocket, Doorbell};
use crate::waiter::{Fences, Parking, Waking};

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) enum Flushed {
    /// Everything is sent.
    All,
    /// The socket has no room.
    Blocked,
    /// Everything is sent, the last word included; the socket may be shut down.
    Said,
    /// Nobody receives any more.
    Gone,
}

/// Consumes the ring that this side fills, and sends what was in it.
#[derive(Debug)]
pub(in crate::link) struct Outward {
    consumer: Consumer<PeerData, LocalWords>,
    /// The pump's own words. Data-parked: always odd.
    words: LocalWords,
    parking: Parking,
    /// The connection's words: its space-parked says whether it sleeps until there is space.
    side: PeerWords,
    waking: Waking,
    /// The released position that the side was last considered for waking at.
    considered: u64,
    /// A batch that the socket did not take as a whole, and how much of it is sent.
    unsent: Vec<u8>,
    sent: usize,
    /// What is said when all is sent.
    last_word: LastWord,
    /// Whether the end of the ring was sent.
    ended: bool,
    /// Whether the flusher is at it.
    pub(in crate::link) is_with_flusher: bool,
    /// Whether somebody sleeps until all is sent, and is to be rung then.
    pub(in crate::link) is_awaited: bool,
    gone: bool,
}

#[derive(Debug)]
enum LastWord {
    No,
    /// Not sent, or not as a whole.
    Pending(Vec<u8>),
    InBatch,
    Said,
}

impl Outward {
    pub(super) fn new(data: PeerData, words: LocalWords, side: PeerWords, capacity: usize) -> Self {
        let mut parking = Parking::new(Fences::Symmetric);
        // Nothing can be published yet, so there is no fence.
        let _ = parking.announce(words.data_parked(), side.data_fenced());
        Self {
            consumer: Consumer::new(data, words.clone(), capacity),
            words,
            parking,
            side,
            waking: Waking::new(Fences::Symmetric),
            considered: 0,
            unsent: Vec::new(),
            sent: 0,
            last_word: LastWord::No,
            ended: false,
            is_with_flusher: false,
            is_awaited: false,
            gone: false,
        }
    }

    /// What is published from here on is not sent any more, and when the rest is, `message` is.
    pub(in crate::link) fn say_last(&mut self, message: Vec<u8>) {
        if matches!(self.last_word, LastWord::No) {
            self.last_word = LastWord::Pending(message);
        }
    }

    /// Sends what there is. Never blocks.
    pub(in crate::link) fn flush(&mut self, socket: &ControlSocket, bell: &Doorbell) -> Flushed {
        let flushed = self.send_all(socket, bell);
        if flushed != Flushed::Blocked {
            ring_if(std::mem::take(&mut self.is_awaited), bell);
        }
        flushed
    }

    fn send_all(&mut self, socket: &ControlSocket, bell: &Doorbell) -> Flushed {
        // Before the look at the ring: what is published behind it runs the pump again.
        self.parking.disarm(self.words.data_parked());
        // A fence of its own never fails.
        let _ = self
            .parking
            .arm(self.words.data_parked(), self.side.data_fenced());
        loop {
            if !self.send_rest(socket) {
                return Flushed::Blocked;
            }
            if self.gone {
                return Flushed::Gone;
            }
            let mut batch = OUT.take();
            batch.clear();
            let more = self.collect(&mut batch);
            self.release(bell);
            self.send(socket, &batch);
            OUT.set(batch);
            if !more && self.unsent.is_empty() && !self.gone {
                return match self.last_word {
                    LastWord::Said if socket.is_sent() => Flushed::Said,
                    LastWord::Said => Flushed::Blocked,
                    _ => Flushed::All,
                };
            }
        }
    }

    /// Lets go of everything that was published. Nobody waits for space then.
    pub(in crate::link) fn discard(&mut self, bell: &Doorbell) {
        while let Ok(Some(())) = self.consumer.pop(|_| ()) {}
        self.release(bell);
    }

    /// Fills a batch. Returns whether there may be more.
    fn collect(&mut self, batch: &mut Vec<u8>) -> bool {
        if let LastWord::InBatch = self.last_word {
            self.last_word = LastWord::Said;
        }
        if let LastWord::Said = self.last_word {
            while let Ok(Some(())) = self.consumer.pop(|_| ()) {}
            return false;
        }
        while batch.len() < BATCH {
            let popped = self.consumer.pop(|record| {
                let tag = u64::from(record.tag()) << TAG_SHIFT;
                let word = COMMITTED | record.len() as u64 | tag;
                batch.extend_from_slice(&word.to_le_bytes());
                record.append_to(0, batch);
                batch.resize(batch.len().next_multiple_of(8), 0);
            });
            if !matches!(popped, Ok(Some(()))) {
                break;
            }
        }
        if batch.len() >= BATCH {
            return true;
        }
        if self.consumer.ready() == Ready::Closed && !self.ended {
            self.ended = true;
            batch.extend_from_slice(&CLOSE.to_le_bytes());
        }
        if let LastWord::Pending(message) = &mut self.last_word {
            batch.append(message);
            self.last_word = LastWord::InBatch;
            return true;
        }
        false
    }

    /// Gives the space back.
    fn release(&mut self, bell: &Doorbell) {
        self.consumer.release();
        // Taking records releases as well, per quarter of the ring.
        if self.consumer.released() != self.considered {
            self.considered = self.consumer.released();
            let due = self
                .waking
                .is_due(self.side.space_parked(), self.words.space_fenced());
            ring_if(due, bell);
        }
    }

    /// Sends a batch, and keeps what the socket does not take.
    fn send(&mut self, socket: &ControlSocket, batch: &[u8]) {
        let mut sent = 0;
        while sent < batch.len() && !self.gone {
            match socket.send(&batch[sent..], &[]) {
                Ok(0) => {
                    self.unsent.extend_from_slice(&batch[sent..]);
                    return;
                }
                Ok(count) => sent += count,
                Err(error) => self.lose(&error),
            }
        }
    }

    /// Sends what an earlier run could not. False: nor can this one, or not all of it.
    fn send_rest(&mut self, socket: &ControlSocket) -> bool {
        while self.sent < self.unsent.len() && !self.gone {
            match socket.send(&self.unsent[self.sent..], &[]) {
                Ok(0) => return false,
                Ok(count) => self.sent += count,
                Err(error) => self.lose(&error),
            }
        }
        self.unsent = Vec::new();
        self.sent = 0;
        true
    }

    fn lose(&mut self, error: &std::io::Error) {
        tracing::debug!(%error, "the peer receives nothing more");
        self.gone = true;
    }
}
