//! Reject and Close: no connection, or no longer, and why.

use std::fmt;

use super::bytes::{BodyReader, BodyWriter};
use super::envelope::MessageKind;
use super::error::HandshakeError;
use super::message::VersionRange;
use crate::proto::text;

/// Longest text of a Reject or Close, in bytes. Senders cut longer ones, receivers ignore the rest.
pub const MAX_REASON: usize = 1024;

/// Why a server refuses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// No common protocol version.
    Version,
    /// A feature that one side requires is missing on the other.
    Features,
    /// The two sides lay their segments out differently.
    Layout,
    /// The server does not serve this mode.
    Mode,
    /// A limit, such as the number of connections, is reached.
    Limits,
    /// The client's user may not connect.
    Credentials,
    /// The server is shutting down.
    Draining,
    /// The client's segment or doorbell is not what was agreed on.
    Segment,
    /// The client broke the protocol.
    Malformed,
    /// A code of a later version.
    Other(u16),
}

impl RejectCode {
    /// The codes of this version, in the order of their numbers, which begin with 1.
    pub const ALL: [RejectCode; 9] = [
        RejectCode::Version,
        RejectCode::Features,
        RejectCode::Layout,
        RejectCode::Mode,
        RejectCode::Limits,
        RejectCode::Credentials,
        RejectCode::Draining,
        RejectCode::Segment,
        RejectCode::Malformed,
    ];

    /// The code with this number.
    pub fn from_u16(number: u16) -> RejectCode {
        let index = usize::from(number).checked_sub(1);
        index
            .and_then(|i| Self::ALL.get(i).copied())
            .unwrap_or(RejectCode::Other(number))
    }

    /// The number on the wire.
    pub const fn to_u16(self) -> u16 {
        match self {
            RejectCode::Version => 1,
            RejectCode::Features => 2,
            RejectCode::Layout => 3,
            RejectCode::Mode => 4,
            RejectCode::Limits => 5,
            RejectCode::Credentials => 6,
            RejectCode::Draining => 7,
            RejectCode::Segment => 8,
            RejectCode::Malformed => 9,
            RejectCode::Other(number) => number,
        }
    }

    /// Whether the same attempt may succeed later, with nothing changed.
    pub const fn is_temporary(self) -> bool {
        matches!(self, RejectCode::Limits | RejectCode::Draining)
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectCode::Version => "version",
            RejectCode::Features => "features",
            RejectCode::Layout => "layout",
            RejectCode::Mode => "mode",
            RejectCode::Limits => "limits",
            RejectCode::Credentials => "credentials",
            RejectCode::Draining => "draining",
            RejectCode::Segment => "segment",
            RejectCode::Malformed => "malformed",
            RejectCode::Other(number) => return write!(f, "code {number}"),
        })
    }
}

/// Why there is no connection. Its layout never changes, whatever the protocol version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The reason.
    pub code: RejectCode,
    /// What the server speaks.
    pub versions: VersionRange,
    /// What to do about it, for people.
    pub text: String,
}

impl Reject {
    /// The message's bytes. The text is cut to [`MAX_REASON`].
    pub fn encode(&self) -> Vec<u8> {
        let mut body = BodyWriter::new(MessageKind::Reject);
        body.u16(self.code.to_u16());
        body.u16(self.versions.min);
        body.u16(self.versions.max);
        put_reason(&mut body, &self.text);
        body.finish()
            .expect("a reason is shorter than a body may be")
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`] and [`HandshakeError::BadField`].
    pub fn decode(body: &[u8]) -> Result<Reject, HandshakeError> {
        let mut body = BodyReader::new(MessageKind::Reject, body);
        Ok(Reject {
            code: RejectCode::from_u16(body.u16("code")?),
            versions: VersionRange::read(&mut body, MessageKind::Reject)?,
            text: read_reason(&mut body)?,
        })
    }
}

/// Why a connection is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// Nothing is left to be said.
    Finished,
    /// The server shut down, and what was in flight is done.
    Drained,
    /// The server shut down without waiting.
    Shutdown,
    /// The peer broke the protocol.
    Violation,
    /// The peer exceeded a limit.
    Limit,
    /// The connection was idle for too long.
    Idle,
    /// The client does not accept the Welcome, or what came with it.
    Unacceptable,
    /// A bug or a failure on the sender's side.
    Internal,
    /// A code of a later version.
    Other(u16),
}

impl CloseCode {
    /// The codes of this version, in the order of their numbers, which begin with 1.
    pub const ALL: [CloseCode; 8] = [
        CloseCode::Finished,
        CloseCode::Drained,
        CloseCode::Shutdown,
        CloseCode::Violation,
        CloseCode::Limit,
        CloseCode::Idle,
        CloseCode::Unacceptable,
        CloseCode::Internal,
    ];

    /// The code with this number.
    pub fn from_u16(number: u16) -> CloseCode {
        let index = usize::from(number).checked_sub(1);
        index
            .and_then(|i| Self::ALL.get(i).copied())
            .unwrap_or(CloseCode::Other(number))
    }

    /// The number on the wire.
    pub const fn to_u16(self) -> u16 {
        match self {
            CloseCode::Finished => 1,
            CloseCode::Drained => 2,
            CloseCode::Shutdown => 3,
            CloseCode::Violation => 4,
            CloseCode::Limit => 5,
            CloseCode::Idle => 6,
            CloseCode::Unacceptable => 7,
            CloseCode::Internal => 8,
            CloseCode::Other(number) => number,
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseCode::Finished => "finished",
            CloseCode::Drained => "drained",
            CloseCode::Shutdown => "shutdown",
            CloseCode::Violation => "violation",
            CloseCode::Limit => "limit",
            CloseCode::Idle => "idle",
            CloseCode::Unacceptable => "unacceptable",
            CloseCode::Internal => "internal",
            CloseCode::Other(number) => return write!(f, "code {number}"),
        })
    }
}

/// The last word on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The reason.
    pub code: CloseCode,
    /// More about it, for people.
    pub text: String,
}

impl Close {
    /// The message's bytes. The text is cut to [`MAX_REASON`].
    pub fn encode(&self) -> Vec<u8> {
        let mut body = BodyWriter::new(MessageKind::Close);
        body.u16(self.code.to_u16());
        put_reason(&mut body, &self.text);
        body.finish()
            .expect("a reason is shorter than a body may be")
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`].
    pub fn decode(body: &[u8]) -> Result<Close, HandshakeError> {
        let mut body = BodyReader::new(MessageKind::Close, body);
        let code = CloseCode::from_u16(body.u16("code")?);
        Ok(Close {
            code,
            text: read_reason(&mut body)?,
        })
    }
}

fn put_reason(body: &mut BodyWriter, reason: &str) {
    let reason = text::shorten(reason, MAX_REASON);
    body.u16(reason.len() as u16);
    body.put(reason.as_bytes());
}

fn read_reason(body: &mut BodyReader<'_>) -> Result<String, HandshakeError> {
    let len = body.u16("text length")?;
    Ok(body.text(len, MAX_REASON, "text")?.into_owned())
}
