//! Kind, flags, method, and the first word they share with the length.

use std::fmt;

use super::error::FrameError;

/// Bytes of the first word.
pub const FIRST_WORD_LEN: usize = 8;
/// Longest body of one frame: the first word has 30 bits for it.
pub const MAX_BODY_LEN: usize = (1 << 30) - 1;
/// Longest prefix (request id, total, deadline, trace context) before a payload, in bytes.
pub const MAX_PREFIX_LEN: usize = 56;
/// First word, bit 30: ring-internal filler. Never leaves a ring.
pub const PAD_BIT: u64 = 1 << 30;
/// First word, bit 31: set in every record that is ready to be read.
pub const COMMITTED_BIT: u64 = 1 << 31;

/// What a frame is. The number is the byte on the wire; 0 is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Opens a call. Client to server.
    Request = 1,
    /// The answer that ends a call.
    Reply = 2,
    /// Ends a call with a code and a text.
    Error = 3,
    /// The caller no longer wants the answer. No payload.
    Cancel = 4,
    /// One item of a stream.
    StreamItem = 5,
    /// Ends the sender's direction of a stream with a code (0 is success) and a text.
    StreamEnd = 6,
    /// Allows the receiver to send more stream items. Payload: `u32` credits.
    Credit = 7,
    /// A message, in message mode. No request id.
    Message = 8,
    /// Bytes of a byte stream, at least one. No request id.
    Bytes = 9,
    /// The sender will send nothing more. No body.
    Finish = 10,
    /// The sender accepts no new calls and finishes what is in flight. Payload: code and text.
    GoAway = 11,
    /// Asks for a [`Kind::Pong`] with the same `u64`.
    Ping = 12,
    /// Answers a [`Kind::Ping`].
    Pong = 13,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 13] = [
        Kind::Request,
        Kind::Reply,
        Kind::Error,
        Kind::Cancel,
        Kind::StreamItem,
        Kind::StreamEnd,
        Kind::Credit,
        Kind::Message,
        Kind::Bytes,
        Kind::Finish,
        Kind::GoAway,
        Kind::Ping,
        Kind::Pong,
    ];

    /// The kind with this number, or `None` if there is none.
    #[inline]
    pub const fn from_u8(number: u8) -> Option<Kind> {
        if number == 0 || number as usize > Self::ALL.len() {
            return None;
        }
        Some(Self::ALL[number as usize - 1])
    }

    /// Whether frames of this kind belong to a call and begin with its request id.
    #[inline]
    pub const fn has_request_id(self) -> bool {
        (self as u8) <= Kind::Credit as u8
    }

    /// Whether a message of this kind may be cut into several frames.
    #[inline]
    pub const fn may_be_fragmented(self) -> bool {
        self.allowed_flags().contains(Flags::FRAGMENT_MORE)
    }

    /// Flags that frames of this kind may carry.
    #[inline]
    pub const fn allowed_flags(self) -> Flags {
        const FRAGMENTS: u8 = Flags::FRAGMENT_MORE.0 | Flags::CONTINUATION.0 | Flags::TOTAL.0;
        Flags(match self {
            Kind::Request => {
                FRAGMENTS
                    | Flags::DEADLINE.0
                    | Flags::TRACE.0
                    | Flags::ONE_WAY.0
                    | Flags::CLIENT_STREAM.0
            }
            Kind::Message => FRAGMENTS | Flags::TRACE.0,
            Kind::Reply | Kind::StreamItem => FRAGMENTS,
            _ => 0,
        })
    }

    /// Shortest and longest payload of a frame of this kind, in bytes.
    pub(super) const fn payload_bounds(self) -> (usize, usize) {
        match self {
            Kind::Cancel | Kind::Finish => (0, 0),
            Kind::Credit => (4, 4),
            Kind::Ping | Kind::Pong => (8, 8),
            Kind::Error | Kind::StreamEnd | Kind::GoAway => (4, MAX_BODY_LEN),
            // An empty read means end of file: an empty BYTES frame would be mistaken for it.
            Kind::Bytes => (1, MAX_BODY_LEN),
            Kind::Request | Kind::Reply | Kind::StreamItem | Kind::Message => (0, MAX_BODY_LEN),
        }
    }
}

