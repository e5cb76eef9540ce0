//! From a control socket to a link: the handshake's bytes and descriptors carried to and fro.
//!
//! The rules are in `proto::handshake`, which sees no socket; what happens here is the sockets,
//! the segments and the time.

#[cfg(feature = "spsc_transport")]
mod memory;

#[cfg(feature = "mpmc_transport")]
use super::requests::{RequestQueue, Requests};
use super::socket::Pump;
use super::{Carrier, Link, Shared, Terms};
use crate::error::{Error, Identity, Result, Violation};
use crate::layout;
use crate::name::Place;
use crate::proto::handshake::{
    ClientHandshake, ClientLimits, ClientStep, FEATURE_ASYMMETRIC_FENCES, FEATURE_MPMC_TRANSPORT,
    FEATURE_SOCKET_TRANSPORT, FEATURE_TRACE_CONTEXT, HandshakeError, Hello, MAX_SOCKET_RING,
    Method, Offer, RejectCode, ServerHandshake, ServerPolicy, ServerStep, VERSIONS,
};
use crate::proto::mode::Mode;
use crate::settings::{Memory, PeerPolicy, TransportPolicy};
use crate::sys::{ControlSocket, Doorbell, Handle, Received};
use crate::waiter::Fences;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
#[cfg(feature = "spsc_transport")]
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The features that this build offers on this system, and those that it requires, if it may use
/// these transports.
///
/// # Errors
/// [`Error::Setting`] if it can use none of them.
pub(crate) fn features(transports: TransportPolicy) -> Result<(u64, u64)> {
    let (mut offered, mut required) = (FEATURE_TRACE_CONTEXT, 0);
    #[cfg(feature = "spsc_transport")]
    if crate::sys::register_for_heavy_fences() {
        offered |= FEATURE_ASYMMETRIC_FENCES;
    }
    if transports.offers_socket() {
        offered |= FEATURE_SOCKET_TRANSPORT;
    }
    if transports.offers_mpmc() {
        let rule = if !cfg!(feature = "mpmc_transport") {
            "one that this build has: it was built without the feature mpmc_transport"
        } else if !cfg!(target_os = "linux") {
            "one that this system has: mpmc is for Linux alone so far"
        } else {
            ""
        };
        if !rule.is_empty() {
            let setting = "transport";
            return Err(Error::Setting { setting, rule });
        }
        offered |= FEATURE_MPMC_TRANSPORT;
    }
    if transports == TransportPolicy::MpmcOnly {
        required |= FEATURE_MPMC_TRANSPORT;
    }
    if !transports.offers_shared_memory() {
        required |= FEATURE_SOCKET_TRANSPORT;
    }
    if required & !offered != 0 {
        return Err(Error::Setting {
            setting: "transport",
            rule: "one that this build has: it was built without the feature spsc_transport",
        });
    }
    Ok((offered, required))
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    pub(crate) mode: Mode,
    /// Feature bits that it does not offer, though it could.
    pub(crate) withheld: u64,
    /// Capacity of the ring towards the server, in bytes.
    pub(crate) ring_to_server: usize,
    /// Capacity of the ring towards the client, in bytes.
    pub(crate) ring_to_client: usize,
    /// The largest message that this side takes, in bytes.
    pub(crate) max_message: u64,
    /// What it grants each stream in advance.
    pub(crate) stream_credits: u32,
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    pub(crate) memory: Memory,
    pub(crate) transports: TransportPolicy,
    pub(crate) label: String,
    pub(crate) timeout: Duration,
    pub(crate) policy: PeerPolicy,
}

