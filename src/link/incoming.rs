//! From records to frames and whole messages.

use super::Rx;
use crate::error::{Small, Violation};
use crate::layout::WORD;
use crate::proto::frame::{Kind, MAX_PREFIX_LEN, decode_header};
use crate::proto::reassembly::{Message, Reassembly};

/// Kind and flags of a plain request, as in the low half of a record's tag.
const PLAIN_REQUEST: u16 = Kind::Request as u16;
/// Kind and flags of a plain reply.
const PLAIN_REPLY: u16 = Kind::Reply as u16;

/// Largest payload that is read through the borrowed buffer; larger ones get a buffer of their
/// own, so that the shared one stays small.
pub(crate) const BORROWED_MAX: usize = 64 << 10;

/// Largest buffer, in bytes, that a worker or a client keeps for the next large message. New memory costs
/// more than the copy into it: the system clears each page of it when it is first touched, and allocators
/// give memory of this size back when it is freed.
pub(crate) const KEPT_BUFFER: usize = 4 << 20;

/// What arrived.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// A request without flags in one piece.
    Request {
        /// Index into the method table, unchecked.
        method: u16,
        /// The caller's name for the call.
        id: u64,
        /// The request.
        payload: &'a [u8],
    },
    /// A reply without flags in one piece.
    Reply {
        /// The call.
        id: u64,
        /// The reply.
        payload: &'a [u8],
    },
    /// Anything else that is whole.
    Message(Message<'a>),
    /// A fragment; its message is not complete.
    Partial,
}

/// The call that a record is a whole reply to, of a frame without extension fields.
#[cfg(feature = "tokio")]
#[inline(always)]
pub(crate) fn plain_reply(record: &super::rx::Record<'_>, reassembly: &Reassembly) -> Option<u64> {
    let is_plain = record.tag() as u16 == PLAIN_REPLY && reassembly.in_progress().is_none();
    is_plain.then(|| record.read_u64(0)).flatten()
}

/// A record that is a plain request or reply, its payload copied out.
struct Plain {
    tag: u32,
    id: u64,
    len: usize,
}

/// Takes the next record and makes a frame of it. `None` if there is none.
///
/// `buffer` holds the payload of what is returned, if it is borrowed.
///
/// # Errors
/// A violation by the peer; the connection is closed then.
#[inline(always)]
pub(crate) fn next<'a>(
    rx: &mut Rx,
    reassembly: &mut Reassembly,
    buffer: &'a mut Vec<u8>,
) -> Small<Option<Incoming<'a>>> {
    let plain = rx.pop_if(|record| {
        let tag = record.tag();
        let kind_and_flags = tag as u16;
        if (kind_and_flags == PLAIN_REQUEST || kind_and_flags == PLAIN_REPLY)
            && reassembly.in_progress().is_none()
            && record.len() <= BORROWED_MAX
            && let Some(id) = record.read_u64(0)
        {
            let len = record.len() - WORD;
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            record.read(WORD, &mut buffer[..len]);
            return (Some(Plain { tag, id, len }), true);
        }
        (None, false)
    })?;
    match plain {
        None => Ok(None),
        Some(Some(Plain { tag, id, len })) => {
            let payload = &buffer[..len];
            Ok(Some(if tag as u16 == PLAIN_REQUEST {
                Incoming::Request {
                    method: (tag >> 16) as u16,
                    id,
                    payload,
                }
            } else {
                Incoming::Reply { id, payload }
            }))
        }
        Some(None) => next_of_any_kind(rx, reassembly),
    }
}

/// The next record, whatever it is. It is looked at anew: nothing that was seen of it holds.
#[cold]
#[inline(never)]
fn next_of_any_kind(rx: &mut Rx, reassembly: &mut Reassembly) -> Small<Option<Incoming<'static>>> {
    match rx.pop(|record| take_any(&record, reassembly))? {
        None => Ok(None),
        Some(Ok(Some(message))) => Ok(Some(Incoming::Message(message))),
        Some(Ok(None)) => Ok(Some(Incoming::Partial)),
        Some(Err(violation)) => Err(Box::new(rx.violated(violation))),
    }
}

/// The general case: extension fields, fragments, payloads that deserve their own buffer.
pub(crate) fn take_any(
    record: &super::rx::Record<'_>,
    reassembly: &mut Reassembly,
) -> Result<Option<Message<'static>>, Violation> {
    let violation = |error: &dyn std::fmt::Display| Violation::Frame(error.to_string());
    let mut head = [0; MAX_PREFIX_LEN];
    let head = &mut head[..record.len().min(MAX_PREFIX_LEN)];
    record.read(0, head);
    let (header, prefix) =
        decode_header(record.tag(), head, record.len()).map_err(|e| violation(&e))?;
    reassembly
        .push_with(&header, record.len() - prefix, |data| {
            record.append_to(prefix, data)
        })
        .map_err(|e| violation(&e))
}
