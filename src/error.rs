//! What can go wrong, by name.

use crate::proto::handshake::HandshakeError;
use crate::proto::status::Code;
use crate::ring::RingError;
#[cfg(windows)]
use crate::sid::Sid;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Shorthand for a result with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A result inside the crate. The error is boxed so that what the hot paths hand to each other is
/// small: a large union is copied in pieces that do not match the stores that made it, and such a
/// load waits until all stores before it, those into the ring included, are in the cache.
pub(crate) type Small<T> = std::result::Result<T, Box<Error>>;

/// Everything that Nearwire itself reports. What a remote handler reports is a [`Status`], carried
/// in [`Error::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody serves under this name.
    #[error(
        "no server at {}{}: start one, or check the name",
        path.display(),
        if *dead { " (its socket is left over from a server that was killed)" } else { "" }
    )]
    NoServer {
        /// The socket's path.
        path: PathBuf,
        /// Whether a dead server's socket file is there.
        dead: bool,
    },
    /// Another server has this name.
    #[error("{} is in use by another server: stop it, or choose another name", path.display())]
    NameInUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// A name that is neither a path nor a plain file name.
    #[error("{name:?} is no server name: use letters, digits, '.', '_', '-', or a path with a '/'")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// Something that is not a socket has the server's name.
    #[error("{} exists and is not a socket: remove it, or choose another name", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system limits the length of a socket's path.
    #[error(
        "the socket path {} has {len} bytes, the system takes {max}: choose a shorter name or set \
         NEARWIRE_DIR to a shorter directory", path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The longest that the system takes, in bytes.
        max: usize,
    },
    /// The socket's directory is not safe to use.
    #[error("{}: {fault}", path.display())]
    Directory {
        /// The directory, or the socket in it.
        path: PathBuf,
        /// What is wrong with it.
        fault: DirectoryFault,
    },
    /// The process at the other end is not one that this side deals with.
    #[error("process {} of user {} is not welcome here: {reason}", peer.pid, peer.user())]
    Credentials {
        /// Who it is.
        peer: Identity,
        /// Why not.
        reason: String,
    },
    /// The handshake failed: versions that do not meet (both are named), a refusal by the server
    /// with its reason, or bytes that make no sense.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The server's counters page cannot be read.
    #[error(transparent)]
    Counters(#[from] crate::metrics::PageError),
    /// The peer's segment is not what was agreed.
    #[error("the peer's shared memory was refused: {0}")]
    Segment(#[from] SegmentRefused),
    /// The peer broke the protocol. The connection is closed.
    #[error("the peer broke the protocol: {0}")]
    Protocol(Violation),
    /// The peer is gone, without a goodbye or after one.
    #[error("the connection is closed: {reason}{executed}")]
    Closed {
        /// Why.
        reason: CloseReason,
        /// For a call: whether its handler may have run.
        executed: Executed,
    },
    /// A pool had no connection for a call.
    #[error(
        "no connection for {waited:?}{executed}: start the server, or give it more time \
         (acquire_timeout, the call's deadline)"
    )]
    NoConnection {
        /// How long the call waited.
        waited: std::time::Duration,
        /// Whether its handler may have run on an earlier connection.
        executed: Executed,
        /// Why the last attempt to connect failed, if any did.
        source: Option<Arc<Error>>,
    },
    /// A message is longer than what the other side accepts. Nothing was sent.
    #[error(
        "a message of {len} bytes is above the limit of {limit}: send less, or raise max_message on the receiving side"
    )]
    TooLarge {
        /// Length of the message in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The time is up.
    #[error("the deadline passed before the answer came")]
    DeadlineExceeded,
    /// The server has no such method.
    #[error("the server has no method {name:?}; it has: {}", known.join(", "))]
    NoMethod {
        /// The name asked for.
        name: String,
        /// What the server offers, some of it if it is much.
        known: Vec<String>,
    },
    /// The method answers in another way than it is called for.
    #[error("the method {name:?} answers in another way: use call for one reply, stream for many")]
    WrongShape {
        /// The method's name.
        name: String,
    },
    /// More calls in flight than the connection takes.
    #[error("{limit} calls are in flight, the most that this connection takes: await some first")]
    TooManyInFlight {
        /// The limit.
        limit: usize,
    },
    /// The remote handler answered with an error.
    #[error(transparent)]
    Status(#[from] Status),
    /// A typed request or reply could not be turned into bytes, or back.
    #[error("{what} could not be {did}: {reason}")]
    Codec {
        /// Request or reply.
        what: &'static str,
        /// Encoded or decoded.
        did: &'static str,
        /// What the serialiser says.
        reason: String,
    },
    /// Async methods need a runtime.
    #[error(
        "method {method:?} is async and there is no Tokio runtime: call bind inside one, or give \
         the builder a handle with runtime()"
    )]
    NoRuntime {
        /// The first such method.
        method: String,
    },
    /// A setting that makes no sense.
    #[error("{setting} must be {rule}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// A system call failed.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether a handler may have seen the request of a call that ended with this error. If not,
    /// calling again, here or elsewhere, does nothing twice.
    pub fn may_have_executed(&self) -> bool {
        match self {
            Error::Status(status) => !status.code.not_executed(),
            Error::Closed { executed, .. } | Error::NoConnection { executed, .. } => {
                *executed == Executed::Maybe
            }
            Error::DeadlineExceeded | Error::Protocol(_) | Error::Io { .. } => true,
            Error::Codec { what, .. } => *what == "the reply",
            _ => false,
        }
    }

    /// The connection is over, and it concerns no call, or one that was not sent.
    pub(crate) fn closed(reason: CloseReason) -> Self {
        let executed = Executed::No;
        Error::Closed { reason, executed }
    }

    /// The error for a call whose request was sent.
    pub(crate) fn of_sent_call(self) -> Self {
        match self {
            Error::Closed { reason, .. } if reason != CloseReason::Drained => Error::Closed {
                reason,
                executed: Executed::Maybe,
            },
            other => other,
        }
    }

    /// The same error once more, for a second one who asks how something ended. A system's error
    /// is the same in kind and text.
    #[cfg(feature = "tokio")]
    pub(crate) fn again(&self) -> Self {
        match self {
            Error::Closed { reason, executed } => Error::Closed {
                reason: reason.clone(),
                executed: *executed,
            },
            Error::Protocol(violation) => Error::Protocol(violation.clone()),
            Error::Status(status) => Error::Status(status.clone()),
            Error::DeadlineExceeded => Error::DeadlineExceeded,
            Error::TooLarge { len, limit } => Error::TooLarge {
                len: *len,
                limit: *limit,
            },
            Error::NoMethod { name, known } => Error::NoMethod {
                name: name.clone(),
                known: known.clone(),
            },
            Error::WrongShape { name } => Error::WrongShape { name: name.clone() },
            Error::Codec { what, did, reason } => Error::Codec {
                what,
                did,
                reason: reason.clone(),
            },
            Error::Io { doing, source } => Error::Io {
                doing,
                source: io::Error::new(source.kind(), source.to_string()),
            },
            // A call ends with none of the others.
            other => Error::Io {
                doing: "go on with the call",
                source: io::Error::other(other.to_string()),
            },
        }
    }

    /// Makes an [`Error::Io`] out of what a system call returned.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }

    /// The error for a server that lets its clients wait for too long.
    pub(crate) fn no_answer() -> Error {
        Error::Io {
            doing: "finish the handshake: the server does not answer",
            source: io::ErrorKind::TimedOut.into(),
        }
    }
}

