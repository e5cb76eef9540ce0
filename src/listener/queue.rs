//! Listening for connections of messages or bytes, which queue until they are accepted.

use super::{Acceptor, Admission};
use crate::error::{CloseReason, Error, Result};
use crate::layout;
use crate::link::{Grants, Link, MappedMemory, features};
use crate::name;
use crate::proto::handshake::{RejectCode, ServerPolicy, VERSIONS, fitting_label};
use crate::proto::mode::Mode;
use crate::server::{Limits, check_limits};
use crate::settings::{Memory, PeerPolicy, Spin, TransportPolicy};
#[cfg(feature = "tokio")]
use crate::stream::{AsyncByteStream, AsyncConnection};
use crate::stream::{ByteStream, Connection, Place};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How to listen for connections of messages or bytes. (Calls need no listener: see
/// [`Server`](crate::Server).)
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// use nearwire::{Limits, Listener};
///
/// let limits = Limits { max_connections: 10, ..Limits::default() };
/// let listener = Listener::builder().limits(limits).bind("chat")?;
/// let connection = listener.accept()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ListenerBuilder {
    limits: Limits,
    memory: Memory,
    transports: TransportPolicy,
    spin: Spin,
    peers: PeerPolicy,
    label: Option<String>,
    handshake_timeout: Duration,
    max_pending: usize,
}

impl Default for ListenerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ListenerBuilder {
    /// The default settings.
    pub fn new() -> Self {
        Self {
            limits: Limits::default(),
            memory: Memory::default(),
            transports: TransportPolicy::default(),
            spin: Spin::default(),
            peers: PeerPolicy::default(),
            label: None,
            handshake_timeout: Duration::from_secs(5),
            max_pending: 128,
        }
    }

    /// Sets the limits; `max_in_flight` means nothing here. Default: those of a server.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how the memory of this side's segments is obtained.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Sets what may carry the connections. Default: shared memory, and the socket where there is
    /// none.
    #[must_use]
    pub fn transport(mut self, policy: TransportPolicy) -> Self {
        self.transports = policy;
        self
    }

    /// Sets how long accepted connections spin before they sleep.
    #[must_use]
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// Sets whose connections are taken. Default: processes of the same user.
    #[must_use]
    pub fn peers(mut self, policy: PeerPolicy) -> Self {
        self.peers = policy;
        self
    }

    /// Sets what the listener calls itself towards clients, for logs and metrics: 64 bytes at most,
    /// cut if longer. Default: the name it is bound to.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }

    /// Sets how long a client may take to shake hands. Default: 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many connections may wait to be accepted, at least 1. A client beyond it is refused
    /// with this reason. Default: 128.
    #[must_use]
    pub fn max_pending(mut self, connections: usize) -> Self {
        self.max_pending = connections.max(1);
        self
    }

