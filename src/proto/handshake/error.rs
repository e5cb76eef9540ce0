//! What can go wrong in a handshake.

use super::envelope::MessageKind;
use super::message::VersionRange;
use super::refusal::{Close, Reject, RejectCode};

/// Why a handshake, or the control socket after it, failed. All are final: say why to the peer
/// ([`super::ServerHandshake::refusal`]) and close. Lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer speaks something else.
    #[error(
        "the peer does not speak Nearwire (it begins with {first:02x?}); check the path of the socket"
    )]
    NotNearwire {
        /// Its first bytes, 8 at most.
        first: Vec<u8>,
    },
    /// A message kind that this version does not know.
    #[error(
        "control message of unknown kind {kind}; the peer uses a feature that was not agreed on"
    )]
    UnknownMessage {
        /// The number on the wire.
        kind: u16,
    },
    /// A body longer than its kind may have.
    #[error("{message:?} message with a body of {body_len} bytes; {max} are allowed")]
    BodyTooLong {
        /// The message.
        message: MessageKind,
        /// Its length.
        body_len: usize,
        /// The limit.
        max: usize,
    },
    /// A body that ends before its last field.
    #[error(
        "{message:?} message ends after {got} bytes, before its field {field} ends at {needed}"
    )]
    Truncated {
        /// The message.
        message: MessageKind,
        /// The first field that is not complete.
        field: &'static str,
        /// Where it would end.
        needed: usize,
        /// Length of the body.
        got: usize,
    },
    /// A text longer than allowed, received or about to be sent.
    #[error("{field} of the {message:?} message has {len} bytes; {max} are allowed")]
    FieldTooLong {
        /// The message.
        message: MessageKind,
        /// The field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A field whose value is not allowed, received or about to be sent.
    #[error("{field} of the {message:?} message {rule}")]
    BadField {
        /// The message.
        message: MessageKind,
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A mode that this version does not know.
    #[error("the client asks for mode {mode}, which this server does not know; update the server")]
    UnknownMode {
        /// The number on the wire.
        mode: u8,
    },
    /// A message with the wrong number of descriptors.
    #[error("{message:?} message with {got} descriptors; it must carry {expected}")]
    Descriptors {
        /// The message.
        message: MessageKind,
        /// How many it must carry.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// More descriptors than any message carries.
    #[error("{got} descriptors, more than any control message carries")]
    StrayDescriptors {
        /// How many came.
        got: usize,
    },
    /// A message that must not come at this point.
    #[error("{got:?} message where {expected:?} was expected")]
    OutOfOrder {
        /// The message that may come.
        expected: MessageKind,
        /// The one that came.
        got: MessageKind,
    },
    /// A call of this side at a point where it makes no sense: a bug of the caller.
    #[error("{call} called at the wrong point of the handshake")]
    Misuse {
        /// The function.
        call: &'static str,
    },
    /// No protocol version is common to both sides.
    #[error(
        "client speaks protocol version {client}, server speaks {server}: update the {}",
        older(client, server)
    )]
    VersionMismatch {
        /// What the client speaks.
        client: VersionRange,
        /// What the server speaks.
        server: VersionRange,
    },
    /// The server refused.
    #[error("the server refused the connection ({}): {}", .0.code, .0.text)]
    Rejected(Reject),
    /// This side, the server, refuses.
    #[error("connection refused ({}): {}", .0.code, .0.text)]
    Refused(Reject),
    /// The Welcome grants what this client did not ask for or does not accept.
    #[error("the server's {field} of {value:#x} is not acceptable: {rule}")]
    Unacceptable {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// The client's segment does not have the length that the server asked for.
    #[error("client segment of {got} bytes where the server asked for {expected}")]
    SegmentLength {
        /// What the Welcome asked for.
        expected: u64,
        /// What the Accept announced.
        got: u64,
    },
    /// The peer closed the connection and said why.
    #[error("the peer closed the connection ({}): {}", .0.code, .0.text)]
    Closed(Close),
    /// The socket ended without a word.
    #[error("the peer went away while its {waiting_for:?} message was expected")]
    Disconnected {
        /// The message that was to come.
        waiting_for: MessageKind,
    },
}

impl HandshakeError {
    /// What a server tells the client because of this error; `None` where nobody would listen
    /// or understand.
    pub(super) fn reject_code(&self) -> Option<RejectCode> {
        use HandshakeError::*;
        match self {
            VersionMismatch { .. } => Some(RejectCode::Version),
            UnknownMode { .. } => Some(RejectCode::Mode),
            SegmentLength { .. } => Some(RejectCode::Segment),
            Refused(reject) => Some(reject.code),
            UnknownMessage { .. }
            | BodyTooLong { .. }
            | Truncated { .. }
            | FieldTooLong { .. }
            | BadField { .. }
            | Descriptors { .. }
            | StrayDescriptors { .. }
            | OutOfOrder { .. } => Some(RejectCode::Malformed),
            NotNearwire { .. }
            | Misuse { .. }
            | Rejected(_)
            | Unacceptable { .. }
            | Closed(_)
            | Disconnected { .. } => None,
        }
    }
}

/// The side that must be updated for the versions to meet.
fn older(client: &VersionRange, server: &VersionRange) -> &'static str {
    if client.max < server.min {
        "client"
    } else {
        "server"
    }
}
