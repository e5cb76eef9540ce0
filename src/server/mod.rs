//! A server: methods under a name.

#[cfg(feature = "tokio")]
pub(crate) mod inlet;
pub(crate) mod methods;
#[cfg(feature = "tokio")]
pub(crate) mod outlet;

#[cfg(feature = "tokio")]
pub use inlet::ByteItemReceiver;
#[cfg(all(feature = "serde", feature = "tokio"))]
pub use inlet::ItemReceiver;
pub use methods::CallContext;
#[cfg(feature = "tokio")]
pub use outlet::ByteItemSender;
#[cfg(all(feature = "serde", feature = "tokio"))]
pub use outlet::ItemSender;

use crate::error::{Error, Result, Status};
use crate::layout;
#[cfg(feature = "mpmc_transport")]
use crate::link::RequestQueue;
use crate::link::{Grants, Link, MappedMemory, features};
use crate::listener::{Acceptor, Admission};
use crate::metrics::{Counter, CountersPage, DEFAULT_SAMPLING, Reader, Snapshot};
use crate::name::Place;
use crate::proto::handshake::{RejectCode, ServerPolicy, VERSIONS, fitting_label};
use crate::proto::mode::Mode;
use crate::rate::RateLimit;
use crate::settings::{Memory, PeerPolicy, Spin, TransportPolicy};
use crate::worker::{Mail, Mailbox, WorkerHandle, WorkerSettings};
use methods::{Handler, Methods};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
#[cfg(feature = "tokio")]
use {
    crate::proto::handshake::CallShape,
    methods::{HandlerFuture, Streams},
};

#[cfg(feature = "tokio")]
use inlet::STREAM_CREDITS;
/// Without async handlers there are no streams.
#[cfg(not(feature = "tokio"))]
const STREAM_CREDITS: u32 = 0;

/// How much a server takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. A client beyond it is refused with this reason.
    pub max_connections: usize,
    /// The largest request, in bytes. A client learns it when it connects and reports larger ones
    /// without sending anything.
    pub max_message: usize,
    /// Calls of one connection that may be in flight. A client waits, or reports it, at the limit.
    pub max_in_flight: usize,
    /// Calls of all connections together that may be in the runtime, because their handlers were
    /// not ready at once. One beyond it is answered with
    /// [`Code::RESOURCE_EXHAUSTED`](crate::Code::RESOURCE_EXHAUSTED).
    pub max_running: usize,
    /// Memory that all connections together may map, in bytes: both rings of each and their words.
    /// What is mapped is resident only as far as it was used. A client beyond it is served over the
    /// socket, which takes up to 64 KiB of the heap per direction; if either side takes shared
    /// memory alone ([`TransportPolicy`]), it is refused with this reason.
    pub max_mapped: u64,
    /// The smallest ring that a client gets, per direction, in bytes.
    pub min_ring: usize,
    /// The largest ring that a client gets, per direction, in bytes.
    pub max_ring: usize,
    /// Messages that are taken from one connection, per second and at once; `None`: as many as come.
    ///
    /// One that has sent more is held back, and others have the processors: nothing more is taken
    /// from its ring for some milliseconds, and its client waits as it does whenever the ring is full.
    /// Nothing is lost and nothing is an error. Every frame counts: requests, those without an answer,
    /// items of streams, credits and cancellations, which all wait for their turn in the ring; each
    /// fragment of a large message too. Answers leave, handlers run on and their deadlines hold, a
    /// client that dies is noticed at once, and draining takes no longer. What a client has sent when it
    /// closes the connection, a ring full at most, is taken at once. Not for listeners, whose
    /// connections the program reads itself. A burst of less than a 200th of the rate has the worker wake
    /// more often than every 5 ms for it.
    pub max_message_rate: Option<RateLimit>,
    /// Connections that one process may open, per second and at once; `None`: as many as it can.
    ///
    /// One that comes faster waits for its turn to shake hands, for as long as its own time-out lets it, and
    /// nobody else waits for it. Until then it counts neither towards `max_connections` nor
    /// towards the time that a handshake may take. Up to 1,024 of a process and 4,096 in all may wait;
    /// more are refused with this reason. Observers count too. Where the system does not tell the
    /// process, as across PID namespaces, all of the user count together.
    pub max_connect_rate: Option<RateLimit>,
}

