//! Messages larger than one frame, put together again.

use std::borrow::Cow;
use std::collections::TryReserveError;

use super::frame::{Fragment, Frame, Header, Kind};

#[cfg(test)]
mod tests;

/// A message, in one piece again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The header of its first frame, with [`Fragment::Whole`].
    pub header: Header,
    /// All its bytes: borrowed if it was one frame, owned if it was several.
    pub payload: Cow<'a, [u8]>,
}

/// Puts the fragments of one direction together.
///
/// Memory grows with the bytes that arrived (at most doubling, in steps of at least 64 KiB),
/// never with what the peer announced. A buffer that was [given back](Reassembly::recycle) may have
/// been another peer's: a message in fragments gets it at once only from a peer that has
/// completed a message of half its size before.
///
/// After an error the connection is to be closed; what was gathered is already freed.
#[derive(Debug)]
pub struct Reassembly {
    limit: usize,
    partial: Option<Partial>,
    spare: Vec<u8>,
    /// Bytes of the largest message in fragments that was completed.
    completed: usize,
}

#[derive(Debug)]
struct Partial {
    header: Header,
    total: usize,
    data: Vec<u8>,
}

impl Reassembly {
    /// Smallest step, in bytes, by which a message's buffer grows, its total permitting.
    pub const GROWTH_STEP: usize = 64 * 1024;

    /// A reassembly that accepts messages of at most `limit` bytes of payload.
    pub const fn new(limit: usize) -> Reassembly {
        Reassembly {
            limit,
            partial: None,
            spare: Vec::new(),
            completed: 0,
        }
    }

    /// The header of the message in progress, if there is one.
    pub fn in_progress(&self) -> Option<&Header> {
        self.partial.as_ref().map(|partial| &partial.header)
    }

    /// Bytes of memory held for the message in progress and by [`Reassembly::recycle`].
    pub fn allocated(&self) -> usize {
        self.spare.capacity() + self.partial.as_ref().map_or(0, |p| p.data.capacity())
    }

