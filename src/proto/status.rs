//! The code and text that end a call (ERROR, STREAM_END) or announce a drain (GOAWAY).
//!
//! The payload is the code, `u32` little-endian, then UTF-8 text up to the end of the frame.

use std::borrow::Cow;
use std::fmt;

use super::frame::{Frame, Kind};
use super::text;

/// Longest text of a status, in bytes. Senders cut longer ones, receivers ignore the rest.
pub const MAX_STATUS_TEXT: usize = 1024;
/// Bytes of the code before the text.
pub const STATUS_CODE_LEN: usize = 4;

/// How a call ended.
///
/// 0 to 99 mean what gRPC's codes mean, and handlers may return them. 100 to 199 are said by the
/// runtime alone, so that a caller can trust [`Code::not_executed`]. 1000 and up are the
/// application's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $number:literal;)+) => {
        impl Code {
            $($(#[$doc])+ pub const $name: Code = Code($number);)+

            /// The code's name in the specification, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Success. Only STREAM_END and GOAWAY carry it.
    OK = 0;
    /// The caller cancelled the call.
    CANCELLED = 1;
    /// An error that says no more about itself.
    UNKNOWN = 2;
    /// The request makes no sense, whatever the state of the service.
    INVALID_ARGUMENT = 3;
    /// The deadline passed before the call was done.
    DEADLINE_EXCEEDED = 4;
    /// What was asked for does not exist.
    NOT_FOUND = 5;
    /// What was to be created exists.
    ALREADY_EXISTS = 6;
    /// The caller may not do this.
    PERMISSION_DENIED = 7;
    /// A quota or a resource is used up.
    RESOURCE_EXHAUSTED = 8;
    /// The service is not in the state that the call needs.
    FAILED_PRECONDITION = 9;
    /// Given up because of a conflict; a higher level may try again.
    ABORTED = 10;
    /// Past the valid range.
    OUT_OF_RANGE = 11;
    /// The service does not offer this.
    UNIMPLEMENTED = 12;
    /// An invariant of the service is broken.
    INTERNAL = 13;
    /// The service cannot do it now; try again later.
    UNAVAILABLE = 14;
    /// Data is lost or corrupt.
    DATA_LOSS = 15;
    /// The caller did not say who it is.
    UNAUTHENTICATED = 16;
    /// The server is draining; the call was not started. Call another server, or reconnect.
    DRAINING = 100;
    /// More calls in flight than the server allows; the call was not started.
    TOO_MANY_IN_FLIGHT = 101;
    /// No such method; the call was not started.
    UNKNOWN_METHOD = 102;
    /// A unary call of a streaming method, or the other way round; the call was not started.
    WRONG_SHAPE = 103;
    /// The handler panicked.
    HANDLER_PANICKED = 104;
    /// The reply is larger than the caller accepts.
    REPLY_TOO_LARGE = 105;
}

impl Code {
    /// Smallest code that belongs to the application.
    pub const APPLICATION: u32 = 1000;

    /// Whether the code promises that no handler saw the request, so that calling again is safe.
    pub const fn not_executed(self) -> bool {
        matches!(
            self,
            Code::DRAINING | Code::TOO_MANY_IN_FLIGHT | Code::UNKNOWN_METHOD | Code::WRONG_SHAPE
        )
    }

    /// Whether only the runtime may send the code: handlers that return it get
    /// [`Code::INTERNAL`] sent in its place.
    pub const fn is_reserved(self) -> bool {
        self.0 >= 100 && self.0 < 200
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// A code and its text, as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status<'a> {
    /// How it ended.
    pub code: Code,
    /// Why. Safe to print: malformed UTF-8 and control characters were replaced.
    pub text: Cow<'a, str>,
}

impl<'a> Status<'a> {
    /// Reads the payload of an ERROR, STREAM_END or GOAWAY frame. `None` if it is shorter than
    /// the code, which [`super::frame::decode`] has ruled out. Allocates only to repair bad text.
    pub fn from_payload(payload: &'a [u8]) -> Option<Status<'a>> {
        let (code, text) = payload.split_first_chunk()?;
        let code = Code(u32::from_le_bytes(*code));
        Some(Status {
            code,
            text: text::clean(text, MAX_STATUS_TEXT),
        })
    }
}

impl<'a> Frame<'a> {
    /// The status that an ERROR, STREAM_END or GOAWAY frame carries; `None` for other kinds.
    pub fn status(&self) -> Option<Status<'a>> {
        match self.header.kind {
            Kind::Error | Kind::StreamEnd | Kind::GoAway => Status::from_payload(self.payload),
            _ => None,
        }
    }
}

/// The two parts of a status payload: the code's bytes, and the text cut to
/// [`MAX_STATUS_TEXT`] bytes at a character boundary. Allocates nothing.
pub fn encode_status(code: Code, text: &str) -> ([u8; STATUS_CODE_LEN], &[u8]) {
    (
        code.0.to_le_bytes(),
        text::shorten(text, MAX_STATUS_TEXT).as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::frame::{Tag, decode};

    #[test]
    fn a_status_comes_back_as_it_went() {
        let (code, text) = encode_status(Code::NOT_FOUND, "no such index: é");
        let mut body = 7u64.to_le_bytes().to_vec();
        body.extend(code);
        body.extend(text);
        for kind in [Kind::Error, Kind::StreamEnd] {
            let status = decode(Tag::of(kind).to_bits(), &body)
                .unwrap()
                .status()
                .unwrap();
            assert_eq!(status.code, Code::NOT_FOUND);
            assert_eq!(status.text, "no such index: é");
        }
        let reply = decode(Tag::reply().to_bits(), &body).unwrap();
        assert_eq!(reply.status(), None);
    }

    #[test]
    fn long_text_is_cut_by_both_ends() {
        let long = "é".repeat(MAX_STATUS_TEXT);
        let (_, text) = encode_status(Code::INTERNAL, &long);
        assert_eq!(text.len(), MAX_STATUS_TEXT);
        let mut payload = vec![0; 4];
        payload.extend(long.as_bytes());
        assert_eq!(
            Status::from_payload(&payload).unwrap().text.len(),
            MAX_STATUS_TEXT
        );
        assert_eq!(Status::from_payload(&[0; 3]), None);
    }

    #[test]
    fn only_reserved_codes_promise_that_nothing_ran() {
        for number in 0..2000 {
            let code = Code(number);
            assert!(!code.not_executed() || code.is_reserved(), "{code}");
        }
        assert_eq!(Code::DRAINING.to_string(), "DRAINING");
        assert_eq!(Code(1234).to_string(), "code 1234");
    }
}
