//! Calls between processes on one machine, at the speed of shared memory.

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
pub use client::{ByteItems, Call, Client};
#[cfg(all(feature = "tokio", feature = "serde"))]
pub use client::{Items, TypedCall};
pub use error::{
    CloseReason, DirectoryFault, Error, Identity, Result, SegmentRefused, Status, Violation,
};
pub use info::ConnectionInfo;
pub use proto::status::Code;
#[cfg(feature = "tokio")]
pub use server::ByteItemSender;
#[cfg(all(feature = "serde", feature = "tokio"))]
pub use server::ItemSender;
pub use server::{CallContext, Limits, Pin, Server, ServerBuilder};
pub use settings::{HugePages, Memory, PeerPolicy, Spin};
#[cfg(feature = "tokio")]
pub use stream::{AsyncByteStream, AsyncConnection};
pub use stream::{
    ByteListener, ByteStream, Connection, Listener, ListenerBuilder, Received, WaitStats,
};