/// Flag bits of a frame. Which kinds may carry which: [`Kind::allowed_flags`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// Another fragment of this message follows.
    pub const FRAGMENT_MORE: Flags = Flags(0x01);
    /// Not the first fragment of its message.
    pub const CONTINUATION: Flags = Flags(0x02);
    /// The first of several fragments: the message's total payload length (`u64`) is in the prefix.
    pub const TOTAL: Flags = Flags(0x04);
    /// The nanoseconds that were left when the frame was written (`u64`) are in the prefix.
    pub const DEADLINE: Flags = Flags(0x08);
    /// A [`super::TraceContext`] (32 bytes) is in the prefix.
    pub const TRACE: Flags = Flags(0x10);
    /// The caller wants no answer, not even an error.
    pub const ONE_WAY: Flags = Flags(0x20);
    /// The caller will send stream items and a stream end with this request's id.
    pub const CLIENT_STREAM: Flags = Flags(0x40);

    /// Flags from the byte on the wire, unknown bits included.
    #[inline]
    pub const fn from_bits(bits: u8) -> Flags {
        Flags(bits)
    }

    /// The byte on the wire.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[inline]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        self.union(other)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#04x})", self.0)
    }
}

/// Kind, flags and method: the upper 32 bits of the first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// What the frame is.
    pub kind: Kind,
    /// Its flags, as on the wire.
    pub flags: Flags,
    /// Index into the server's method table. Only requests use it; elsewhere 0, and ignored.
    pub method: u16,
}

impl Tag {
    /// The tag of a frame without flags and method.
    #[inline]
    pub const fn of(kind: Kind) -> Tag {
        Tag {
            kind,
            flags: Flags::NONE,
            method: 0,
        }
    }

    /// The tag of a plain request: no deadline, no trace, not fragmented. Its prefix is the
    /// request id, 8 bytes little-endian.
    #[inline]
    pub const fn request(method: u16) -> Tag {
        Tag {
            kind: Kind::Request,
            flags: Flags::NONE,
            method,
        }
    }

    /// The tag of a plain reply. Its prefix is the request id, 8 bytes little-endian.
    #[inline]
    pub const fn reply() -> Tag {
        Tag::of(Kind::Reply)
    }

    /// Packs the tag: kind in bits 0..=7, flags in 8..=15, method in 16..=31.
    #[inline]
    pub const fn to_bits(self) -> u32 {
        self.kind as u32 | (self.flags.0 as u32) << 8 | (self.method as u32) << 16
    }

    /// Unpacks a tag. The flags are taken as they are; [`super::decode`] checks them.
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`].
    #[inline]
    pub const fn from_bits(bits: u32) -> Result<Tag, FrameError> {
        let Some(kind) = Kind::from_u8(bits as u8) else {
            return Err(FrameError::UnknownKind { kind: bits as u8 });
        };
        Ok(Tag {
            kind,
            flags: Flags((bits >> 8) as u8),
            method: (bits >> 16) as u16,
        })
    }
}

/// Packs a first word: COMMITTED, `body_len` and the tag.
///
/// `body_len` must be at most [`MAX_BODY_LEN`] (checked in debug builds, masked otherwise).
#[inline]
pub const fn first_word(tag_bits: u32, body_len: usize) -> u64 {
    debug_assert!(body_len <= MAX_BODY_LEN);
    (tag_bits as u64) << 32 | COMMITTED_BIT | (body_len & MAX_BODY_LEN) as u64
}

/// Splits a first word that came over a byte transport into tag bits and body length.
///
/// Rings split their own commit words; this is for everybody else.
///
/// # Errors
/// [`FrameError::NotAFrame`] if COMMITTED is missing or PAD is set.
#[inline]
pub const fn split_first_word(word: u64) -> Result<(u32, usize), FrameError> {
    if word & (COMMITTED_BIT | PAD_BIT) != COMMITTED_BIT {
        return Err(FrameError::NotAFrame { word });
    }
    Ok(((word >> 32) as u32, (word & MAX_BODY_LEN as u64) as usize))
}
