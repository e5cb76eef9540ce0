//! Clients: blocking and async.

mod blocking;
#[cfg(all(fuzzing, feature = "tokio", target_os = "linux"))]
pub(crate) mod fuzzing;
mod methods;
#[cfg(feature = "tokio")]
mod multiplexed;
mod pipeline;
mod span;

pub use blocking::BlockingClient;
pub use methods::Method;
#[cfg(all(test, shuttle, feature = "tokio"))]
pub(crate) use multiplexed::schedules;
#[cfg(feature = "tokio")]
pub use multiplexed::{ByteItemSink, ByteItems, ByteUpload, Call, Client, Notification};
#[cfg(all(feature = "tokio", feature = "serde"))]
pub use multiplexed::{ItemSink, Items, TypedCall, Upload};
pub use pipeline::{CallId, Pipeline};

use crate::error::{Error, Result};
use crate::layout;
use crate::link::{Link, Wishes, connect};
use crate::metrics::DEFAULT_SAMPLING;
use crate::name::Place;
use crate::proto::handshake::fitting_label;
use crate::proto::mode::Mode;
use crate::settings::{Memory, PeerPolicy, Spin, TransportPolicy};
use std::time::Duration;

/// Credits that a client grants each stream in advance: 64 items or 4 MiB.
pub(crate) const STREAM_CREDITS: u32 = 64;

/// How to connect. The same settings serve blocking and async clients.
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// use nearwire::{ClientBuilder, Spin};
///
/// let mut client = ClientBuilder::new().spin(Spin::NEVER).connect_blocking("text")?;
/// let reply = client.call_bytes("reverse", b"wire")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    ring: usize,
    max_message: usize,
    memory: Memory,
    transports: Option<TransportPolicy>,
    pub(crate) spin: Spin,
    timeout: Duration,
    peers: PeerPolicy,
    label: String,
    pub(crate) sampling: u32,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientBuilder {
    /// The default settings.
    pub fn new() -> Self {
        Self {
            ring: layout::DEFAULT_CAPACITY,
            max_message: 64 << 20,
            memory: Memory::default(),
            transports: None,
            spin: Spin::default(),
            timeout: Duration::from_secs(5),
            peers: PeerPolicy::default(),
            label: String::new(),
            sampling: DEFAULT_SAMPLING,
        }
    }

    /// Wishes for rings of `bytes` per direction, a power of two. The server clamps it to its
    /// limits. Default: 128 KiB, room for 64 requests of 1 KiB and some.
    #[must_use]
    pub fn ring(mut self, bytes: usize) -> Self {
        self.ring = bytes;
        self
    }

    /// Sets the largest reply that this client accepts, in bytes. Default: 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Sets how the memory of this side's segment is obtained.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Sets what may carry the connection. Default: shared memory, and the socket where there is
    /// none. With the cargo feature `mpmc_transport` the environment variable `NEARWIRE_TRANSPORT` may
    /// say something else for calls, in the words of [`TransportPolicy`]'s `FromStr`.
    #[must_use]
    pub fn transport(mut self, policy: TransportPolicy) -> Self {
        self.transports = Some(policy);
        self
    }

    /// Sets how long a waiting call spins before it sleeps. Over the socket nothing spins.
    #[must_use]
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// Sets how long connecting may take. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets which servers are trusted. Default: those of the same user.
    #[must_use]
    pub fn peers(mut self, policy: PeerPolicy) -> Self {
        self.peers = policy;
        self
    }

    /// Sets what the client calls itself towards the server, for logs and metrics: 64 bytes at
    /// most, cut if longer.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = fitting_label(label);
        self
    }

    /// Sets how many calls are timed for [`ClientMetrics`](crate::metrics::ClientMetrics): one in so
    /// many; 0: none. See [`metrics`](crate::metrics). Default: one in 1000.
    #[must_use]
    pub fn sampling(mut self, one_in: u32) -> Self {
        self.sampling = one_in;
        self
    }

    /// Connects to a server, for calls from one thread. Blocks for the timeout at most.
    ///
    /// # Errors
    /// [`Error::NoServer`] if nobody serves there; [`Error::Handshake`] if the server refuses, or
    /// speaks another version; [`Error::Credentials`] if it belongs to somebody else.
    pub fn connect_blocking(&self, name: &str) -> Result<BlockingClient> {
        Ok(BlockingClient::new(
            self.link(name, Mode::Calls)?,
            self.spin,
            self.sampling,
        ))
    }

    /// # Errors
    /// [`Error::Setting`] for settings that make no sense.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = (layout::MIN_CAPACITY..=layout::MAX_CAPACITY).contains(&self.ring);
        if !self.ring.is_power_of_two() || !fits {
            let rule = "a power of two, 4 KiB to 256 MiB";
            return Err(Error::Setting {
                setting: "ring",
                rule,
            });
        }
        Ok(())
    }

    pub(crate) fn link(&self, name: &str, mode: Mode) -> Result<Link> {
        self.check()?;
        let transports = match mode {
            Mode::Calls => TransportPolicy::of_calls(self.transports)?,
            _ => self.transports.unwrap_or_default(),
        };
        let wishes = Wishes {
            mode,
            withheld: 0,
            ring_to_server: self.ring,
            ring_to_client: self.ring,
            max_message: self.max_message as u64,
            stream_credits: STREAM_CREDITS,
            memory: self.memory,
            transports,
            label: self.label.clone(),
            timeout: self.timeout,
            policy: self.peers.clone(),
        };
        let link = connect(&Place::of(name)?, &wishes)?;
        tracing::debug!(
            server = name,
            peer.pid = link.shared.peer.pid,
            peer.label = link.shared.terms.peer_label,
            connection = link.shared.terms.connection_id,
            "connected"
        );
        Ok(link)
    }
}