/// Connects to a server. Blocks for the wishes' timeout at most.
pub(crate) fn connect(place: &Place, wishes: &Wishes) -> Result<Link> {
    let deadline = Instant::now() + wishes.timeout;
    let (features_offered, features_required) = features(wishes.transports)?;
    let socket = ControlSocket::connect(&place.path, deadline)?;
    let peer = socket.peer().map_err(Error::io("ask who the server is"))?;
    check(&wishes.policy, peer)?;
    let hello = Hello {
        versions: VERSIONS,
        mode: wishes.mode,
        features_offered: features_offered & !wishes.withheld,
        features_required,
        layout_hash: layout::LAYOUT_HASH,
        ring_to_server: wishes.ring_to_server as u32,
        ring_to_client: wishes.ring_to_client as u32,
        max_message: wishes.max_message,
        pid: std::process::id(),
        stream_credits: wishes.stream_credits,
        label: wishes.label.clone(),
    };
    let limits = ClientLimits {
        max_ring: layout::MAX_CAPACITY as u32,
        max_segment_len: layout::segment_len(layout::MAX_CAPACITY, LARGEST_PAGE) as u64,
    };
    let mut handshake = ClientHandshake::new(hello, limits)?;
    let mut talk = Talk {
        socket: &socket,
        deadline,
    };
    talk.send(handshake.hello(), &[])?;

    let (welcome, handles) = loop {
        let (step, handles) = talk.receive(&mut handshake)?;
        if let ClientStep::Welcome(welcome) = step {
            break (welcome, handles);
        }
    };
    let (to_server, to_client) = (
        welcome.ring_to_server as usize,
        welcome.ring_to_client as usize,
    );
    if to_server < layout::MIN_CAPACITY || to_client < layout::MIN_CAPACITY {
        let text = format!("the server granted rings of {to_server} and {to_client} bytes");
        return Err(Error::Protocol(Violation::Control(text)));
    }
    let bell = Doorbell::new().map_err(Error::io("create a doorbell"))?;
    #[cfg(feature = "spsc_transport")]
    let shared = if handshake.is_over_socket() {
        None
    } else {
        let made = memory::of_client(handles, &bell, &welcome, &wishes.memory);
        memory::or_socket(made, welcome.features)?
    };
    // Kept until the server says that it has them.
    #[cfg(feature = "spsc_transport")]
    let (mut shared, handles) = shared.unzip();
    #[cfg(feature = "spsc_transport")]
    let (segment_len, handles) = match &handles {
        Some(handles) => (welcome.client_segment_len, handles.each_ref().to_vec()),
        None => (0, Vec::new()),
    };
    #[cfg(not(feature = "spsc_transport"))]
    let (segment_len, handles) = {
        // The handshake lets a server that offers segments no further.
        drop(handles);
        (0, Vec::new())
    };
    let accept = handshake.accept(segment_len)?;
    talk.send(&accept, &handles)?;
    while talk.receive(&mut handshake)?.0 != ClientStep::Ready {}
    #[cfg(feature = "spsc_transport")]
    if handshake.is_over_socket() && shared.take().is_some() {
        tracing::warn!("the server has no use of shared memory: the socket takes its place");
    }

    let terms = Terms {
        features: welcome.features,
        fences: fences(welcome.features),
        ring_out: to_server,
        ring_in: to_client,
        max_message_out: welcome.max_message,
        max_message_in: wishes.max_message,
        max_in_flight: welcome.max_in_flight as usize,
        #[cfg(feature = "tokio")]
        stream_credits: welcome.stream_credits,
        connection_id: welcome.connection_id,
        methods: welcome.methods,
        peer_label: welcome.label,
    };
    let parts = Parts {
        socket,
        bell,
        peer,
        terms,
        name: Some(place.path.clone()),
        #[cfg(feature = "spsc_transport")]
        reserved: None,
        #[cfg(feature = "mpmc_transport")]
        requests: None,
    };
    #[cfg(feature = "spsc_transport")]
    if let Some(shared) = shared {
        return Ok(shared.into_link(parts, handshake.into_reader()));
    }
    Ok(parts.into_link_over_socket(handshake.into_reader().into_rest()))
}

/// No system's pages are larger, huge ones excepted.
const LARGEST_PAGE: usize = 64 << 10;

fn fences(features: u64) -> Fences {
    #[cfg(feature = "spsc_transport")]
    if features & FEATURE_ASYMMETRIC_FENCES != 0 {
        return Fences::Asymmetric;
    }
    let _ = features;
    Fences::Symmetric
}

