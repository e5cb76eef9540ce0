//! Calls between processes on one machine, at the speed of shared memory.
//!
//! A [`Server`] offers methods under a name; clients in other processes call them: [`Client`] from
//! async code, [`BlockingClient`] from a thread. A [`Pool`] of async clients comes back after the
//! server was restarted. Below calls there are messages
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
//! - `spsc_transport` (default): rings in shared memory. Without it everything goes over the socket.
//! - `serde` (default): typed calls, encoded as postcard.
//! - `mpmc_transport`: one request queue for all clients of a server, to migrate from (Linux).
//! - `bb8`: a connection manager for those who pool with bb8.
//! - `prometheus`: a server's metrics in a Prometheus registry.
//! - `tower`: clients and pools as tower services, tower services as methods.
//!
//! # Who can talk to whom
//! Processes of the same user, unless a [`PeerPolicy`] says otherwise. The other side may be
//! hostile: it can break its own connection and nothing else.

#![deny(unsafe_code)]
// docs.rs says then which feature each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(loom, fuzzing))))]

#[cfg_attr(any(loom, not(feature = "tokio")), allow(dead_code))]
mod bias;
pub mod layout;
#[cfg_attr(loom, allow(dead_code))]
mod mailbox;
pub mod proto;
#[cfg(feature = "mpmc_transport")]
#[cfg_attr(loom, allow(dead_code))]
mod queue;
pub mod ring;
mod sync;
mod waiter;

// Under loom only the algorithms are built, over the heap: the system has no loom atomics.
#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod error;
#[cfg(all(feature = "prometheus", not(loom)))]
mod exporter;
#[cfg(all(fuzzing, feature = "tokio", target_os = "linux"))]
pub mod fuzzing;
#[cfg(not(loom))]
mod info;
#[cfg(not(loom))]
mod link;
#[cfg(not(loom))]
mod listener;
#[cfg(not(loom))]
pub mod metrics;
#[cfg(not(loom))]
mod name;
#[cfg(not(loom))]
mod observer;
#[cfg(all(feature = "tokio", not(loom)))]
mod pool;
#[cfg(not(loom))]
mod rate;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod segment;
#[cfg(not(loom))]
mod server;
#[cfg(all(feature = "tower", not(loom)))]
pub mod service;
#[cfg(not(loom))]
mod settings;
#[cfg(all(windows, not(loom)))]
mod sid;
#[cfg(not(loom))]
pub mod stream;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod sys;
#[cfg(all(feature = "serde", not(loom)))]
mod typed;
#[cfg(not(loom))]
mod worker;

pub use proto::frame::{BadTraceparent, TraceContext};
pub use proto::status::Code;
#[cfg(not(loom))]
pub use surface::*;

/// What is at the crate's root, for users.
#[cfg(not(loom))]
mod surface {
    pub use crate::client::{BlockingClient, CallId, ClientBuilder, Method, Pipeline};
    #[cfg(feature = "tokio")]
    pub use crate::client::{ByteItemSink, ByteItems, ByteUpload, Call, Client, Notification};
    #[cfg(all(feature = "tokio", feature = "serde"))]
    pub use crate::client::{ItemSink, Items, TypedCall, Upload};
    pub use crate::error::{
        CloseReason, DirectoryFault, Error, Executed, Identity, Result, SegmentRefused, Status,
        Violation,
    };
    #[cfg(feature = "prometheus")]
    pub use crate::exporter::Exporter;
    pub use crate::info::{ConnectionInfo, feature_names};
    pub use crate::observer::Observer;
    #[cfg(feature = "bb8")]
    pub use crate::pool::ConnectionManager;
    #[cfg(feature = "tokio")]
    pub use crate::pool::{
        Backoff, Pool, PoolBuilder, PoolByteItems, PoolCall, PoolNotification, PoolStats,
    };
    #[cfg(all(feature = "tokio", feature = "serde"))]
    pub use crate::pool::{PoolItems, TypedPoolCall};
    pub use crate::rate::RateLimit;
    #[cfg(feature = "tokio")]
    pub use crate::server::{ByteItemReceiver, ByteItemSender};
    pub use crate::server::{CallContext, Limits, Pin, Server, ServerBuilder, WorkerInfo};
    #[cfg(all(feature = "serde", feature = "tokio"))]
    pub use crate::server::{ItemReceiver, ItemSender};
    pub use crate::settings::{HugePages, Memory, PeerPolicy, Spin, Transport, TransportPolicy};
    #[cfg(windows)]
    pub use crate::sid::Sid;
    #[cfg(feature = "tokio")]
    pub use crate::stream::{AsyncByteStream, AsyncConnection};
    pub use crate::stream::{
        ByteListener, ByteStream, Connection, Listener, ListenerBuilder, Received, WaitStats,
    };
}

/// The README's examples are compiled with the tests.
#[cfg(all(doctest, feature = "tokio", feature = "serde"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// So are those of the page about pools.
#[cfg(all(doctest, feature = "serde", feature = "bb8", feature = "tower"))]
#[doc = include_str!("../docs/04-CONNECTION-POOL-MANAGEMENT.md")]
struct ConnectionPoolManagement;

/// And those of the page about the way from the mpmc transport.
#[cfg(all(doctest, feature = "tokio", feature = "mpmc_transport"))]
#[doc = include_str!("../docs/IPC_MIGRATION_SPSC.md")]
struct Migration;
