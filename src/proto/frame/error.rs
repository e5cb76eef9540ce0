//! What can be wrong with a frame.

use super::tag::Kind;

/// What is wrong with a frame. Lengths are in bytes of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A first word without COMMITTED, or with PAD.
    #[error("first word {word:#018x} does not begin a frame (COMMITTED must be set, PAD must not)")]
    NotAFrame {
        /// The word.
        word: u64,
    },
    /// A kind that this version does not know.
    #[error("unknown frame kind {kind}; the peer uses a feature that was not agreed on")]
    UnknownKind {
        /// The number on the wire.
        kind: u8,
    },
    /// A flag that frames of this kind must not carry.
    #[error("{kind:?} frame with flags {flags:#04x}, of which only {allowed:#04x} are allowed")]
    FlagNotAllowed {
        /// The frame's kind.
        kind: Kind,
        /// All its flags.
        flags: u8,
        /// Those that it may carry.
        allowed: u8,
    },
    /// Flags that exclude each other, or a first fragment without its total.
    #[error("{kind:?} frame with flags {flags:#04x}, which contradict each other")]
    FlagsContradict {
        /// The frame's kind.
        kind: Kind,
        /// All its flags.
        flags: u8,
    },
    /// The body ends before its fixed fields do.
    #[error(
        "{kind:?} frame with a body of {got} bytes, too short for its {needed} bytes of fields"
    )]
    Truncated {
        /// The frame's kind.
        kind: Kind,
        /// Shortest body that such a frame can have.
        needed: usize,
        /// Length of the body.
        got: usize,
    },
    /// The body goes on after its fixed fields.
    #[error("{kind:?} frame with a body of {got} bytes where {expected} are expected")]
    Trailing {
        /// The frame's kind.
        kind: Kind,
        /// The length that the body must have.
        expected: usize,
        /// Length of the body.
        got: usize,
    },
    /// A body that does not fit the length field.
    #[error("frame body of {body_len} bytes; at most {max} fit one frame, send fragments")]
    BodyTooLong {
        /// Length of the body.
        body_len: usize,
        /// [`super::MAX_BODY_LEN`].
        max: usize,
    },
}