pub(super) fn check(policy: &PeerPolicy, peer: Identity) -> Result<()> {
    policy
        .check(&peer)
        .map_err(|reason| Error::Credentials { peer, reason })
}

/// What a side has of its own when the handshake is through.
struct Parts {
    socket: ControlSocket,
    bell: Doorbell,
    peer: Identity,
    terms: Terms,
    /// See [`Shared`].
    name: Option<PathBuf>,
    #[cfg(feature = "spsc_transport")]
    reserved: Option<Reserved>,
    #[cfg(feature = "mpmc_transport")]
    requests: Option<Requests>,
}

impl Parts {
    fn into_shared(self, carrier: Carrier, huge_pages: bool) -> Arc<Shared> {
        Arc::new(Shared {
            control: self.socket,
            bell: self.bell,
            carrier,
            terms: self.terms,
            peer: self.peer,
            huge_pages,
            name: self.name,
            #[cfg(feature = "spsc_transport")]
            _reserved: self.reserved,
            #[cfg(feature = "mpmc_transport")]
            requests: self.requests,
            closed: Default::default(),
        })
    }

    /// A link whose frames go over the socket. `received` came behind the handshake.
    fn into_link_over_socket(mut self, received: Vec<u8>) -> Link {
        let terms = &mut self.terms;
        terms.ring_out = terms.ring_out.min(MAX_SOCKET_RING as usize);
        terms.ring_in = terms.ring_in.min(MAX_SOCKET_RING as usize);
        terms.fences = Fences::Symmetric;
        terms.features &= !(FEATURE_ASYMMETRIC_FENCES | FEATURE_MPMC_TRANSPORT);
        let (pump, ends) = Pump::new(terms.ring_out, terms.ring_in, received);
        let shared = self.into_shared(Carrier::Socket(Box::new(pump)), false);
        let (tx, rx) = ends.into_halves(&shared);
        // Nobody is told of what came already.
        shared.read_control();
        Link { tx, rx, shared }
    }
}

#[cfg(fuzzing)]
impl Link {
    /// A link over the socket to a peer with which there was no handshake, but which has sent this.
    pub(crate) fn unconfirmed_over_socket(
        socket: ControlSocket,
        bell: Doorbell,
        terms: Terms,
        received: Vec<u8>,
    ) -> Link {
        let parts = Parts {
            socket,
            bell,
            peer: ControlSocket::own_identity(),
            terms,
            name: None,
            #[cfg(feature = "spsc_transport")]
            reserved: None,
            #[cfg(feature = "mpmc_transport")]
            requests: None,
        };
        parts.into_link_over_socket(received)
    }
}

/// The client's side of the conversation, blocking.
pub(super) struct Talk<'a> {
    pub(super) socket: &'a ControlSocket,
    pub(super) deadline: Instant,
}

impl Talk<'_> {
    pub(super) fn wait(&self, for_sending: bool) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::no_answer());
        }
        self.socket
            .wait_ready(for_sending, left)
            .map_err(Error::io("wait for the server"))?;
        Ok(())
    }

    pub(super) fn send(&mut self, mut bytes: &[u8], mut handles: &[&Handle]) -> Result<()> {
        while !bytes.is_empty() {
            match self.socket.send(bytes, handles) {
                Ok(0) => self.wait(true)?,
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    handles = &[];
                }
                // The server may have refused and left; what it said can still be read.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Error::io("write to the control socket")(error)),
            }
        }
        Ok(())
    }

    /// Tells the server that what it has sent is here.
    #[cfg(feature = "spsc_transport")] // observers have nothing without
    pub(super) fn confirm(&self) -> Result<()> {
        loop {
            match self.socket.confirm() {
                Ok(true) => return Ok(()),
                Ok(false) => self.wait(true)?,
                // It is gone, and cares no more.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Error::io("write to the control socket")(error)),
            }
        }
    }

    /// The next step, with the descriptors that came along.
    fn receive(&mut self, handshake: &mut ClientHandshake) -> Result<(ClientStep, Vec<Handle>)> {
        let mut handles = Vec::new();
        let mut buffer = [0; 4096];
        // A server that speaks out of turn may have sent the next message with the last one.
        let step = handshake.receive(&[], 0)?;
        if step != ClientStep::NeedMore {
            return Ok((step, handles));
        }
        loop {
            let before = handles.len();
            let received = self.socket.receive(&mut buffer, &mut handles);
            let step = match received.map_err(Error::io("read from the control socket"))? {
                Received::Nothing => {
                    self.wait(false)?;
                    continue;
                }
                Received::EndOfFile => return Err(handshake.end_of_file().into()),
                Received::Bytes(count) => {
                    handshake.receive(&buffer[..count], handles.len() - before)?
                }
            };
            if step != ClientStep::NeedMore {
                return Ok((step, handles));
            }
        }
    }
}

