//! Headers to bytes and back.

use super::error::FrameError;
use super::header::{Fragment, Frame, Header};
use super::tag::{Flags, Kind, MAX_BODY_LEN, MAX_PREFIX_LEN, Tag, first_word};
use super::trace::TraceContext;

const REQUEST_ID_LEN: usize = 8;
const TOTAL_LEN: usize = 8;
const DEADLINE_LEN: usize = 8;
const TRACE_LEN: usize = 32;

/// A plain request or reply: see [`decode_plain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCall<'a> {
    /// [`Kind::Request`] or [`Kind::Reply`].
    pub kind: Kind,
    /// Index into the server's method table, for requests.
    pub method: u16,
    /// The call.
    pub request_id: u64,
    /// The whole message.
    pub payload: &'a [u8],
}

/// Decodes a request or reply without flags: one comparison and one load.
///
/// `None` means "not plain", which includes every malformed frame: go on with [`decode`].
#[inline(always)]
pub const fn decode_plain(tag_bits: u32, body: &[u8]) -> Option<PlainCall<'_>> {
    // Kind and flags are adjacent bytes: REQUEST and REPLY without flags are 1 and 2.
    let kind_and_flags = tag_bits as u16;
    if kind_and_flags.wrapping_sub(1) >= 2 {
        return None;
    }
    let Some((id, payload)) = body.split_first_chunk::<REQUEST_ID_LEN>() else {
        return None;
    };
    let kind = if kind_and_flags == Kind::Request as u16 {
        Kind::Request
    } else {
        Kind::Reply
    };
    Some(PlainCall {
        kind,
        method: (tag_bits >> 16) as u16,
        request_id: u64::from_le_bytes(*id),
        payload,
    })
}

/// Decodes and checks a frame.
///
/// # Errors
/// Every [`FrameError`] but [`FrameError::NotAFrame`]. All of them are the sender's fault: the
/// receiver closes the connection.
#[inline]
pub fn decode(tag_bits: u32, body: &[u8]) -> Result<Frame<'_>, FrameError> {
    if let Some(plain) = decode_plain(tag_bits, body) {
        let header = Header {
            kind: plain.kind,
            method: plain.method,
            ..Header::new(plain.kind, plain.request_id)
        };
        return Ok(Frame {
            header,
            payload: plain.payload,
        });
    }
    let (header, prefix_len) = decode_header(tag_bits, body, body.len())?;
    Ok(Frame {
        header,
        payload: &body[prefix_len..],
    })
}

/// Decodes and checks a frame of which only the beginning was copied out of the ring, so that a
/// large payload can be copied straight to where it is wanted.
///
/// `head` holds the first bytes of the body: at least `min(body_len, MAX_PREFIX_LEN)` of them.
/// Returns the header and the length of the prefix, at most `body_len`; the payload is the rest.
///
/// # Errors
/// As [`decode`].
pub fn decode_header(
    tag_bits: u32,
    head: &[u8],
    body_len: usize,
) -> Result<(Header, usize), FrameError> {
    let Tag {
        kind,
        flags,
        method,
    } = Tag::from_bits(tag_bits)?;
    check_flags(kind, flags)?;
    if body_len > MAX_BODY_LEN {
        return Err(FrameError::BodyTooLong {
            body_len,
            max: MAX_BODY_LEN,
        });
    }
    let prefix_len = prefix_len(kind, flags);
    let (min, max) = kind.payload_bounds();
    let needed = prefix_len + min;
    if body_len < needed {
        return Err(FrameError::Truncated {
            kind,
            needed,
            got: body_len,
        });
    }
    // The caller's part: it must have copied enough. Not trusted with a panic all the same.
    if head.len() < prefix_len {
        return Err(FrameError::Truncated {
            kind,
            needed: prefix_len,
            got: head.len(),
        });
    }
    if body_len - prefix_len > max {
        return Err(FrameError::Trailing {
            kind,
            expected: prefix_len + max,
            got: body_len,
        });
    }

    let mut fields = Fields {
        rest: &head[..prefix_len],
    };
    let request_id = if kind.has_request_id() {
        fields.u64()
    } else {
        0
    };
    let fragment = match (
        flags.contains(Flags::FRAGMENT_MORE),
        flags.contains(Flags::CONTINUATION),
    ) {
        (false, false) => Fragment::Whole,
        (true, false) => Fragment::First {
            total: fields.u64(),
        },
        (true, true) => Fragment::Middle,
        (false, true) => Fragment::Last,
    };
    let deadline_ns = flags.contains(Flags::DEADLINE).then(|| fields.u64());
    let trace = flags.contains(Flags::TRACE).then(|| fields.trace());
    let header = Header {
        kind,
        method,
        request_id,
        fragment,
        deadline_ns,
        trace,
        one_way: flags.contains(Flags::ONE_WAY),
        client_stream: flags.contains(Flags::CLIENT_STREAM),
    };
    Ok((header, prefix_len))
}

/// The encoded part of a frame that precedes its payload.
#[derive(Debug, Clone, Copy)]
pub struct EncodedHeader {
    tag_bits: u32,
    body_len: u32,
    prefix_len: u8,
    prefix: [u8; MAX_PREFIX_LEN],
}