impl Default for Limits {
    /// 10,000 connections, 64 MiB per message, 1024 calls in flight on
    /// each, 100,000 in the runtime, 8 GiB mapped, rings of 4 KiB
    /// to 4 MiB, messages and connections as fast as they come.
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_message: 64 << 20,
            max_in_flight: 1024,
            max_running: 100_000,
            max_mapped: 8 << 30,
            min_ring: layout::MIN_CAPACITY,
            max_ring: 4 << 20,
            max_message_rate: None,
            max_connect_rate: None,
        }
    }
}

/// Which processors workers are pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Pin {
    /// None: the system's scheduler decides.
    #[default]
    None,
    /// Worker `n` to the `n`-th processor that this process may run on.
    Auto,
    /// Worker `n` to the `n`-th of these processors, which this process must be allowed to run on.
    List(Vec<usize>),
}

/// One of a server's I/O threads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Open connections that it owns.
    pub connections: usize,
    /// How often it was held up for more than 10 ms, which is what a sync handler that blocks, or
    /// the first poll of an async one that does, looks like to all its other connections. Time in
    /// which other threads had its processor does not count where the system tells it (Linux).
    pub stalls: u64,
    /// The processors that it was pinned to, as the system reported them afterwards. `None`: not
    /// pinned, because nobody asked for it or the system refused.
    pub processors: Option<Vec<usize>>,
}

/// Builds a [`Server`]; made by [`Server::builder`].
#[derive(Debug)]
pub struct ServerBuilder {
    methods: Methods,
    limits: Limits,
    memory: Memory,
    transports: Option<TransportPolicy>,
    spin: Spin,
    peers: PeerPolicy,
    workers: Option<usize>,
    pin: Pin,
    label: Option<String>,
    handshake_timeout: Duration,
    sampling: u32,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
}

impl ServerBuilder {
    fn new() -> Self {
        Self {
            methods: Methods::default(),
            limits: Limits::default(),
            memory: Memory::default(),
            transports: None,
            spin: Spin::default(),
            peers: PeerPolicy::default(),
            workers: None,
            pin: Pin::None,
            label: None,
            handshake_timeout: Duration::from_secs(5),
            sampling: DEFAULT_SAMPLING,
            #[cfg(feature = "tokio")]
            runtime: None,
        }
    }

    /// Adds a method: bytes in, bytes out. The handler runs on a worker thread, which serves
    /// nobody else meanwhile: it should take microseconds and must not block. A panic costs the
    /// caller an error and nobody else anything.
    ///
    /// A method of a name that is taken replaces the earlier one.
    #[must_use]
    pub fn method<F>(self, name: &str, handler: F) -> Self
    where
        F: Fn(&[u8]) -> Result<Vec<u8>, Status> + Send + Sync + 'static,
    {
        self.method_into(name, move |_, request, reply| {
            *reply = handler(request)?;
            Ok(())
        })
    }

