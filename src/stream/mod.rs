//! Connections without calls: messages and byte streams, blocking and async.
//!
//! | | one thread | two threads | tasks |
//! |---|---|---|---|
//! | messages | [`Connection`] | [`Sender`], [`Receiver`] | `AsyncConnection`, `AsyncSender`, `AsyncReceiver` |
//! | bytes | [`ByteStream`] | [`ByteWriter`], [`ByteReader`] | `AsyncByteStream`, `AsyncByteWriter`, `AsyncByteReader` |
//!
//! A server listens with a [`Listener`] or a [`ByteListener`]; clients connect with
//! [`Connection::connect`], [`ByteStream::connect`], or with a
//! [`ClientBuilder`](crate::ClientBuilder) if the settings matter.
//!
//! # The end of a connection
//! Each direction ends by itself: `finish`, or dropping the sending half, lets the receiver see
//! everything that was sent and then the end, which is no error. When both halves are dropped the
//! connection is gone, and what the peer still sends fails. A peer that is killed, or exits
//! without dropping its end, is an error ([`Error::Closed`](crate::Error::Closed)) behind
//! everything that it had sent; sleepers learn of it at once, pollers with `try_` methods within
//! some dozens of calls.
//!
//! A receiving half that is dropped while the sending half lives takes nothing more: the peer's
//! sends block when the ring is full, as with a socket that nobody reads.
//!
//! # Waiting
//! A side with nothing to do looks at the ring for the [`Spin`](crate::Spin) budget and then sleeps
//! in the kernel; the other side makes a system call only to wake a sleeper. [`WaitStats`] counts
//! all that. Two sides that only send, and never receive, wait for each other for ever once both
//! rings are full: receive in between, or split and use two threads.

mod byte_stream;
mod bytes;
mod connect;
mod connection;
mod messages;
mod open;

#[cfg(feature = "tokio")]
mod async_byte_stream;
#[cfg(feature = "tokio")]
mod async_connection;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(feature = "tokio")]
pub use async_byte_stream::{AsyncByteReader, AsyncByteStream, AsyncByteWriter};
#[cfg(feature = "tokio")]
pub use async_connection::{AsyncConnection, AsyncReceiver, AsyncSender};
pub use byte_stream::{ByteReader, ByteStream, ByteWriter};
pub use connection::{Connection, Receiver, Sender};
pub use messages::Received;
pub use open::WaitStats;

pub use crate::listener::{ByteListener, Listener, ListenerBuilder};

pub(crate) use open::Place;