impl EncodedHeader {
    /// The tag, for the ring.
    #[inline]
    pub const fn tag_bits(&self) -> u32 {
        self.tag_bits
    }

    /// The bytes of the body that precede the payload.
    #[inline]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }

    /// Length of the body, prefix and payload, in bytes.
    #[inline]
    pub const fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// The first word, for byte transports; rings make their own from tag and length.
    #[inline]
    pub const fn first_word(&self) -> u64 {
        first_word(self.tag_bits, self.body_len as usize)
    }
}

/// Encodes a header for a payload of `payload_len` bytes.
///
/// # Errors
/// What [`decode`] would say about the frame: [`FrameError::FlagNotAllowed`],
/// [`FrameError::FlagsContradict`], [`FrameError::Truncated`], [`FrameError::Trailing`] or
/// [`FrameError::BodyTooLong`]. Nothing is encoded that [`decode`] would refuse.
/// The request id of a kind without one is left out.
#[inline]
pub fn encode_header(header: &Header, payload_len: usize) -> Result<EncodedHeader, FrameError> {
    let kind = header.kind;
    let flags = header.flags();
    check_flags(kind, flags)?;
    let (min, max) = kind.payload_bounds();
    let prefix_len = prefix_len(kind, flags);
    if payload_len > MAX_BODY_LEN - prefix_len {
        let body_len = payload_len.saturating_add(prefix_len);
        return Err(FrameError::BodyTooLong {
            body_len,
            max: MAX_BODY_LEN,
        });
    }
    let body_len = prefix_len + payload_len;
    if payload_len < min {
        return Err(FrameError::Truncated {
            kind,
            needed: prefix_len + min,
            got: body_len,
        });
    }
    if payload_len > max {
        return Err(FrameError::Trailing {
            kind,
            expected: prefix_len + max,
            got: body_len,
        });
    }

    let mut prefix = [0; MAX_PREFIX_LEN];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        prefix[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    if kind.has_request_id() {
        put(&header.request_id.to_le_bytes());
    }
    if let Fragment::First { total } = header.fragment {
        put(&total.to_le_bytes());
    }
    if let Some(left) = header.deadline_ns {
        put(&left.to_le_bytes());
    }
    if let Some(trace) = &header.trace {
        put(&[trace.version]);
        put(&trace.trace_id);
        put(&trace.parent_id);
        put(&[trace.flags]);
        put(&[0; TRACE_LEN - 26]);
    }
    debug_assert_eq!(at, prefix_len);
    Ok(EncodedHeader {
        tag_bits: header.tag().to_bits(),
        body_len: body_len as u32,
        prefix_len: prefix_len as u8,
        prefix,
    })
}

/// Bytes before the payload, from kind and flags alone.
#[inline]
const fn prefix_len(kind: Kind, flags: Flags) -> usize {
    kind.has_request_id() as usize * REQUEST_ID_LEN
        + flags.contains(Flags::TOTAL) as usize * TOTAL_LEN
        + flags.contains(Flags::DEADLINE) as usize * DEADLINE_LEN
        + flags.contains(Flags::TRACE) as usize * TRACE_LEN
}

/// The rules about flags, one place for both directions.
#[inline]
const fn check_flags(kind: Kind, flags: Flags) -> Result<(), FrameError> {
    let allowed = kind.allowed_flags();
    if flags.bits() & !allowed.bits() != 0 {
        return Err(FrameError::FlagNotAllowed {
            kind,
            flags: flags.bits(),
            allowed: allowed.bits(),
        });
    }
    // Of the three fragment bits only these make sense: none; MORE and TOTAL (first); MORE and
    // CONTINUATION (middle); CONTINUATION (last).
    let fragment_bits_ok = matches!(flags.bits() & 0x07, 0b000 | 0b101 | 0b011 | 0b010);
    // What concerns the whole message is said once, in its first frame.
    let repeats = flags.contains(Flags::CONTINUATION) && flags.bits() & !0x03 != 0;
    // Nobody would learn how such a stream ended.
    let unheard_stream = flags.contains(Flags::ONE_WAY.union(Flags::CLIENT_STREAM));
    if !fragment_bits_ok || repeats || unheard_stream {
        return Err(FrameError::FlagsContradict {
            kind,
            flags: flags.bits(),
        });
    }
    Ok(())
}

/// Reads fixed fields from a prefix whose length was checked to hold them all.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.rest.split_first_chunk() {
            Some((field, rest)) => {
                self.rest = rest;
                *field
            }
            None => {
                debug_assert!(false, "prefix_len() and the fields read disagree");
                [0; N]
            }
        }
    }

    #[inline]
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn trace(&mut self) -> TraceContext {
        let [version] = self.take();
        let (trace_id, parent_id) = (self.take(), self.take());
        let [flags] = self.take();
        let _padding: [u8; TRACE_LEN - 26] = self.take();
        TraceContext {
            version,
            trace_id,
            parent_id,
            flags,
        }
    }
}