    /// Gives a buffer back, to be used for a later message of at least half its size in place of a
    /// new one, whose pages the system would have to find and clear. It is kept as large as it is:
    /// keep back those that are too large to keep.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > self.spare.capacity() {
            buffer.clear();
            self.spare = buffer;
        }
    }

    /// Takes the buffer that was given back, if it was not used since.
    pub fn take_spare(&mut self) -> Option<Vec<u8>> {
        (self.spare.capacity() > 0).then(|| std::mem::take(&mut self.spare))
    }

    /// The buffer for a message of `len` bytes. A much larger one would make a small message hold
    /// much memory.
    fn buffer_for(&mut self, len: usize) -> Vec<u8> {
        if self.spare.capacity() / 2 <= len {
            std::mem::take(&mut self.spare)
        } else {
            Vec::new()
        }
    }

    /// Takes the next frame of this direction, whatever its kind. Returns the message that it
    /// completes; a frame that is a message of its own is returned at once, without a copy.
    ///
    /// # Errors
    /// Every [`ReassemblyError`].
    #[inline]
    pub fn push<'a>(&mut self, frame: Frame<'a>) -> Result<Option<Message<'a>>, ReassemblyError> {
        let Frame { header, payload } = frame;
        if header.fragment.is_whole() {
            self.pass_whole(&header, payload.len())?;
            return Ok(Some(Message {
                header,
                payload: Cow::Borrowed(payload),
            }));
        }
        self.push_fragment(&header, payload.len(), |data| {
            data.extend_from_slice(payload)
        })
    }

    /// As [`Reassembly::push`], for a frame whose payload is still in the ring: `append` adds
    /// exactly `payload_len` bytes to the buffer it is given, for which there is room.
    ///
    /// # Errors
    /// Every [`ReassemblyError`]; `append` was not called then.
    ///
    /// # Panics
    /// If `append` adds another number of bytes, a bug of the caller.
    pub fn push_with(
        &mut self,
        header: &Header,
        payload_len: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<Message<'static>>, ReassemblyError> {
        if header.fragment.is_whole() {
            self.pass_whole(header, payload_len)?;
            let mut data = self.buffer_for(payload_len);
            reserve(&mut data, payload_len, payload_len)?;
            append_exactly(&mut data, payload_len, append);
            return Ok(Some(Message {
                header: *header,
                payload: Cow::Owned(data),
            }));
        }
        self.push_fragment(header, payload_len, append)
    }

    /// Checks a whole frame against the limit and against the message in progress. The callers
    /// of the plain fast path need it only while [`Reassembly::in_progress`], or if a whole frame
    /// could be larger than the limit.
    ///
    /// # Errors
    /// [`ReassemblyError::TooLarge`], [`ReassemblyError::OutOfOrder`] and
    /// [`ReassemblyError::Unfinished`].
    #[inline]
    pub fn pass_whole(
        &mut self,
        header: &Header,
        payload_len: usize,
    ) -> Result<(), ReassemblyError> {
        if payload_len > self.limit && header.kind.may_be_fragmented() {
            self.partial = None;
            return Err(self.too_large(payload_len as u64));
        }
        if self.partial.is_some() {
            return self.interleave(header);
        }
        Ok(())
    }

    /// A whole frame between the fragments of a message.
    #[cold]
    fn interleave(&mut self, header: &Header) -> Result<(), ReassemblyError> {
        let Some(partial) = &self.partial else {
            return Ok(());
        };
        let current = partial.header;
        let received = partial.data.len();
        if header.kind == Kind::Finish {
            let total = partial.total;
            self.partial = None;
            return Err(ReassemblyError::Unfinished { total, received });
        }
        let same = header.kind.has_request_id() == current.kind.has_request_id()
            && header.request_id == current.request_id;
        if same && header.kind.may_be_fragmented() {
            self.partial = None;
            return Err(ReassemblyError::OutOfOrder {
                kind: header.kind,
                request_id: header.request_id,
            });
        }
        let ends_a_call = matches!(header.kind, Kind::Cancel | Kind::Error | Kind::StreamEnd);
        if same && ends_a_call {
            self.partial = None;
        }
        Ok(())
    }

    fn push_fragment(
        &mut self,
        header: &Header,
        len: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Option<Message<'static>>, ReassemblyError> {
        // Taken out, and put back only when all is well: an error frees what was gathered.
        let mut partial = match (header.fragment, self.partial.take()) {
            (Fragment::First { total }, None) => {
                if total > self.limit as u64 {
                    return Err(self.too_large(total));
                }
                let header = Header {
                    fragment: Fragment::Whole,
                    ..*header
                };
                let total = total as usize;
                let data = self.buffer_for(total.min(self.completed));
                Partial {
                    header,
                    total,
                    data,
                }
            }
            (Fragment::First { .. }, Some(partial)) => {
                return Err(ReassemblyError::AlreadyInProgress {
                    current: partial.header.request_id,
                    new: header.request_id,
                });
            }
            (_, None) => {
                return Err(ReassemblyError::NotInProgress {
                    kind: header.kind,
                    request_id: header.request_id,
                });
            }
            (_, Some(partial)) => partial,
        };
        if (header.kind, header.request_id) != (partial.header.kind, partial.header.request_id) {
            return Err(ReassemblyError::WrongMessage {
                expected_kind: partial.header.kind,
                expected_id: partial.header.request_id,
                kind: header.kind,
                request_id: header.request_id,
            });
        }
        let total = partial.total;
        let received = partial.data.len().saturating_add(len);
        let last = header.fragment == Fragment::Last;
        if len == 0 {
            return Err(ReassemblyError::Empty {
                request_id: header.request_id,
            });
        }
        if received > total || (received == total && !last) {
            return Err(ReassemblyError::TooLong { total, received });
        }
        if received < total && last {
            return Err(ReassemblyError::TooShort { total, received });
        }
        reserve(&mut partial.data, len, total)?;
        append_exactly(&mut partial.data, len, append);
        if last {
            self.completed = self.completed.max(total);
            let payload = Cow::Owned(partial.data);
            return Ok(Some(Message {
                header: partial.header,
                payload,
            }));
        }
        self.partial = Some(partial);
        Ok(None)
    }

    fn too_large(&self, total: u64) -> ReassemblyError {
        ReassemblyError::TooLarge {
            total,
            limit: self.limit,
        }
    }
}

