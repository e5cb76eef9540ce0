//! From the socket to the ring.

use super::super::last_word;
use super::{BATCH, IN, ring_if};
use crate::error::{CloseReason, Violation};
use crate::layout::{WORD, max_body, record_size};
use crate::proto::handshake::MessageReader;
use crate::ring::{CLOSE, COMMITTED, Cursors, FILLER, LEN_MASK, Producer, PushError, TAG_SHIFT};
use crate::segment::{LocalData, LocalWords, PeerWords};
use crate::sys::{ControlSocket, Doorbell, Received};
use crate::waiter::{Fences, Parking, Waking};

/// How far a run came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::link) enum Filled {
    /// Nothing more is there at the moment, or the ring is full.
    Open,
    /// Nothing more will come, for this reason.
    Over(CloseReason),
    /// The peer broke the protocol.
    Violated(Violation),
}

/// Receives, and produces the ring that this side empties.
#[derive(Debug)]
pub(in crate::link) struct Inward {
    producer: Producer<LocalData, PeerWords>,
    capacity: usize,
    /// The pump's own words: its space-parked is odd while the ring is full.
    words: LocalWords,
    parking: Parking,
    /// The connection's words: its data-parked says whether it sleeps until there is data.
    side: PeerWords,
    waking: Waking,
    /// What was received and is not in the ring: a part of a record, or what there was no space
    /// for.
    received: Vec<u8>,
    /// Cuts what is no frame into messages. The last word comes once.
    reader: MessageReader,
    /// Something was published in this run.
    news: bool,
    over: bool,
}

/// Why no more bytes were placed.
enum Placed {
    /// They are used up, but for a part of a record.
    All,
    /// The ring is full.
    Full,
    Over(CloseReason),
}

impl Inward {
    pub(super) fn new(
        data: LocalData,
        words: LocalWords,
        side: PeerWords,
        capacity: usize,
        received: Vec<u8>,
    ) -> Self {
        Self {
            producer: Producer::new(data, side.clone(), capacity),
            capacity,
            words,
            parking: Parking::new(Fences::Symmetric),
            side,
            waking: Waking::new(Fences::Symmetric),
            received,
            reader: MessageReader::new(),
            news: false,
            over: false,
        }
    }

    /// Receives until nothing is there or the ring is full. Never blocks.
    pub(in crate::link) fn fill(&mut self, socket: &ControlSocket, bell: &Doorbell) -> Filled {
        if self.over {
            return Filled::Open;
        }
        let mut buffer = IN.take();
        buffer.resize(BATCH, 0);
        let filled = self.receive(socket, &mut buffer);
        IN.set(buffer);
        self.news |= self.producer.publish();
        if std::mem::take(&mut self.news) {
            // For who looks at the connection; it is not used otherwise.
            self.producer.mirror_tail(&self.words);
            let due = self
                .waking
                .is_due(self.side.data_parked(), self.words.data_fenced());
            ring_if(due, bell);
        }
        self.over = filled != Filled::Open;
        filled
    }

    fn receive(&mut self, socket: &ControlSocket, buffer: &mut [u8]) -> Filled {
        let mut handles = Vec::new();
        let kept = std::mem::take(&mut self.received);
        let mut placed = self.place_and_keep(&kept);
        loop {
            match placed {
                Ok(Placed::All) => {}
                Ok(Placed::Over(reason)) => return Filled::Over(reason),
                Ok(Placed::Full) => {
                    socket.hold();
                    return Filled::Open;
                }
                Err(violation) => return Filled::Violated(violation),
            }
            // Until nothing is there, for nobody is told again of what is left; the end, too, may lie
            // right behind what is taken here.
            let count = match socket.receive(buffer, &mut handles) {
                Ok(Received::Nothing) => return Filled::Open,
                Ok(Received::EndOfFile) => return Filled::Over(CloseReason::PeerGone),
                Ok(Received::Bytes(count)) => count,
                Err(error) => {
                    tracing::debug!(%error, "control socket failed");
                    return Filled::Over(CloseReason::PeerGone);
                }
            };
            if !handles.is_empty() {
                let text = "descriptors on a connection over the socket";
                return Filled::Violated(Violation::Control(text.into()));
            }
            let bytes = &buffer[..count];
            placed = if self.received.is_empty() {
                self.place_and_keep(bytes)
            } else {
                let mut kept = std::mem::take(&mut self.received);
                kept.extend_from_slice(bytes);
                self.place_and_keep(&kept)
            };
        }
    }

    /// Puts records into the ring and keeps the bytes for which it is too early.
    fn place_and_keep(&mut self, bytes: &[u8]) -> Result<Placed, Violation> {
        let mut rest = bytes;
        let mut placed = self.place(&mut rest)?;
        if let Placed::Full = placed {
            // Who consumes what is there now runs the pump again.
            self.news |= self.producer.publish();
            self.parking.disarm(self.words.space_parked());
            // A fence of its own never fails.
            let _ = self
                .parking
                .arm(self.words.space_parked(), self.side.space_fenced());
            placed = self.place(&mut rest)?;
            if !matches!(placed, Placed::Full) {
                self.parking.disarm(self.words.space_parked());
            }
        } else {
            self.parking.disarm(self.words.space_parked());
        }
        self.received.extend_from_slice(rest);
        Ok(placed)
    }

    /// Puts records into the ring, from the front of `bytes`.
    fn place(&mut self, bytes: &mut &[u8]) -> Result<Placed, Violation> {
        let violation = |text: String| Err(Violation::Frame(text));
        while let Some(head) = bytes.first_chunk::<WORD>() {
            let word = u64::from_le_bytes(*head);
            if word & COMMITTED == 0 {
                let rest = std::mem::take(bytes);
                let last = last_word(&mut self.reader, rest, 0).map_err(Violation::Control)?;
                return match last {
                    Some(reason) => Ok(Placed::Over(reason)),
                    None => {
                        // Its rest is to come; it is put together from the start again.
                        self.reader = MessageReader::new();
                        *bytes = rest;
                        Ok(Placed::All)
                    }
                };
            }
            if word == CLOSE {
                self.producer.close();
                self.news = true;
                *bytes = &bytes[WORD..];
                continue;
            }
            let len = (word & LEN_MASK) as usize;
            if word & FILLER != 0 {
                return violation(format!("the frame header {word:#018x} in a byte stream"));
            }
            if len > max_body(self.capacity) {
                let max = max_body(self.capacity);
                return violation(format!("a frame of {len} bytes, agreed were {max} at most"));
            }
            let Some(record) = bytes.get(WORD..record_size(len)) else {
                return Ok(Placed::All);
            };
            match self
                .producer
                .stage((word >> TAG_SHIFT) as u32, &record[..len])
            {
                Ok(()) => *bytes = &bytes[record_size(len)..],
                Err(PushError::Full) => return Ok(Placed::Full),
                Err(_) => return violation("a frame behind the last one".into()),
            }
        }
        Ok(Placed::All)
    }
}
