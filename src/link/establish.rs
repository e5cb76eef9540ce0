//! From a control socket to a link: the handshake's bytes and descriptors carried to and fro.
//!
//! The rules are in `proto::handshake`, which sees no socket; what happens here is the sockets,
//! the segments and the time.

use super::{Link, Rx, Shared, Terms, Tx};
use crate::error::{Error, Identity, Result, Violation};
use crate::layout;
use crate::name::Place;
use crate::proto::handshake::{
    ClientHandshake, ClientLimits, ClientStep, HandshakeError, Hello, Method, Offer, RejectCode,
    ServerHandshake, ServerPolicy, ServerStep, VERSIONS,
};
use crate::proto::mode::Mode;
use crate::segment::{LocalSegment, open_peer};
use crate::settings::{Memory, PeerPolicy};
use crate::sys::{self, ControlSocket, Doorbell, Handle, PeerDoorbell, Received, SegmentHandle};
use crate::waiter::Fences;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Feature bit: this process can take part in asymmetric fences (see `waiter`).
pub(crate) const FEATURE_ASYMMETRIC_FENCES: u64 = 1;

/// Feature bit: requests may carry a trace context.
pub(crate) const FEATURE_TRACE_CONTEXT: u64 = 2;

/// What this build can do on this system.
pub(crate) fn supported_features() -> u64 {
    let fences = match sys::register_for_heavy_fences() {
        true => FEATURE_ASYMMETRIC_FENCES,
        false => 0,
    };
    fences | FEATURE_TRACE_CONTEXT
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    pub(crate) mode: Mode,
    /// The feature bits that it offers.
    pub(crate) features: u64,
    /// Capacity of the ring towards the server, in bytes.
    pub(crate) ring_to_server: usize,
    /// Capacity of the ring towards the client, in bytes.
    pub(crate) ring_to_client: usize,
    /// The largest message that this side takes, in bytes.
    pub(crate) max_message: u64,
    /// What it grants each stream in advance.
    pub(crate) stream_credits: u32,
    pub(crate) memory: Memory,
    pub(crate) label: String,
    pub(crate) timeout: Duration,
    pub(crate) policy: PeerPolicy,
}

