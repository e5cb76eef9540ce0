//! What a frame says besides its payload.

use super::tag::{Flags, Kind, Tag};
use super::trace::TraceContext;

/// Where a frame stands in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fragment {
    /// The frame is the whole message.
    #[default]
    Whole,
    /// The first of several frames.
    First {
        /// Payload length of the whole message, in bytes.
        total: u64,
    },
    /// Neither the first nor the last of several frames.
    Middle,
    /// The last of several frames.
    Last,
}

impl Fragment {
    /// Whether the frame is the whole message.
    #[inline]
    pub const fn is_whole(self) -> bool {
        matches!(self, Fragment::Whole)
    }

    #[inline]
    const fn flags(self) -> Flags {
        match self {
            Fragment::Whole => Flags::NONE,
            Fragment::First { .. } => Flags::FRAGMENT_MORE.union(Flags::TOTAL),
            Fragment::Middle => Flags::FRAGMENT_MORE.union(Flags::CONTINUATION),
            Fragment::Last => Flags::CONTINUATION,
        }
    }
}

/// Everything about a frame but its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Index into the server's method table, for requests; otherwise 0.
    pub method: u16,
    /// The call the frame belongs to. 0, and not on the wire, for kinds without one
    /// ([`Kind::has_request_id`]).
    pub request_id: u64,
    /// Where the frame stands in its message.
    pub fragment: Fragment,
    /// Nanoseconds that were left for the call when the frame was written.
    pub deadline_ns: Option<u64>,
    /// The caller's trace context.
    pub trace: Option<TraceContext>,
    /// The caller wants no answer.
    pub one_way: bool,
    /// The caller will send stream items with this request's id.
    pub client_stream: bool,
}

impl Header {
    /// A header of a frame that is a whole message, without extensions.
    #[inline]
    pub const fn new(kind: Kind, request_id: u64) -> Header {
        Header {
            kind,
            method: 0,
            request_id,
            fragment: Fragment::Whole,
            deadline_ns: None,
            trace: None,
            one_way: false,
            client_stream: false,
        }
    }

    /// A plain request's header.
    #[inline]
    pub const fn request(method: u16, request_id: u64) -> Header {
        Header {
            method,
            ..Header::new(Kind::Request, request_id)
        }
    }

    /// A plain reply's header.
    #[inline]
    pub const fn reply(request_id: u64) -> Header {
        Header::new(Kind::Reply, request_id)
    }

    /// The flags that the header's fields amount to.
    #[inline]
    pub const fn flags(&self) -> Flags {
        let mut flags = self.fragment.flags().bits();
        if self.deadline_ns.is_some() {
            flags |= Flags::DEADLINE.bits();
        }
        if self.trace.is_some() {
            flags |= Flags::TRACE.bits();
        }
        if self.one_way {
            flags |= Flags::ONE_WAY.bits();
        }
        if self.client_stream {
            flags |= Flags::CLIENT_STREAM.bits();
        }
        Flags::from_bits(flags)
    }

    /// The tag of a frame with this header.
    #[inline]
    pub const fn tag(&self) -> Tag {
        Tag {
            kind: self.kind,
            flags: self.flags(),
            method: self.method,
        }
    }
}

/// A decoded frame; the payload is borrowed from the body it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Everything but the payload.
    pub header: Header,
    /// The bytes after the prefix.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The credits that a [`Kind::Credit`] frame grants; `None` for other kinds.
    #[inline]
    pub fn credits(&self) -> Option<u32> {
        (self.header.kind == Kind::Credit).then(|| {
            self.payload
                .first_chunk()
                .map(|bytes| u32::from_le_bytes(*bytes))
        })?
    }

    /// The value that a [`Kind::Ping`] or [`Kind::Pong`] frame carries; `None` for other kinds.
    #[inline]
    pub fn ping_value(&self) -> Option<u64> {
        matches!(self.header.kind, Kind::Ping | Kind::Pong).then(|| {
            self.payload
                .first_chunk()
                .map(|bytes| u64::from_le_bytes(*bytes))
        })?
    }
}
