//! The handshake: messages on the control socket, and what the two sides agree on.
//!
//! ```text
//! client                                     server
//!   | -- Hello ----------------------------->  |  versions, mode, features, wishes
//!   |  <---------- Welcome + 2 descriptors --  |  what was granted; server's segment and doorbell
//!   | -- Accept + 2 descriptors ------------>  |  client's segment and doorbell
//!   |  <---------------------------- Ready --  |  from here on the rings carry everything
//!   |                 ...                      |
//!   |  <- Close --------------------- Close -> |  either side, says why; then end of file
//! ```
//!
//! With the mpmc transport the Welcome has a third descriptor, that of the server's request queue.
//!
//! A connection over the socket has no descriptors, and after Ready the socket carries its frames.
//! Each side may turn to it up to its last message: the Welcome, the Accept or the Ready says so.
//!
//! A process that wants a server's counters says Observe in place of Hello and gets Counters.
//! In place of Welcome or Ready the server may send Reject, and it may do so before any Hello.
//!
//! [`ClientHandshake`] and [`ServerHandshake`] are the two ends. Both take bytes in pieces of any
//! size with the number of descriptors that came along, and hand out bytes to send; they never
//! see a socket. The descriptors themselves, peer credentials and time limits are the caller's.
//! After the handshake a [`MessageReader`] reads what the socket still carries: [`Close`].

mod bytes;
mod client;
mod envelope;
mod error;
mod message;
mod negotiate;
mod observe;
mod refusal;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ClientHandshake, ClientLimits, ClientStep};
pub use envelope::{
    ENVELOPE_LEN, Envelope, MAGIC, MAX_CONTROL_BODY, MAX_DESCRIPTORS, MessageKind, MessageReader,
};
pub use error::HandshakeError;
pub use message::{
    Accept, CallShape, Hello, MAX_LABEL, MAX_METHOD_NAME, Method, Ready, VersionRange, Welcome,
    fitting_label,
};
pub use negotiate::{Agreed, ServerPolicy, negotiate};
pub use observe::{Counters, Observe, ObserverHandshake};
pub use refusal::{Close, CloseCode, MAX_REASON, Reject, RejectCode};
pub use server::{Offer, ServerHandshake, ServerStep};

/// Feature bit: this process can take part in asymmetric fences (see `waiter`).
pub const FEATURE_ASYMMETRIC_FENCES: u64 = 1 << 0;

/// Feature bit: requests may carry a trace context.
pub const FEATURE_TRACE_CONTEXT: u64 = 1 << 1;

/// Feature bit: the frames may go over the socket instead of shared memory. Who requires it takes
/// nothing else; who does not offer it takes shared memory alone.
pub const FEATURE_SOCKET_TRANSPORT: u64 = 1 << 8;

/// Feature bit: the client's frames go through the server's request queue, which all clients that
/// agreed on this may write, and not through a ring of their own. Who requires it takes nothing else.
pub const FEATURE_MPMC_TRANSPORT: u64 = 1 << 9;

/// Largest capacity, in bytes, of the rings of a connection over the socket, whatever was granted:
/// they bound a record's length and what a side holds of the connection. Larger ones carry nothing
/// faster, the kernel's buffer being in between.
pub const MAX_SOCKET_RING: u32 = 64 << 10;

/// Protocol versions that this library speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };
