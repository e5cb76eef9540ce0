//! From messages to records, in fragments where they are too large for one.

use super::Tx;
use crate::error::{Error, Small};
use crate::layout::WORD;
use crate::proto::fragment::{Fragments, Piece, fragments};
use crate::proto::frame::{Header, MAX_PREFIX_LEN, Tag, encode_header};

/// The largest payload that `tx` sends as one frame, in bytes: what a record takes less the
/// longest prefix.
pub(crate) fn whole_max(tx: &Tx) -> usize {
    tx.max_body() - MAX_PREFIX_LEN
}

/// Payload bytes per fragment: a quarter of the ring, so that the consumer copies one fragment out
/// while the producer copies the next one in.
fn fragment_len(tx: &Tx) -> usize {
    tx.capacity() / 4 - WORD - MAX_PREFIX_LEN
}

/// Stages a frame without extension fields: request id and payload. False if there is no space at
/// the moment; nothing was staged then.
///
/// The payload must be at most [`whole_max`].
#[inline(always)]
pub(crate) fn stage_plain(tx: &mut Tx, tag: Tag, id: u64, payload: &[u8]) -> Small<bool> {
    let Some(mut slot) = tx.reserve(WORD + payload.len())? else {
        return Ok(false);
    };
    slot.write_u64(0, id);
    slot.write(WORD, payload);
    slot.commit(tag.to_bits());
    Ok(true)
}

/// Stages one frame with whatever its header says. False as above.
pub(crate) fn stage_frame(tx: &mut Tx, header: &Header, payload: &[u8]) -> Small<bool> {
    stage_parts(tx, header, &[payload])
}

/// Stages one frame whose payload lies in several parts. False as above.
pub(crate) fn stage_parts(tx: &mut Tx, header: &Header, parts: &[&[u8]]) -> Small<bool> {
    let len = parts.iter().map(|part| part.len()).sum();
    let encoded = encode_header(header, len).map_err(|_| Error::TooLarge {
        len: len as u64,
        limit: whole_max(tx) as u64,
    })?;
    let Some(mut slot) = tx.reserve(encoded.body_len())? else {
        return Ok(false);
    };
    slot.write(0, encoded.prefix());
    let mut at = encoded.prefix().len();
    for part in parts {
        slot.write(at, part);
        at += part.len();
    }
    slot.commit(encoded.tag_bits());
    Ok(true)
}

/// A message on its way out: as many frames of it as fit are staged at a time.
#[derive(Debug)]
pub(crate) struct Outgoing<P> {
    header: Header,
    payload: P,
    rest: Fragments,
    /// The piece that did not fit last time. `None` when all are staged.
    next: Option<Piece>,
}

impl<P: AsRef<[u8]>> Outgoing<P> {
    pub(crate) fn new(tx: &Tx, header: Header, payload: P) -> Self {
        let len = payload.as_ref().len();
        let piece = if len <= whole_max(tx) {
            len.max(1)
        } else {
            fragment_len(tx)
        };
        let mut rest = fragments(len, piece);
        let next = rest.next();
        Self {
            header,
            payload,
            rest,
            next,
        }
    }

    /// The call that the message belongs to.
    pub(crate) fn request_id(&self) -> u64 {
        self.header.request_id
    }

    /// Whether it asks for something, as opposed to answering or telling.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_request(&self) -> bool {
        self.header.kind == crate::proto::frame::Kind::Request
    }

    /// Whether the message needs more than one frame.
    pub(crate) fn is_fragmented(&self) -> bool {
        self.next
            .as_ref()
            .is_some_and(|piece| !piece.fragment.is_whole())
    }

    /// Bytes of body that the next frame needs in the ring at most; for waiting.
    pub(crate) fn next_len(&self) -> usize {
        MAX_PREFIX_LEN + self.next.as_ref().map_or(0, |piece| piece.range.len())
    }

    /// Whether any of it was staged.
    pub(crate) fn has_begun(&self) -> bool {
        let first = |piece: &Piece| piece.range.start == 0;
        !self.next.as_ref().is_some_and(first)
    }

    /// Whether all of it was staged.
    pub(crate) fn is_through(&self) -> bool {
        self.next.is_none()
    }

    /// Stages one frame. False if there is no space at the moment. A message of several frames is
    /// published as it goes, so that the other side empties the ring meanwhile.
    pub(crate) fn stage_next(&mut self, tx: &mut Tx) -> Small<bool> {
        let Some(piece) = &self.next else {
            return Ok(true);
        };
        let mut header = Header {
            fragment: piece.fragment,
            ..self.header
        };
        if piece.range.start > 0 {
            // What concerns the whole message is said once, in its first frame.
            header.deadline_ns = None;
            header.trace = None;
            header.one_way = false;
            header.client_stream = false;
        }
        if !stage_frame(tx, &header, &self.payload.as_ref()[piece.range.clone()])? {
            return Ok(false);
        }
        if !piece.fragment.is_whole() {
            tx.publish();
        }
        self.next = self.rest.next();
        Ok(true)
    }

    /// Stages what fits. True when the whole message is staged.
    pub(crate) fn stage(&mut self, tx: &mut Tx) -> Small<bool> {
        while !self.is_through() {
            if !self.stage_next(tx)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What holds the payload.
    pub(crate) fn into_payload(self) -> P {
        self.payload
    }

    /// The same message, as far out as it is, with its payload held differently.
    #[cfg(feature = "tokio")]
    pub(crate) fn map_payload<Q: AsRef<[u8]>>(self, hold: impl FnOnce(P) -> Q) -> Outgoing<Q> {
        Outgoing {
            header: self.header,
            payload: hold(self.payload),
            rest: self.rest,
            next: self.next,
        }
    }
}