/// Memory that a server's connections map, both sides' segments together, against a limit.
#[derive(Debug)]
#[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
pub(crate) struct MappedMemory {
    used: AtomicU64,
    limit: u64,
}

impl MappedMemory {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        let used = AtomicU64::new(0);
        Arc::new(Self { used, limit })
    }

    /// Books `bytes` until what is returned is dropped.
    ///
    /// # Errors
    /// What is mapped already, if it would become too much.
    #[cfg(feature = "spsc_transport")]
    fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reserved, u64> {
        let add = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, add)?;
        let memory = self.clone();
        Ok(Reserved { memory, bytes })
    }
}

/// A connection's share of [`MappedMemory`].
#[cfg(feature = "spsc_transport")]
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<MappedMemory>,
    bytes: u64,
}

#[cfg(feature = "spsc_transport")]
impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// What a server grants, the same for every client.
#[derive(Debug)]
pub(crate) struct Grants {
    pub(crate) policy: Arc<ServerPolicy>,
    pub(crate) peers: PeerPolicy,
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    pub(crate) memory: Memory,
    /// The largest message that the server takes, in bytes.
    pub(crate) max_message: u64,
    pub(crate) max_in_flight: usize,
    /// What it grants each stream in advance.
    pub(crate) stream_credits: u32,
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    pub(crate) mapped: Arc<MappedMemory>,
    pub(crate) label: String,
    pub(crate) methods: Arc<[Method]>,
    /// Where requests go of clients that agree on it.
    #[cfg(feature = "mpmc_transport")]
    pub(crate) requests: Option<Arc<RequestQueue>>,
    /// What observers get, if there is anything, and its length in bytes.
    pub(crate) counters: Option<(Arc<Handle>, u64)>,
    /// How long a client may take to shake hands.
    pub(crate) timeout: Duration,
}

/// A client on its way in.
#[derive(Debug)]
pub(crate) struct Accepting {
    socket: ControlSocket,
    handshake: ServerHandshake,
    grants: Arc<Grants>,
    peer: Identity,
    /// Whether the policy lets the client in.
    checked: bool,
    connection_id: u64,
    /// What the socket has not taken yet, and the descriptors that go with its first byte.
    unsent: Vec<u8>,
    unsent_handles: Vec<Arc<Handle>>,
    /// Why no connection can be had, if so. An observer does not want one.
    full: Option<(RejectCode, String)>,
    /// It is an observer, and has what it wants as soon as that has arrived.
    observing: bool,
    /// Made when the client has said Hello.
    offered: Option<Offered>,
    /// Descriptors received since the last message.
    handles: Vec<Handle>,
    /// The features agreed on.
    #[cfg(feature = "spsc_transport")]
    features: u64,
    /// Whether the client's Accept came with a segment.
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    brings_segment: bool,
    /// When the client has used up its time.
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
struct Offered {
    /// `None`: the frames go over the socket.
    #[cfg(feature = "spsc_transport")]
    memory: Option<memory::Offered>,
    bell: Doorbell,
    terms: Terms,
}

/// How far a client is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The socket must become readable, or writable if so said, before it goes on.
    Waiting { to_send: bool },
    /// A connection.
    Done(Box<Link>),
    /// An observer has what it wants; the socket stays open as long as both live.
    Observing(ControlSocket),
    /// None, and why. The client was told, where it could be.
    Failed(Error),
}