/// Connects to a server. Blocks for the wishes' timeout at most.
pub(crate) fn connect(place: &Place, wishes: &Wishes) -> Result<Link> {
    let deadline = Instant::now() + wishes.timeout;
    let socket = ControlSocket::connect(&place.path, deadline)?;
    let peer = socket.peer().map_err(Error::io("ask who the server is"))?;
    check(&wishes.policy, peer)?;
    let hello = Hello {
        versions: VERSIONS,
        mode: wishes.mode,
        features_offered: wishes.features,
        features_required: 0,
        layout_hash: layout::LAYOUT_HASH,
        ring_to_server: wishes.ring_to_server as u32,
        ring_to_client: wishes.ring_to_client as u32,
        max_message: wishes.max_message,
        pid: std::process::id(),
        stream_credits: wishes.stream_credits,
        label: wishes.label.clone(),
    };
    let page = sys::page_size();
    let limits = ClientLimits {
        max_ring: layout::MAX_CAPACITY as u32,
        max_segment_len: layout::segment_len(layout::MAX_CAPACITY, page) as u64,
    };
    let mut handshake = ClientHandshake::new(hello, limits)?;
    let mut talk = Talk {
        socket: &socket,
        deadline,
    };
    talk.send(handshake.hello(), &[])?;

    let (welcome, server_segment, server_bell) = loop {
        let (step, handles) = talk.receive(&mut handshake)?;
        if let ClientStep::Welcome(welcome) = step {
            let (segment, bell) = two(handles)?;
            break (welcome, segment, bell);
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
    let (peer_words, peer_data) = open_peer(SegmentHandle::from(server_segment), to_client)?;
    let (segment, handle) = LocalSegment::create(to_server, &wishes.memory)
        .map_err(Error::io("create a segment of shared memory"))?;
    let bell = Doorbell::new().map_err(Error::io("create a doorbell"))?;
    let bell_handle = bell.handle().map_err(Error::io("share a doorbell"))?;
    let accept = handshake.accept(welcome.client_segment_len)?;
    // Kept until the server says that it has them.
    let handles = [Handle::from(handle), bell_handle];
    talk.send(&accept, &handles.each_ref())?;
    while talk.receive(&mut handshake)?.0 != ClientStep::Ready {}

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
        segment,
        peer,
        terms,
        name: Some(place.path.clone()),
        reserved: None,
    };
    let peer_bell =
        PeerDoorbell::open(server_bell).map_err(Error::io("use the peer's doorbell"))?;
    Ok(parts.into_link(peer_bell, peer_words, peer_data, handshake.into_reader()))
}

fn fences(features: u64) -> Fences {
    if features & FEATURE_ASYMMETRIC_FENCES != 0 {
        Fences::Asymmetric
    } else {
        Fences::Symmetric
    }
}

pub(super) fn check(policy: &PeerPolicy, peer: Identity) -> Result<()> {
    policy
        .check(&peer)
        .map_err(|reason| Error::Credentials { peer, reason })
}

fn two(handles: Vec<Handle>) -> Result<(Handle, Handle)> {
    let [segment, bell]: [Handle; 2] = handles
        .try_into()
        .map_err(|_| Error::Protocol(Violation::Control("not two handles".into())))?;
    Ok((segment, bell))
}

/// What a side has of its own when the handshake is through.
struct Parts {
    socket: ControlSocket,
    bell: Doorbell,
    segment: LocalSegment,
    peer: Identity,
    terms: Terms,
    /// See [`Shared`].
    name: Option<PathBuf>,
    reserved: Option<Reserved>,
}

impl Parts {
    fn into_link(
        self,
        peer_bell: PeerDoorbell,
        peer_words: crate::segment::PeerWords,
        peer_data: crate::segment::PeerData,
        reader: crate::proto::handshake::MessageReader,
    ) -> Link {
        let (out, into, fences) = (self.terms.ring_out, self.terms.ring_in, self.terms.fences);
        let huge_pages = self.segment.huge_pages();
        let (words, data) = self.segment.into_parts();
        let shared = Arc::new(Shared {
            control: self.socket,
            bell: self.bell,
            peer_bell,
            terms: self.terms,
            peer: self.peer,
            huge_pages,
            name: self.name,
            _reserved: self.reserved,
            closed: Default::default(),
            reader: reader.into(),
        });
        Link {
            tx: Tx::new(
                data,
                words.clone(),
                peer_words.clone(),
                out,
                fences,
                shared.clone(),
            ),
            rx: Rx::new(peer_data, words, peer_words, into, fences, shared.clone()),
            shared,
        }
    }
}

#[cfg(fuzzing)]
impl Link {
    /// A link to a peer with which there was no handshake.
    pub(crate) fn unconfirmed(
        socket: ControlSocket,
        bell: Doorbell,
        peer_bell: PeerDoorbell,
        segment: LocalSegment,
        peer: (crate::segment::PeerWords, crate::segment::PeerData),
        terms: Terms,
    ) -> Link {
        let parts = Parts {
            socket,
            bell,
            segment,
            peer: ControlSocket::own_identity(),
            terms,
            name: None,
            reserved: None,
        };
        let reader = crate::proto::handshake::MessageReader::new();
        parts.into_link(peer_bell, peer.0, peer.1, reader)
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
    fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reserved, u64> {
        let add = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, add)?;
        let memory = self.clone();
        Ok(Reserved { memory, bytes })
    }
}

/// A connection's share of [`MappedMemory`].
#[derive(Debug)]
pub(crate) struct Reserved {
    memory: Arc<MappedMemory>,
    bytes: u64,
}

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
    pub(crate) memory: Memory,
    /// The largest message that the server takes, in bytes.
    pub(crate) max_message: u64,
    pub(crate) max_in_flight: usize,
    /// What it grants each stream in advance.
    pub(crate) stream_credits: u32,
    pub(crate) mapped: Arc<MappedMemory>,
    pub(crate) label: String,
    pub(crate) methods: Arc<[Method]>,
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
    /// It is an observer, and has what it wants as soon as nothing is unsent.
    observing: bool,
    /// Made when the client has said Hello.
    offered: Option<Offered>,
    /// Descriptors received since the last message.
    handles: Vec<Handle>,
    /// When the client has used up its time.
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
struct Offered {
    segment: LocalSegment,
    bell: Doorbell,
    terms: Terms,
    reserved: Reserved,
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
                Ok(opened) => (Progress::Done(Box::new(self.finish(opened))), None),
                Err(error) => {
                    self.refuse(RejectCode::Segment, &error.to_string());
                    (Progress::Failed(error), Some(self))
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
                return Ok(None);
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
                ServerStep::Accepted { .. } => return Ok(None),
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
                ServerStep::Accepted { .. } => return Ok(None),
            }
        }
    }

    /// It wants the counters page: sends it.
    fn show(&mut self) -> Result<()> {
        let Some((page, len)) = self.grants.counters.clone() else {
            let text = "what is served here has no counters: only servers of calls have";
            let reject = self.handshake.reject_with(RejectCode::Mode, text);
            return Err(HandshakeError::Refused(reject).into());
        };
        self.unsent = self.handshake.counters(len)?;
        self.unsent_handles = vec![page];
        self.observing = true;
        Ok(())
    }

    /// The client has said Hello: creates this side's segment and sends it.
    fn offer(&mut self, agreed: crate::proto::handshake::Agreed) -> Result<()> {
        if let Some((code, text)) = self.full.take() {
            let reject = self.handshake.reject_with(code, text);
            return Err(HandshakeError::Refused(reject).into());
        }
        let (into, out) = (
            agreed.ring_to_server as usize,
            agreed.ring_to_client as usize,
        );
        let page = sys::page_size();
        let both = layout::segment_len(out, page) + layout::segment_len(into, page);
        let mapped = &self.grants.mapped;
        let reserved = mapped.reserve(both as u64).map_err(|used| {
            let text = format!(
                "the server's connections have {used} bytes of memory mapped; its limit of {} \
                 leaves no room for the {both} of another one: wish for smaller rings, or raise \
                 max_mapped at the server",
                mapped.limit
            );
            let reject = self.handshake.reject_with(RejectCode::Limits, text);
            Error::Handshake(HandshakeError::Refused(reject))
        })?;
        let (segment, handle) = LocalSegment::create(out, &self.grants.memory)
            .map_err(Error::io("create a segment of shared memory"))?;
        let bell = Doorbell::new().map_err(Error::io("create a doorbell"))?;
        let offer = Offer {
            max_in_flight: self.grants.max_in_flight as u32,
            server_segment_len: layout::segment_len(out, page) as u64,
            client_segment_len: layout::segment_len(into, page) as u64,
            max_message: self.grants.max_message,
            connection_id: self.connection_id,
            stream_credits: self.grants.stream_credits,
            label: self.grants.label.clone(),
            methods: self.grants.methods.clone(),
        };
        self.unsent = self.handshake.welcome(&offer)?;
        let bell_handle = bell.handle().map_err(Error::io("share a doorbell"))?;
        self.unsent_handles = vec![Arc::new(handle.into()), Arc::new(bell_handle)];
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
            segment,
            bell,
            terms,
            reserved,
        });
        Ok(())
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

    /// Maps the client's segment and says Ready.
    fn open(&mut self) -> Result<Opened> {
        let violation = |text: &str| Error::Protocol(Violation::Control(text.into()));
        let offered = self
            .offered
            .take()
            .ok_or_else(|| violation("Accept before Hello"))?;
        let (segment, bell) = two(std::mem::take(&mut self.handles))?;
        let (words, data) = open_peer(SegmentHandle::from(segment), offered.terms.ring_in)?;
        let bell = PeerDoorbell::open(bell).map_err(Error::io("use a client's doorbell"))?;
        let ready = self.handshake.ready()?;
        let sent = self
            .socket
            .send(&ready, &[])
            .map_err(Error::io("write to a client's control socket"))?;
        if sent < ready.len() {
            // Sixteen bytes into an empty socket buffer: the client is playing games.
            return Err(violation("the client does not read its control socket"));
        }
        Ok(Opened {
            offered,
            bell,
            words,
            data,
        })
    }

    fn finish(self, opened: Opened) -> Link {
        let Opened {
            offered:
                Offered {
                    segment,
                    bell,
                    terms,
                    reserved,
                },
            bell: peer_bell,
            words,
            data,
        } = opened;
        let parts = Parts {
            socket: self.socket,
            bell,
            segment,
            peer: self.peer,
            terms,
            name: None,
            reserved: Some(reserved),
        };
        parts.into_link(peer_bell, words, data, self.handshake.into_reader())
    }
}

/// What the client's Accept brought, and what it answers.
struct Opened {
    offered: Offered,
    bell: PeerDoorbell,
    words: crate::segment::PeerWords,
    data: crate::segment::PeerData,
}