/// Makes room for `len` more bytes: at least doubles, by at least a step, and never beyond
/// `total`.
fn reserve(data: &mut Vec<u8>, len: usize, total: usize) -> Result<(), ReassemblyError> {
    let needed = data.len() + len;
    if needed <= data.capacity() {
        return Ok(());
    }
    let wanted = needed
        .max(data.capacity().saturating_mul(2))
        .max(Reassembly::GROWTH_STEP);
    let capacity = wanted.min(total).max(needed);
    data.try_reserve_exact(capacity - data.len())
        .map_err(|source| ReassemblyError::OutOfMemory { total, source })
}

fn append_exactly(data: &mut Vec<u8>, len: usize, append: impl FnOnce(&mut Vec<u8>)) {
    let before = data.len();
    append(data);
    assert_eq!(
        data.len(),
        before + len,
        "append() must add exactly the payload"
    );
}

/// How the frames of one direction broke the rules about fragments. Lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReassemblyError {
    /// The message is larger than this side accepts.
    #[error("message of {total} bytes is larger than the limit of {limit}; raise max_message")]
    TooLarge {
        /// Length of the message.
        total: u64,
        /// The limit that this side announced.
        limit: usize,
    },
    /// A message began before the one in progress was complete.
    #[error("message {new} began while the fragments of message {current} were incomplete")]
    AlreadyInProgress {
        /// Request id of the message in progress.
        current: u64,
        /// Request id of the new one.
        new: u64,
    },
    /// A later fragment without a first one.
    #[error("{kind:?} fragment of message {request_id}, which has no first fragment")]
    NotInProgress {
        /// The fragment's kind.
        kind: Kind,
        /// Its request id.
        request_id: u64,
    },
    /// A fragment of another message than the one in progress.
    #[error(
        "{kind:?} fragment of message {request_id} while {expected_kind:?} {expected_id} is incomplete"
    )]
    WrongMessage {
        /// Kind of the message in progress.
        expected_kind: Kind,
        /// Its request id.
        expected_id: u64,
        /// The fragment's kind.
        kind: Kind,
        /// Its request id.
        request_id: u64,
    },
    /// A whole message where only the next fragment of its call may come.
    #[error("whole {kind:?} of message {request_id} between the fragments of the same message")]
    OutOfOrder {
        /// The frame's kind.
        kind: Kind,
        /// Its request id.
        request_id: u64,
    },
    /// FINISH came before the last fragment.
    #[error("the sender finished after {received} of {total} bytes of a message")]
    Unfinished {
        /// Length that was announced.
        total: usize,
        /// Bytes that arrived.
        received: usize,
    },
    /// A fragment without payload.
    #[error("empty fragment of message {request_id}")]
    Empty {
        /// Its request id.
        request_id: u64,
    },
    /// The fragments hold more than was announced.
    #[error("fragments of {received} bytes or more for a message announced with {total}")]
    TooLong {
        /// Length that was announced.
        total: usize,
        /// Length so far.
        received: usize,
    },
    /// The last fragment came too early.
    #[error("the last fragment ends at {received} of the {total} bytes announced")]
    TooShort {
        /// Length that was announced.
        total: usize,
        /// Length with the last fragment.
        received: usize,
    },
    /// The system refused the memory. Not the peer's fault.
    #[error("no memory for a message of {total} bytes; lower max_message")]
    OutOfMemory {
        /// Length of the message.
        total: usize,
        /// What the allocator said.
        source: TryReserveError,
    },
}