impl Accepting {
    pub(crate) fn new(
        socket: ControlSocket,
        grants: Arc<Grants>,
        connection_id: u64,
        full: Option<(RejectCode, String)>,
    ) -> Result<Self> {
        let peer = socket.peer().map_err(Error::io("ask who the client is"))?;
        Ok(Self {
            socket,
            handshake: ServerHandshake::new(grants.policy.clone()),
            deadline: Instant::now() + grants.timeout,
            grants,
            peer,
            checked: false,
            connection_id,
            unsent: Vec::new(),
            unsent_handles: Vec::new(),
            full,
            observing: false,
            offered: None,
            handles: Vec::new(),
            #[cfg(feature = "spsc_transport")]
            features: 0,
            brings_segment: false,
        })
    }

    pub(crate) fn socket(&self) -> &ControlSocket {
        &self.socket
    }

    /// Whether the socket is to become writable, not readable, before it goes on.
    pub(crate) fn is_sending(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether it may become a connection.
    pub(crate) fn is_admitted(&self) -> bool {
        self.full.is_none()
    }

    /// Turns the client away.
    pub(crate) fn refuse(&mut self, code: RejectCode, text: &str) {
        let reject = self.handshake.reject(code, text);
        let _ = self.socket.send(&reject, &[]);
    }

    /// Goes on as far as the socket allows. Never blocks. Whatever became of it: as long as there is no
    /// connection the client is given back.
    pub(crate) fn progress(mut self) -> (Progress, Option<Self>) {
        match self.step() {
            Ok(Some(to_send)) => (Progress::Waiting { to_send }, Some(self)),
            Ok(None) if self.observing => (Progress::Observing(self.socket), None),
            Ok(None) => match self.open() {
                Ok(link) => (Progress::Done(Box::new(link)), None),
                Err((error, may_tell, mut this)) => {
                    if may_tell {
                        this.refuse(RejectCode::Segment, &error.to_string());
                    }
                    (Progress::Failed(error), Some(*this))
                }
            },
            Err(error) => {
                let refusal = match &error {
                    Error::Handshake(error) => self.handshake.refusal(error),
                    Error::Credentials { reason, .. } => {
                        Some(self.handshake.reject(RejectCode::Credentials, reason))
                    }
                    Error::Segment(_) => Some(
                        self.handshake
                            .reject(RejectCode::Segment, error.to_string()),
                    ),
                    Error::Io { .. } => {
                        Some(self.handshake.reject(RejectCode::Limits, error.to_string()))
                    }
                    _ => None,
                };
                if let Some(refusal) = refusal {
                    let _ = self.socket.send(&refusal, &[]);
                }
                (Progress::Failed(error), Some(self))
            }
        }
    }

    /// `Some(to_send)`: waiting. `None`: the client's Accept is there, or an observer is served.
    fn step(&mut self) -> Result<Option<bool>> {
        if !self.checked {
            check(&self.grants.peers, self.peer)?;
            self.checked = true;
        }
        let mut buffer = [0; 4096];
        loop {
            if !self.flush()? {
                return Ok(Some(true));
            }
            if self.observing {
                return self.wait_for_observer();
            }
            // A client that speaks out of turn may have sent the next message with the last one.
            match self.handshake.receive(&[], 0)? {
                ServerStep::NeedMore => {}
                ServerStep::Hello(agreed) => {
                    self.offer(agreed)?;
                    continue;
                }
                ServerStep::Observe => {
                    self.show()?;
                    continue;
                }
                ServerStep::Accepted { segment_len } => {
                    self.brings_segment = segment_len != 0;
                    return Ok(None);
                }
            }
            let before = self.handles.len();
            let received = self.socket.receive(&mut buffer, &mut self.handles);
            let step = match received.map_err(Error::io("read from a client's control socket"))? {
                Received::Nothing => return Ok(Some(false)),
                Received::EndOfFile => return Err(self.handshake.end_of_file().into()),
                Received::Bytes(count) => self
                    .handshake
                    .receive(&buffer[..count], self.handles.len() - before)?,
            };
            match step {
                ServerStep::NeedMore => {}
                ServerStep::Hello(agreed) => self.offer(agreed)?,
                ServerStep::Observe => self.show()?,
                ServerStep::Accepted { segment_len } => {
                    self.brings_segment = segment_len != 0;
                    return Ok(None);
                }
            }
        }
    }

    /// It wants the counters page: sends it.
    fn show(&mut self) -> Result<()> {
        let Some((page, len)) = self.grants.counters.clone() else {
            let text = if self.grants.policy.modes.contains(&Mode::Calls) {
                "the server has no shared memory for its counters: ask it for its metrics itself"
            } else {
                "what is served here has no counters: only servers of calls have"
            };
            let reject = self.handshake.reject_with(RejectCode::Mode, text);
            return Err(HandshakeError::Refused(reject).into());
        };
        self.unsent = self.handshake.counters(len)?;
        self.unsent_handles = vec![page];
        self.observing = true;
        Ok(())
    }

    /// What was sent to an observer must be there before the socket may be closed. It has nothing to
    /// say but that.
    fn wait_for_observer(&mut self) -> Result<Option<bool>> {
        if self.socket.is_handed_over() {
            return Ok(None);
        }
        let received = self.socket.receive(&mut [0; 64], &mut self.handles);
        let received = received.map_err(Error::io("read from an observer's control socket"))?;
        match received {
            _ if self.socket.is_handed_over() => Ok(None),
            Received::Nothing => Ok(Some(false)),
            Received::EndOfFile => Err(self.handshake.end_of_file().into()),
            Received::Bytes(_) => {
                let text = "an observer says something".into();
                Err(Error::Protocol(Violation::Control(text)))
            }
        }
    }

    /// The client has said Hello: creates this side's segment, unless the socket takes its place,
    /// and answers.
    fn offer(&mut self, agreed: crate::proto::handshake::Agreed) -> Result<()> {
        if let Some((code, text)) = self.full.take() {
            let reject = self.handshake.reject_with(code, text);
            return Err(HandshakeError::Refused(reject).into());
        }
        let (into, out) = (
            agreed.ring_to_server as usize,
            agreed.ring_to_client as usize,
        );
        #[cfg(feature = "spsc_transport")]
        {
            self.features = agreed.features;
        }
        let bell = Doorbell::new().map_err(Error::io("create a doorbell"))?;
        #[cfg(feature = "spsc_transport")]
        let made = if agreed.socket_required {
            None
        } else {
            let made = memory::of_server(&self.handshake, &self.grants, &bell, out, into);
            memory::or_socket(made, agreed.features)?
        };
        #[cfg(feature = "spsc_transport")]
        let (memory, handles) = made.unzip();
        #[cfg(feature = "spsc_transport")]
        let (server_segment_len, client_segment_len) = memory
            .as_ref()
            .map_or((0, 0), |memory: &memory::Offered| memory.segment_lens);
        #[cfg(not(feature = "spsc_transport"))]
        let (server_segment_len, client_segment_len) = (0, 0);
        let offer = Offer {
            max_in_flight: self.grants.max_in_flight as u32,
            server_segment_len,
            client_segment_len,
            max_message: self.grants.max_message,
            connection_id: self.connection_id,
            stream_credits: self.grants.stream_credits,
            label: self.grants.label.clone(),
            methods: self.grants.methods.clone(),
        };
        self.unsent = self.handshake.welcome(&offer)?;
        #[cfg(feature = "spsc_transport")]
        {
            let handles = handles.into_iter().flatten();
            self.unsent_handles = handles.map(Arc::new).collect();
            #[cfg(feature = "mpmc_transport")]
            if let (Some(_), Some(requests)) = (&memory, self.requests()) {
                self.unsent_handles.push(requests.handle());
            }
        }
        let terms = Terms {
            features: agreed.features,
            fences: fences(agreed.features),
            ring_out: out,
            ring_in: into,
            max_message_out: agreed.client_max_message,
            max_message_in: self.grants.max_message,
            max_in_flight: self.grants.max_in_flight,
            #[cfg(feature = "tokio")]
            stream_credits: agreed.client_stream_credits,
            connection_id: self.connection_id,
            methods: self.grants.methods.clone(),
            peer_label: agreed.client_label,
        };
        self.offered = Some(Offered {
            #[cfg(feature = "spsc_transport")]
            memory,
            bell,
            terms,
        });
        Ok(())
    }

    /// The server's request queue, if it was agreed on.
    #[cfg(feature = "mpmc_transport")]
    fn requests(&self) -> Option<&Arc<RequestQueue>> {
        let agreed = self.features & FEATURE_MPMC_TRANSPORT != 0;
        self.grants.requests.as_ref().filter(|_| agreed)
    }

    /// Sends what is unsent. True if nothing is.
    fn flush(&mut self) -> Result<bool> {
        while !self.unsent.is_empty() {
            let handles: Vec<_> = self.unsent_handles.iter().map(|handle| &**handle).collect();
            let sent = self
                .socket
                .send(&self.unsent, &handles)
                .map_err(Error::io("write to a client's control socket"))?;
            if sent == 0 {
                return Ok(false);
            }
            self.unsent.drain(..sent);
            self.unsent_handles.clear();
        }
        Ok(true)
    }

    /// Maps the client's segment, if there is to be one, says Ready, and has a connection. With an
    /// error comes whether the client may still be told of it.
    #[allow(clippy::result_large_err)] // once per client that fails
    fn open(mut self) -> Result<Link, (Error, bool, Box<Self>)> {
        let violation = |text: &str| Error::Protocol(Violation::Control(text.into()));
        let Some(offered) = self.offered.take() else {
            return Err((violation("Accept before Hello"), true, Box::new(self)));
        };
        #[cfg(feature = "spsc_transport")]
        let opened = match offered.memory {
            Some(memory) if self.brings_segment => {
                let handles = std::mem::take(&mut self.handles);
                let opened = memory::open(memory, handles, &offered.terms);
                #[cfg(feature = "mpmc_transport")]
                let opened = opened.map(|opened| match self.requests() {
                    // Requests may come as soon as the client knows that this side is ready.
                    Some(requests) => opened.with_queue(requests, &offered.terms),
                    None => opened,
                });
                match memory::or_socket(opened, self.features) {
                    Ok(opened) => opened,
                    Err(error) => return Err((error, true, Box::new(self))),
                }
            }
            Some(_) => {
                let peer = self.peer;
                tracing::warn!(
                    peer.pid,
                    "the client has no use of shared memory: the socket takes its place"
                );
                None
            }
            None => None,
        };
        #[cfg(feature = "spsc_transport")]
        let turns = self.brings_segment && opened.is_none();
        #[cfg(not(feature = "spsc_transport"))]
        let turns = false;
        let ready = if turns {
            self.handshake.ready_over_socket()
        } else {
            self.handshake.ready()
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => return Err((error.into(), true, Box::new(self))),
        };
        match self.socket.send(&ready, &[]) {
            Ok(sent) if sent == ready.len() => {}
            Ok(_) => {
                // A few bytes into an empty socket buffer: the client is playing games.
                return Err((
                    violation("the client does not read its control socket"),
                    false,
                    Box::new(self),
                ));
            }
            Err(error) => {
                let error = Error::io("write to a client's control socket")(error);
                return Err((error, false, Box::new(self)));
            }
        }
        let parts = Parts {
            socket: self.socket,
            bell: offered.bell,
            peer: self.peer,
            terms: offered.terms,
            name: None,
            #[cfg(feature = "spsc_transport")]
            reserved: None,
            #[cfg(feature = "mpmc_transport")]
            requests: None,
        };
        let reader = self.handshake.into_reader();
        #[cfg(feature = "spsc_transport")]
        if let Some(opened) = opened {
            return Ok(opened.into_link(parts, reader));
        }
        Ok(parts.into_link_over_socket(reader.into_rest()))
    }
}