impl From<Box<Error>> for Error {
    fn from(error: Box<Error>) -> Self {
        *error
    }
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        Error::Protocol(Violation::Ring(error))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::NoServer { dead: false, .. } => io::ErrorKind::NotFound,
            Error::NoServer { dead: true, .. } => io::ErrorKind::ConnectionRefused,
            Error::NameInUse { .. } => io::ErrorKind::AddrInUse,
            Error::Directory { .. } | Error::Credentials { .. } => io::ErrorKind::PermissionDenied,
            Error::Closed { .. } => io::ErrorKind::ConnectionReset,
            Error::DeadlineExceeded | Error::NoConnection { .. } => io::ErrorKind::TimedOut,
            Error::Protocol(_) | Error::Segment(_) => io::ErrorKind::InvalidData,
            Error::TooLarge { .. } | Error::BadName { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Who a process is, as the system tells it (not as the process says).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Effective user id.
    #[cfg(unix)]
    pub uid: u32,
    /// Effective group id.
    #[cfg(unix)]
    pub gid: u32,
    /// The user that the process runs as.
    #[cfg(windows)]
    pub sid: Sid,
}

impl Identity {
    /// The user, for people: the user id, on Windows the security identifier (SID).
    pub fn user(&self) -> impl std::fmt::Display {
        #[cfg(unix)]
        return self.uid;
        #[cfg(windows)]
        self.sid
    }