    /// Adds a method that appends its reply to a buffer, which is kept from call to call, so that
    /// the steady path allocates nothing; and that is told who calls. Otherwise as
    /// [`method`](Self::method).
    #[must_use]
    pub fn method_into<F>(mut self, name: &str, handler: F) -> Self
    where
        F: Fn(&CallContext, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
    {
        self.methods.add(name, Handler::Sync(Box::new(handler)));
        self
    }

    /// Adds an async method. It is polled once on the worker, inside the runtime's context: if it
    /// is ready, the reply leaves at once; if not, it goes on as a task of the runtime. When the
    /// caller gives up or goes away, the future is dropped.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn method_async<F, R>(self, name: &str, handler: F) -> Self
    where
        F: Fn(Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
    {
        self.method_async_with(name, move |_, request| handler(request))
    }

    /// Adds an async method that is told who calls. Otherwise as
    /// [`method_async`](Self::method_async).
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn method_async_with<F, R>(self, name: &str, handler: F) -> Self
    where
        F: Fn(CallContext, Vec<u8>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
    {
        self.add_async(name, CallShape::Unary, move |context, request, _| {
            Box::pin(handler(context, request))
        })
    }

    #[cfg(feature = "tokio")]
    fn add_async(
        mut self,
        name: &str,
        shape: CallShape,
        start: impl Fn(CallContext, Vec<u8>, Streams) -> HandlerFuture + Send + Sync + 'static,
    ) -> Self {
        let start = Box::new(start);
        self.methods.add(name, Handler::Async { shape, start });
        self
    }

    /// Adds a typed method: `Q` and `R` travel as [postcard](https://docs.rs/postcard). Otherwise
    /// as [`method`](Self::method). A request that does not decode is answered with
    /// [`Code::INVALID_ARGUMENT`](crate::Code::INVALID_ARGUMENT).
    #[cfg(feature = "serde")]
    #[must_use]
    pub fn typed<Q, R, F>(self, name: &str, handler: F) -> Self
    where
        Q: serde::de::DeserializeOwned,
        R: serde::Serialize,
        F: Fn(Q) -> Result<R, Status> + Send + Sync + 'static,
    {
        self.method_into(name, move |_, request, reply| {
            let answer = handler(crate::typed::request(request)?)?;
            crate::typed::append_reply(&answer, reply)
        })
    }

    /// Adds a typed async method. Otherwise as [`typed`](Self::typed) and
    /// [`method_async`](Self::method_async).
    #[cfg(all(feature = "serde", feature = "tokio"))]
    #[must_use]
    pub fn typed_async<Q, R, F, A>(self, name: &str, handler: F) -> Self
    where
        Q: serde::de::DeserializeOwned,
        R: serde::Serialize,
        F: Fn(Q) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, Status>> + Send + 'static,
    {
        self.method_async(name, move |request| {
            let started = crate::typed::request(&request).map(&handler);
            async move {
                let mut reply = Vec::new();
                crate::typed::append_reply(&started?.await?, &mut reply)?;
                Ok(reply)
            }
        })
    }

    /// Adds an async method that answers with a stream of byte strings, ended by what the handler
    /// returns. When the caller goes away, or drops the stream, the future is dropped.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn streaming_bytes<F, R>(self, name: &str, handler: F) -> Self
    where
        F: Fn(Vec<u8>, ByteItemSender) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.add_async(
            name,
            CallShape::ServerStream,
            move |_, request, mut streams| {
                let sender = streams.sender.take().expect("the shape has one");
                let call = handler(request, sender);
                Box::pin(async move { call.await.map(|()| Vec::new()) })
            },
        )
    }

    /// Adds an async method that the caller sends a stream of byte strings to, besides the request,
    /// and that answers with one reply. It may answer before the stream has ended.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn client_streaming_bytes<F, R>(self, name: &str, handler: F) -> Self
    where
        F: Fn(Vec<u8>, ByteItemReceiver) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
    {
        self.add_async(
            name,
            CallShape::ClientStream,
            move |_, request, mut streams| {
                let receiver = streams.receiver.take().expect("the shape has one");
                Box::pin(handler(request, receiver))
            },
        )
    }

    /// Adds an async method with a stream of byte strings in either direction, ended by what the
    /// handler returns.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn bidirectional_bytes<F, R>(self, name: &str, handler: F) -> Self
    where
        F: Fn(Vec<u8>, ByteItemReceiver, ByteItemSender) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.add_async(
            name,
            CallShape::Bidirectional,
            move |_, request, mut streams| {
                let receiver = streams.receiver.take().expect("the shape has one");
                let sender = streams.sender.take().expect("the shape has one");
                let call = handler(request, receiver, sender);
                Box::pin(async move { call.await.map(|()| Vec::new()) })
            },
        )
    }

    /// Adds an async method that the caller sends a stream of serde types to. Otherwise as
    /// [`client_streaming_bytes`](Self::client_streaming_bytes) and [`typed`](Self::typed).
    #[cfg(all(feature = "serde", feature = "tokio"))]
    #[must_use]
    pub fn client_streaming<Q, T, A, F, R>(self, name: &str, handler: F) -> Self
    where
        Q: serde::de::DeserializeOwned,
        T: serde::de::DeserializeOwned,
        A: serde::Serialize,
        F: Fn(Q, ItemReceiver<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Status>> + Send + 'static,
    {
        self.client_streaming_bytes(name, move |request, items| {
            let started = crate::typed::request(&request)
                .map(|query| handler(query, ItemReceiver::new(items)));
            async move {
                let mut reply = Vec::new();
                crate::typed::append_reply(&started?.await?, &mut reply)?;
                Ok(reply)
            }
        })
    }

    /// Adds an async method with a stream of serde types in either direction. Otherwise as
    /// [`bidirectional_bytes`](Self::bidirectional_bytes) and [`typed`](Self::typed).
    #[cfg(all(feature = "serde", feature = "tokio"))]
    #[must_use]
    pub fn bidirectional<Q, T, A, F, R>(self, name: &str, handler: F) -> Self
    where
        Q: serde::de::DeserializeOwned,
        T: serde::de::DeserializeOwned,
        A: serde::Serialize,
        F: Fn(Q, ItemReceiver<T>, ItemSender<A>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.bidirectional_bytes(name, move |request, incoming, outgoing| {
            let started = crate::typed::request(&request).map(|query| {
                let outgoing = ItemSender::new(outgoing);
                handler(query, ItemReceiver::new(incoming), outgoing)
            });
            async move { started?.await }
        })
    }

    /// Adds an async method that answers with a stream of serde types. Otherwise as
    /// [`streaming_bytes`](Self::streaming_bytes).
    #[cfg(all(feature = "serde", feature = "tokio"))]
    #[must_use]
    pub fn streaming<Q, T, F, R>(self, name: &str, handler: F) -> Self
    where
        Q: serde::de::DeserializeOwned,
        T: serde::Serialize,
        F: Fn(Q, ItemSender<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.streaming_bytes(name, move |request, items| {
            let started =
                crate::typed::request(&request).map(|query| handler(query, ItemSender::new(items)));
            async move { started?.await }
        })
    }

    /// Sets the limits.
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
    /// none. With the cargo feature `mpmc_transport` the environment variable `NEARWIRE_TRANSPORT` may
    /// say something else, in the words of [`TransportPolicy`]'s `FromStr`.
    #[must_use]
    pub fn transport(mut self, policy: TransportPolicy) -> Self {
        self.transports = Some(policy);
        self
    }

    /// Sets how long an idle worker spins before it sleeps.
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

    /// Sets the number of worker threads. Default: one per four processors that this process may
    /// use, at least one.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// Sets which processors the workers are pinned to. Default: none.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }

    /// Sets what the server calls itself towards clients, for logs and metrics: 64 bytes at most,
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

    /// Sets how many calls are sampled for the histograms of handler times, batch sizes and queue
    /// depths: one in so many; 0: none. See [`metrics`](crate::metrics). Default: one in 1000.
    #[must_use]
    pub fn sampling(mut self, one_in: u32) -> Self {
        self.sampling = one_in;
        self
    }

    /// Sets the runtime that async handlers run in. Default: the one that [`bind`](Self::bind) is
    /// called in.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Takes the name and starts to serve, in threads of its own.
    ///
    /// `name` is a plain name, found in the user's own directory (`$NEARWIRE_DIR`,
    /// `$XDG_RUNTIME_DIR/nearwire` or `/tmp/nearwire-UID`, made with mode 0700), or a path with a
    /// slash, in a directory that nobody else may write.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::BadName`], [`Error::Directory`] and the like about the name;
    /// [`Error::NoRuntime`] if there are async methods and no runtime; [`Error::Setting`] for
    /// settings that make no sense; [`Error::Io`] if the system refuses threads or descriptors.
    pub fn bind(self, name: &str) -> Result<Server> {
        let place = Place::of(name)?;
        self.methods.check()?;
        let limits = self.limits;
        check_limits(&limits)?;
        let transports = TransportPolicy::of_calls(self.transports)?;
        let (features_supported, features_required) = features(transports)?;
        #[cfg(feature = "tokio")]
        let runtime = self
            .runtime
            .or_else(|| tokio::runtime::Handle::try_current().ok());
        #[cfg(feature = "tokio")]
        if runtime.is_none()
            && let Some(method) = self.methods.need_a_runtime()
        {
            return Err(Error::NoRuntime {
                method: method.to_owned(),
            });
        }
        let cpus = crate::sys::allowed_cpus().map_err(Error::io("ask for the processors"))?;
        if let Pin::List(list) = &self.pin
            && list.iter().any(|cpu| !cpus.contains(cpu))
        {
            return Err(Error::Setting {
                setting: "pin",
                rule: "a list of processors that this process may run on",
            });
        }
        let workers = self.workers.unwrap_or(cpus.len().div_ceil(4).max(1));
        let methods = Arc::new(self.methods);
        #[cfg(feature = "mpmc_transport")]
        let requests = transports
            .offers_mpmc()
            .then(|| RequestQueue::create(workers))
            .transpose()
            .map_err(Error::io("create a request queue"))?;
        #[cfg(feature = "tokio")]
        let running = crate::worker::RunningLimit::new(limits.max_running);
        let label = fitting_label(self.label.as_deref().unwrap_or(name));
        let page = CountersPage::create(workers, limits.max_connections, self.sampling, &label);
        let page = Arc::new(page);
        let workers = (0..workers)
            .map(|number| {
                let settings = WorkerSettings {
                    spin: self.spin,
                    max_message: limits.max_message,
                    max_in_flight: limits.max_in_flight,
                    max_message_rate: limits.max_message_rate,
                    pin_to: match &self.pin {
                        Pin::None => None,
                        Pin::Auto => Some(cpus[number % cpus.len()]),
                        Pin::List(list) if list.is_empty() => None,
                        Pin::List(list) => Some(list[number % list.len()]),
                    },
                    page: page.clone(),
                    #[cfg(feature = "mpmc_transport")]
                    requests: requests.clone(),
                    #[cfg(feature = "tokio")]
                    running: running.clone(),
                    #[cfg(feature = "tokio")]
                    runtime: runtime.clone(),
                };
                WorkerHandle::start(number, methods.clone(), settings)
            })
            .collect::<Result<Vec<_>>>()?;
        let grants = Arc::new(Grants {
            policy: Arc::new(ServerPolicy {
                versions: VERSIONS,
                modes: vec![Mode::Calls],
                features_supported,
                features_required,
                layout_hash: layout::LAYOUT_HASH,
                ring_min: limits.min_ring as u32,
                ring_max: limits.max_ring as u32,
            }),
            peers: self.peers,
            memory: self.memory,
            max_message: limits.max_message as u64,
            max_in_flight: limits.max_in_flight,
            stream_credits: STREAM_CREDITS,
            mapped: MappedMemory::new(limits.max_mapped),
            label,
            methods: methods.table(),
            #[cfg(feature = "mpmc_transport")]
            requests,
            counters: page.handle(),
            timeout: self.handshake_timeout,
        });
        let dispatch = Dispatch {
            workers: workers
                .iter()
                .map(|w| (w.mailbox.clone(), w.load.clone()))
                .collect(),
            max_connections: limits.max_connections,
        };
        let acceptor = Acceptor::start(&place, grants, limits.max_connect_rate, dispatch);
        let mut server = Server {
            acceptor: None,
            workers,
            page,
        };
        server.acceptor = Some(acceptor?);
        Ok(server)
    }
}

pub(crate) fn check_limits(limits: &Limits) -> Result<()> {
    let setting = |setting, rule| Err(Error::Setting { setting, rule });
    if !limits.min_ring.is_power_of_two() || limits.min_ring < layout::MIN_CAPACITY {
        return setting("min_ring", "a power of two, at least 4096");
    }
    if !limits.max_ring.is_power_of_two() || limits.max_ring > layout::MAX_CAPACITY {
        return setting("max_ring", "a power of two, at most 256 MiB");
    }
    if limits.max_ring < limits.min_ring {
        return setting("max_ring", "at least min_ring");
    }
    if limits.max_in_flight == 0 || limits.max_in_flight > u32::MAX as usize {
        return setting("max_in_flight", "at least 1");
    }
    RateLimit::check(limits.max_message_rate, "max_message_rate")?;
    RateLimit::check(limits.max_connect_rate, "max_connect_rate")
}

/// Spreads accepted connections over the workers: the least loaded gets the next.
struct Dispatch {
    workers: Vec<(Arc<Mailbox>, Arc<AtomicUsize>)>,
    max_connections: usize,
}

impl Admission for Dispatch {
    fn admit(&mut self, pending: usize) -> Result<(), (RejectCode, String)> {
        let open: usize = self
            .workers
            .iter()
            .map(|(_, load)| load.load(Relaxed))
            .sum();
        if open + pending < self.max_connections {
            return Ok(());
        }
        let text = format!(
            "the server has {} connections, its limit",
            self.max_connections
        );
        Err((RejectCode::Limits, text))
    }

    fn take(&mut self, link: Box<Link>) {
        let least = self
            .workers
            .iter()
            .min_by_key(|(_, load)| load.load(Relaxed));
        let (mailbox, load) = least.expect("there is at least one worker");
        load.fetch_add(1, Relaxed);
        mailbox.post(Mail::Connection(link));
    }
}

/// A running server. Dropping it stops it at once; [`shutdown`](Self::shutdown) lets calls in
/// flight finish first.
///
/// ```no_run
/// use nearwire::{Server, Status};
///
/// # fn main() -> nearwire::Result<()> {
/// let server = Server::builder()
///     .method("reverse", |request: &[u8]| Ok(request.iter().rev().copied().collect()))
///     .bind("text")?;
/// server.wait();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    acceptor: Option<Acceptor>,
    workers: Vec<WorkerHandle>,
    page: Arc<CountersPage>,
}

impl Server {
    /// Starts to build a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::new()
    }