    /// Takes the name and starts to shake hands with clients, in a thread of its own, for
    /// connections of messages. A name is a plain name or a path, as for
    /// [`ServerBuilder::bind`](crate::ServerBuilder::bind).
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::BadName`], [`Error::Directory`] and the like about the name;
    /// [`Error::Setting`] for settings that make no sense; [`Error::Io`] if the system refuses
    /// threads or descriptors.
    pub fn bind(self, name: &str) -> Result<Listener> {
        Ok(Listener(self.queue(name, Mode::Messages)?))
    }

    /// As [`bind`](Self::bind), for byte streams.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_bytes(self, name: &str) -> Result<ByteListener> {
        Ok(ByteListener(self.queue(name, Mode::Bytes)?))
    }

    fn queue(self, name: &str, mode: Mode) -> Result<Queue> {
        let place = name::Place::of(name)?;
        let limits = self.limits;
        check_limits(&limits)?;
        if self.transports.offers_mpmc() {
            return Err(Error::Setting {
                setting: "transport",
                rule: "one that carries messages and bytes: mpmc carries calls alone",
            });
        }
        let (features_supported, features_required) = features(self.transports)?;
        let label = fitting_label(self.label.as_deref().unwrap_or(name));
        let grants = Grants {
            policy: Arc::new(ServerPolicy {
                versions: VERSIONS,
                modes: vec![mode],
                features_supported,
                features_required,
                layout_hash: layout::LAYOUT_HASH,
                ring_min: limits.min_ring as u32,
                ring_max: limits.max_ring as u32,
            }),
            peers: self.peers,
            memory: self.memory,
            max_message: limits.max_message as u64,
            max_in_flight: 1,
            stream_credits: 0,
            mapped: MappedMemory::new(limits.max_mapped),
            label,
            methods: Arc::new([]),
            #[cfg(feature = "mpmc_transport")]
            requests: None,
            counters: None,
            timeout: self.handshake_timeout,
        };
        let (sender, waiting) = async_channel::bounded(self.max_pending);
        let connections = Arc::new(AtomicUsize::new(0));
        let admission = ToQueue {
            sender,
            connections: connections.clone(),
            max_connections: limits.max_connections,
        };
        let acceptor =
            Acceptor::start(&place, Arc::new(grants), limits.max_connect_rate, admission)?;
        Ok(Queue {
            acceptor,
            waiting,
            connections,
            spin: self.spin,
        })
    }
}

/// A connection that waits to be accepted.
#[derive(Debug)]
struct Waiting {
    /// Taken when it is accepted.
    link: Option<Box<Link>>,
    place: Option<Place>,
}

impl Waiting {
    fn accept(mut self) -> (Box<Link>, Option<Place>) {
        let link = self.link.take().expect("accepted once");
        (link, self.place.take())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // The listener is gone and nobody will accept it.
        if let Some(link) = &self.link {
            link.shared.close(CloseReason::Local);
        }
    }
}

/// The acceptor's end of the queue.
struct ToQueue {
    sender: async_channel::Sender<Waiting>,
    /// Connections that are waiting or were accepted and are open.
    connections: Arc<AtomicUsize>,
    max_connections: usize,
}

impl Admission for ToQueue {
    fn admit(&mut self, pending: usize) -> Result<(), (RejectCode, String)> {
        if self.connections.load(Relaxed) + pending >= self.max_connections {
            let text = format!(
                "the listener has {} connections, its limit",
                self.max_connections
            );
            return Err((RejectCode::Limits, text));
        }
        let capacity = self.sender.capacity().unwrap_or(usize::MAX);
        if self.sender.len() + pending >= capacity {
            let text = format!("{capacity} connections wait to be accepted, the limit");
            return Err((RejectCode::Limits, text));
        }
        Ok(())
    }

    fn take(&mut self, link: Box<Link>) {
        let waiting = Waiting {
            link: Some(link),
            place: Some(Place::take(&self.connections)),
        };
        // There is a place, for only this side fills them and `admit` counts. If the listener is
        // gone instead, the drop says so to the client.
        drop(self.sender.try_send(waiting));
    }
}

/// What both kinds of listeners are.
#[derive(Debug)]
struct Queue {
    acceptor: Acceptor,
    waiting: async_channel::Receiver<Waiting>,
    connections: Arc<AtomicUsize>,
    spin: Spin,
}

impl Queue {
    fn next(&self) -> Result<(Box<Link>, Option<Place>)> {
        let waiting = self.waiting.recv_blocking();
        Ok(waiting.map_err(ended)?.accept())
    }

    fn next_until(&self, timeout: Duration) -> Result<Option<(Box<Link>, Option<Place>)>> {
        let Some(deadline) = Instant::now().checked_add(timeout) else {
            return self.next().map(Some);
        };
        match wait_until(self.waiting.recv(), deadline) {
            None => Ok(None),
            Some(waiting) => Ok(Some(waiting.map_err(ended)?.accept())),
        }
    }

    #[cfg(feature = "tokio")]
    async fn next_async(&self) -> Result<(Box<Link>, Option<Place>)> {
        let waiting = self.waiting.recv().await;
        Ok(waiting.map_err(ended)?.accept())
    }
}

/// The acceptor's thread ends with its listener, unless a defect ends it before.
fn ended(_: async_channel::RecvError) -> Error {
    Error::io("accept a connection: the acceptor thread has ended")(
        std::io::ErrorKind::Other.into(),
    )
}

/// Blocks until the future is ready, or until the deadline.
fn wait_until<T>(future: impl Future<Output = T>, deadline: Instant) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

macro_rules! listener {
    ($listener:ident, $connection:ident, $asynchronous:ident, $bind:ident) => {
        impl $listener {
            /// Takes the name, with the default settings.
            ///
            /// # Errors
            #[doc = concat!("As [`ListenerBuilder::", stringify!($bind), "`].")]
            pub fn bind(name: &str) -> Result<Self> {
                ListenerBuilder::new().$bind(name)
            }

            /// The settings to listen with.
            pub fn builder() -> ListenerBuilder {
                ListenerBuilder::new()
            }

            /// Waits for the next connection. Blocks. Any number of threads may.
            ///
            /// # Errors
            /// [`Error::Io`] if the acceptor's thread was lost, and no more connections will come.
            pub fn accept(&self) -> Result<$connection> {
                let (link, place) = self.0.next()?;
                Ok($connection::new(link, self.0.spin, place))
            }

            /// Waits for the next connection, for `timeout` at most. Blocks. `None`: there was
            /// none.
            ///
            /// # Errors
            /// As [`accept`](Self::accept).
            pub fn accept_timeout(&self, timeout: Duration) -> Result<Option<$connection>> {
                let next = self.0.next_until(timeout)?;
                Ok(next.map(|(link, place)| $connection::new(link, self.0.spin, place)))
            }

            /// Waits for the next connection without blocking the thread. If the future is
            /// dropped, no connection is lost.
            ///
            /// # Errors
            /// As [`accept`](Self::accept); [`Error::Io`] also outside a Tokio runtime.
            #[cfg(feature = "tokio")]
            pub async fn accept_async(&self) -> Result<$asynchronous> {
                let (link, place) = self.0.next_async().await?;
                $asynchronous::new(link, self.0.spin, place)
            }

            /// The path of the socket that clients connect to.
            pub fn path(&self) -> &Path {
                self.0.acceptor.path()
            }

            /// Connections that are open, or wait to be accepted.
            pub fn connections(&self) -> usize {
                self.0.connections.load(Relaxed)
            }
        }
    };
}

/// A name under which connections of messages are accepted. Dropping it frees the name and turns
/// away who waits; accepted connections stay.
///
/// See [`Connection`] for an example.
#[derive(Debug)]
pub struct Listener(Queue);

listener!(Listener, Connection, AsyncConnection, bind);

/// A name under which byte streams are accepted. Otherwise as [`Listener`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use nearwire::ByteListener;
///
/// let listener = ByteListener::bind("echo")?;
/// loop {
///     let (mut reader, mut writer) = listener.accept()?.split();
///     std::thread::spawn(move || std::io::copy(&mut reader, &mut writer));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct ByteListener(Queue);

listener!(ByteListener, ByteStream, AsyncByteStream, bind_bytes);