    /// Whether both run as the same user.
    pub fn is_same_user(&self, other: &Identity) -> bool {
        #[cfg(unix)]
        return self.uid == other.uid;
        #[cfg(windows)]
        return self.sid == other.sid;
    }
}

/// Why a socket's directory is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryFault {
    /// It does not exist.
    #[error("the directory does not exist: create it, mode 0700")]
    Missing,
    /// It is a symbolic link.
    #[error("a symbolic link, which somebody could redirect: use the real directory's path")]
    SymbolicLink,
    /// It is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// It belongs to somebody else.
    #[error(
        "belongs to user {is}, this process runs as {me}: use a directory of your own (set NEARWIRE_DIR)"
    )]
    Owner {
        /// The owner's user id.
        is: u32,
        /// This process's.
        me: u32,
    },
    /// Others may enter or write it.
    #[error("mode {is:04o} lets others in: chmod 700 it")]
    Mode {
        /// Its mode bits.
        is: u32,
    },
    /// This process may not enter it.
    #[error(
        "permission denied: the server belongs to another user, or its directory is closed to you"
    )]
    NoAccess,
}

/// Why a peer's segment was not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentRefused {
    /// Not anonymous memory: something that could shrink or fail while it is read.
    #[error("the handle is not one of anonymous memory")]
    NotAnonymous,
    /// The seals that keep it safe to read are missing.
    #[error("it is sealed {seals:#x}, needed are {needed:#x}")]
    NotSealed {
        /// The seals it has, as the system's bits.
        seals: u32,
        /// The seals it needs.
        needed: u32,
    },
    /// Not the size that the handshake agreed on.
    #[error("it has {is} bytes, agreed were {agreed}")]
    WrongSize {
        /// Its size in bytes.
        is: u64,
        /// The agreed size in bytes.
        agreed: u64,
    },
    /// Its first words are not those of a segment of this layout.
    #[error("it does not begin like a segment of this layout")]
    NotASegment,
    /// The system would not map it.
    #[error("it cannot be mapped: {0}")]
    Unusable(#[source] io::Error),
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// In the ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// In a frame.
    #[error("{0}")]
    Frame(String),
    /// In the handshake or in a control message.
    #[error("{0}")]
    Control(String),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer finished in an orderly way.
    #[error("the peer finished")]
    Finished,
    /// The peer's process ended, or dropped the connection, without a word.
    #[error("the peer is gone (it exited, was killed, or dropped the connection)")]
    PeerGone,
    /// The server shut down and has answered everything that it took. What it has not answered,
    /// it has not read.
    #[error("the server shut down")]
    Drained,
    /// The peer said why it closes.
    #[error("the peer closed it: {0}")]
    PeerSays(String),
    /// An earlier violation of the protocol by the peer.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
}

/// Whether the handler of a call that failed may have run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executed {
    /// It has not: the request was not sent, or not wholly.
    No,
    /// The request was sent, and no answer came.
    Maybe,
}

impl std::fmt::Display for Executed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Executed::No => "",
            Executed::Maybe => "; the call was in flight and may have been executed",
        })
    }
}

/// What a handler answers instead of a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Status {
    /// The reason as a code.
    pub code: Code,
    /// The reason in words, for people.
    pub message: String,
}

impl Status {
    /// A status of this code with a message for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// What a caller is told when a handler says this. A handler can neither report success as an
    /// error nor make the promises that only the runtime can keep ([`Code::is_reserved`]).
    pub(crate) fn of_handler(self) -> Self {
        // What `ItemSender::send` gave the handler is the runtime's word.
        let reserved = self.code.is_reserved() && self.code != Code::REPLY_TOO_LARGE;
        if !reserved && self.code != Code::OK {
            return self;
        }
        let message = format!("the handler said {}: {}", self.code, self.message);
        Self::new(Code::INTERNAL, message)
    }
}