    /// The path of the socket that clients connect to.
    pub fn path(&self) -> &Path {
        self.acceptor.as_ref().expect("until the drop").path()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.workers.iter().map(|w| w.load.load(Relaxed)).sum()
    }

    /// The I/O threads, how the connections are spread over them, and where they run.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let info = |worker: &WorkerHandle| WorkerInfo {
            connections: worker.load.load(Relaxed),
            stalls: worker.counters.get(Counter::Stalls),
            processors: worker.processors.clone(),
        };
        self.workers.iter().map(info).collect()
    }

    /// What the server has counted so far. Costs the workers nothing.
    ///
    /// ```no_run
    /// # fn example(server: nearwire::Server) {
    /// use nearwire::metrics::{Counter, Distribution};
    ///
    /// let metrics = server.metrics();
    /// let handlers = metrics.distribution(Distribution::HandlerDuration);
    /// println!("{} calls, p99 {:?} ns", metrics.calls(), handlers.quantile(0.99));
    /// println!("{} violations", metrics.total(Counter::ClosedViolation));
    /// # }
    /// ```
    pub fn metrics(&self) -> Snapshot {
        self.reader().snapshot()
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(self.page.view().clone()).expect("this process wrote the page")
    }

    /// Blocks for ever: for programs that end by a signal.
    pub fn wait(&self) -> ! {
        loop {
            std::thread::park();
        }
    }

    /// Serves until `stop` is ready, then [`shutdown`](Self::shutdown)s with five seconds of grace.
    ///
    /// # Errors
    /// None at present.
    #[cfg(feature = "tokio")]
    pub async fn serve_until<F: Future>(self, stop: F) -> Result<()> {
        stop.await;
        let ended = tokio::task::spawn_blocking(move || self.shutdown(Duration::from_secs(5)));
        ended
            .await
            .map_err(|_| Error::io("shut down")(std::io::ErrorKind::Other.into()))
    }

    /// Frees the name, lets calls in flight finish for `grace` at most, closes the connections and
    /// ends the threads. Blocks until then.
    pub fn shutdown(mut self, grace: Duration) {
        self.stop(grace);
    }

    fn stop(&mut self, grace: Duration) {
        self.page.set_draining();
        self.acceptor = None;
        let until = Instant::now() + grace;
        for worker in &self.workers {
            worker.mailbox.post(Mail::Drain(until));
        }
        self.workers.iter_mut().for_each(WorkerHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}
