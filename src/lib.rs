//! Calls between processes on one machine, at the speed of shared memory.
//!
//! A [`Server`] offers methods under a name; clients in other processes call them: [`Client`] from
//! async code, [`BlockingClient`] from a thread. Below calls there are messages
//! ([`Connection`]) and byte streams ([`ByteStream`]), for protocols of one's own.
//!
//! ```no_run
//! use nearwire::{BlockingClient, Server};
//!
//! # fn main() -> nearwire::Result<()> {
//! // one process
//! let server = Server::builder()
//!     .method("reverse", |request: &[u8]| Ok(request.iter().rev().copied().collect()))
//!     .bind("text")?;
//!
//! // another process of the same user
//! let mut client = BlockingClient::connect("text")?;
//! assert_eq!(client.call_bytes("reverse", b"wire")?, b"eriw");
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! - `tokio` (default): the async client, async handlers and streams, `AsyncRead`/`AsyncWrite`.
//! - `serde` (default): typed calls, encoded as postcard.
//!
//! # Who can talk to whom
//! Processes of the same user, unless a [`PeerPolicy`] says otherwise. The other side may be
//! hostile: it can break its own connection and nothing else.

#![deny(unsafe_code)]

mod client;
mod error;
mod info;
pub mod layout;
mod link;
mod listener;
mod name;
pub mod proto;
pub mod ring;
// Under loom only the algorithms are built, over the heap: the system has no loom atomics.
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod segment;
mod server;
mod settings;
#[cfg(windows)]
mod sid;
pub mod stream;
mod sync;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "serde")]
mod typed;
mod waiter;
mod worker;

pub use client::{BlockingClient, CallId, ClientBuilder, Method, Pipeline};
#[cfg(feature = "tokio")]
pub use client::{ByteItemSink, ByteItems, ByteUpload, Call, Client};
#[cfg(all(feature = "tokio", feature = "serde"))]
pub use client::{ItemSink, Items, TypedCall, Upload};
pub use error::{
    CloseReason, DirectoryFault, Error, Executed, Identity, Result, SegmentRefused, Status,
    Violation,
};
pub use info::ConnectionInfo;
pub use proto::status::Code;
#[cfg(feature = "tokio")]
pub use server::{ByteItemReceiver, ByteItemSender};
pub use server::{CallContext, Limits, Pin, Server, ServerBuilder};
#[cfg(all(feature = "serde", feature = "tokio"))]
pub use server::{ItemReceiver, ItemSender};
pub use settings::{HugePages, Memory, PeerPolicy, Spin};
#[cfg(windows)]
pub use sid::Sid;
#[cfg(feature = "tokio")]
pub use stream::{AsyncByteStream, AsyncConnection};
pub use stream::{
    ByteListener, ByteStream, Connection, Listener, ListenerBuilder, Received, WaitStats,
};

/// The README's examples are compiled with the tests.
#[cfg(all(doctest, feature = "tokio", feature = "serde"))]
#[doc = include_str!("../README.md")]
struct Readme;
