//! One side of a connection, spoken by hand: every word of its segment can be written with
//! anything, and every step of the handshake can go wrong.

use nearwire::layout::{
    DATA_AT, DATA_PARKED_AT, HEAD_AT, LAYOUT_HASH, LAYOUT_HASH_AT, MAGIC, MAGIC_AT,
    SPACE_PARKED_AT, TAIL_AT, WORD, record_size, segment_len,
};
use nearwire::proto::frame::{Header, encode_header};
use nearwire::proto::handshake::{
    Accept, ClientHandshake, ClientLimits, ClientStep, Close, Hello, MessageKind, MessageReader,
    Offer, Reject, ServerHandshake, ServerPolicy, ServerStep, VERSIONS, Welcome,
};
use nearwire::proto::mode::Mode;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// The capacity of both rings: the smallest, so that storms go round it quickly.
pub const CAPACITY: usize = 4096;

/// Bits of a commit word.
pub const COMMITTED: u64 = 1 << 31;
pub const FILLER: u64 = 1 << 30;
pub const CLOSE: u64 = COMMITTED | FILLER | 1 << 32;

pub const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// Far more than any answer takes that is not missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The mapping of a segment, this side's own or the peer's.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range that stays mapped until the drop, reached through atomics only.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    pub fn map(fd: &impl AsFd, len: usize, write: bool) -> io::Result<Self> {
        let rights = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), len, rights, MapFlags::SHARED, fd, 0)? };
        let base = NonNull::new(base.cast()).expect("a mapping has an address");
        Ok(Self { base, len })
    }

    /// The word at `at` bytes from the segment's start. The peer's are only to be loaded.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at + WORD <= self.len && at.is_multiple_of(WORD));
        // SAFETY: inside the mapping and aligned; all accesses of this process are atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and no borrow of `word` outlives this.
        unsafe { munmap(self.base.as_ptr().cast(), self.len).expect("it was mapped") };
    }
}

/// Bytes of a segment for a ring of [`CAPACITY`].
pub fn len_of_segment() -> usize {
    segment_len(CAPACITY, rustix::param::page_size())
}

/// A segment as an honest side makes it, but with these seals and of this length.
pub fn segment(len: usize, seals: SealFlags) -> (OwnedFd, Pages) {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("hostile", flags).unwrap();
    rustix::fs::ftruncate(&fd, len as u64).unwrap();
    let pages = Pages::map(&fd, len, true).unwrap();
    pages.word(MAGIC_AT).store(MAGIC, Relaxed);
    pages.word(LAYOUT_HASH_AT).store(LAYOUT_HASH, Relaxed);
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    (fd, pages)
}

/// A doorbell as an honest side makes it: the end to sleep on, and the end to give away.
pub fn doorbell() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (sleep_end, ring_end) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    rustix::net::shutdown(&sleep_end, Shutdown::Read).unwrap();
    (sleep_end, ring_end)
}

/// Sends all bytes; the descriptors go with the first.
pub fn send(stream: &UnixStream, mut bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL)?;
        bytes = &bytes[sent..];
        fds.clear();
    }
    Ok(())
}

/// Receives some bytes, with the descriptors that come along. Empty at the end of file.
pub fn receive(stream: &UnixStream, fds: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut buffer)];
    let message = rustix::net::recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    assert!(!message.flags.contains(ReturnFlags::CTRUNC));
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    buffer.truncate(message.bytes);
    Ok(buffer)
}

pub fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        mode: Mode::Calls,
        features_offered: 0,
        features_required: 0,
        layout_hash: LAYOUT_HASH,
        ring_to_server: CAPACITY as u32,
        ring_to_client: CAPACITY as u32,
        max_message: 1 << 20,
        pid: std::process::id(),
        stream_credits: 16,
        label: "hostile".into(),
    }
}

/// A client that has its Welcome and has not answered it.
pub struct Welcomed {
    pub control: UnixStream,
    pub handshake: ClientHandshake,
    pub welcome: Welcome,
    /// The server's segment and doorbell.
    pub fds: Vec<OwnedFd>,
}

impl Welcomed {
    pub fn connect(socket: &str) -> io::Result<Self> {
        Self::with(socket, hello())
    }

    pub fn with(socket: &str, hello: Hello) -> io::Result<Self> {
        let control = UnixStream::connect(socket)?;
        control.set_read_timeout(Some(PATIENCE))?;
        let limits = ClientLimits {
            max_ring: 1 << 28,
            max_segment_len: 1 << 30,
        };
        let mut handshake = ClientHandshake::new(hello, limits).unwrap();
        send(&control, handshake.hello(), &[])?;
        let mut fds = Vec::new();
        loop {
            let before = fds.len();
            let bytes = receive(&control, &mut fds)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match handshake.receive(&bytes, fds.len() - before) {
                Ok(ClientStep::Welcome(welcome)) => {
                    return Ok(Self {
                        control,
                        handshake,
                        welcome,
                        fds,
                    });
                }
                Ok(_) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Says Accept with these descriptors, and what the server answers, up to its end of file.
    pub fn refused(self, fds: Vec<OwnedFd>) -> Option<Reject> {
        let accept = Accept {
            segment_len: self.welcome.client_segment_len,
        };
        let _ = send(&self.control, &accept.encode(), &fds);
        drop(fds);
        self.verdict()
    }

    /// The Reject that the server closes with.
    pub fn verdict(mut self) -> Option<Reject> {
        let mut answer = Vec::new();
        let _ = self.control.read_to_end(&mut answer);
        let message = MessageReader::new().receive(&answer, 0).ok()??;
        (message.kind() == MessageKind::Reject)
            .then(|| Reject::decode(message.body()).expect("a well-formed Reject"))
    }

    /// Goes on as an honest client does.
    pub fn accept(self) -> io::Result<Raw> {
        let (fd, own) = segment(len_of_segment(), SEALS);
        let (bell, ring_end) = doorbell();
        self.accept_with(own, bell, vec![fd, ring_end])
    }

    pub fn accept_with(mut self, own: Pages, bell: OwnedFd, fds: Vec<OwnedFd>) -> io::Result<Raw> {
        let accept = self.handshake.accept(self.welcome.client_segment_len);
        send(&self.control, &accept.unwrap(), &fds)?;
        drop(fds);
        let mut none = Vec::new();
        loop {
            let bytes = receive(&self.control, &mut none)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.handshake.receive(&bytes, none.len()) {
                Ok(ClientStep::Ready) => break,
                Ok(_) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let [segment, peer_bell] = <[OwnedFd; 2]>::try_from(self.fds).expect("two descriptors");
        let len = self.welcome.server_segment_len as usize;
        let peer = Pages::map(&segment, len, false)?;
        let reader = self.handshake.into_reader();
        Ok(Raw::new(self.control, reader, own, peer, bell, peer_bell))
    }
}

/// One side of an established connection.
pub struct Raw {
    pub control: UnixStream,
    reader: MessageReader,
    pub own: Pages,
    pub peer: Pages,
    pub bell: OwnedFd,
    pub peer_bell: OwnedFd,
    watch: OwnedFd,
    /// Where the next record goes, and comes from: bytes since the connection began.
    pub tail: u64,
    pub head: u64,
}

impl Raw {
    fn new(
        control: UnixStream,
        reader: MessageReader,
        own: Pages,
        peer: Pages,
        bell: OwnedFd,
        peer_bell: OwnedFd,
    ) -> Self {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        // What is no doorbell cannot be watched; who sends it does not listen either.
        let _ = epoll::add(&watch, &bell, epoll::EventData::new_u64(0), flags);
        let raw = Self {
            control,
            reader,
            own,
            peer,
            bell,
            peer_bell,
            watch,
            tail: 0,
            head: 0,
        };
        raw.rings_within(Duration::ZERO);
        raw
    }

    /// A connection as an honest client makes it.
    pub fn connect(socket: &str) -> io::Result<Self> {
        Welcomed::connect(socket)?.accept()
    }

    /// A client that comes in, as an honest server lets it in. `methods` of the offer are the
    /// caller's.
    pub fn accept(control: UnixStream, offer: impl FnOnce(&mut Offer)) -> io::Result<Self> {
        let (fd, own) = segment(len_of_segment(), SEALS);
        let (bell, ring_end) = doorbell();
        Self::accept_with(control, offer, own, bell, vec![fd, ring_end])
    }

    /// As [`accept`](Self::accept), with other descriptors in the Welcome.
    pub fn accept_with(
        control: UnixStream,
        change: impl FnOnce(&mut Offer),
        own: Pages,
        bell: OwnedFd,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        control.set_read_timeout(Some(PATIENCE))?;
        let mut handshake = ServerHandshake::new(Arc::new(ServerPolicy {
            versions: VERSIONS,
            modes: vec![Mode::Calls],
            features_supported: 0,
            features_required: 0,
            layout_hash: LAYOUT_HASH,
            ring_min: CAPACITY as u32,
            ring_max: CAPACITY as u32,
        }));
        let mut offer = Offer {
            max_in_flight: 64,
            server_segment_len: len_of_segment() as u64,
            client_segment_len: len_of_segment() as u64,
            max_message: 1 << 20,
            connection_id: 1,
            stream_credits: 16,
            label: "hostile".into(),
            methods: Arc::new([]),
        };
        change(&mut offer);
        let mut received = Vec::new();
        let mut fds = Some(fds);
        loop {
            let before = received.len();
            let bytes = receive(&control, &mut received)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = handshake.receive(&bytes, received.len() - before);
            match step.map_err(io::Error::other)? {
                ServerStep::NeedMore => {}
                ServerStep::Hello(_) => {
                    let welcome = handshake.welcome(&offer).map_err(io::Error::other)?;
                    send(&control, &welcome, &fds.take().unwrap_or_default())?;
                }
                ServerStep::Accepted { .. } => break,
                ServerStep::Observe => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        send(&control, &handshake.ready().map_err(io::Error::other)?, &[])?;
        let two = <[OwnedFd; 2]>::try_from(received).map_err(|_| io::ErrorKind::InvalidData)?;
        let [segment, peer_bell] = two;
        let peer = Pages::map(&segment, len_of_segment(), false)?;
        let reader = handshake.into_reader();
        Ok(Self::new(control, reader, own, peer, bell, peer_bell))
    }

    /// The word of this side's ring at this position.
    pub fn data(&self, position: u64) -> &AtomicU64 {
        self.own.word(DATA_AT + position as usize % CAPACITY)
    }

    /// Puts a record into the ring as an honest producer does, but for the space, and publishes it.
    pub fn push(&mut self, tag: u32, body: &[u8]) {
        let size = record_size(body.len()) as u64;
        let to_end = CAPACITY as u64 - self.tail % CAPACITY as u64;
        if size + WORD as u64 > to_end {
            self.data(self.tail + to_end).store(0, Relaxed);
            let filler = COMMITTED | FILLER | (to_end - WORD as u64);
            self.data(self.tail).store(filler, Release);
            self.tail += to_end;
        }
        for (n, chunk) in body.chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            let at = self.tail + (WORD * (n + 1)) as u64;
            self.data(at).store(u64::from_le_bytes(word), Relaxed);
        }
        self.data(self.tail + size).store(0, Relaxed);
        let word = u64::from(tag) << 32 | COMMITTED | body.len() as u64;
        self.data(self.tail).store(word, Release);
        self.tail += size;
        self.wake_peer();
    }

    pub fn push_frame(&mut self, header: &Header, payload: &[u8]) {
        let encoded = encode_header(header, payload.len()).unwrap();
        let body = [encoded.prefix(), payload].concat();
        self.push((encoded.first_word() >> 32) as u32, &body);
    }

    /// Waits until a record of this size has space.
    pub fn wait_for_space(&self, size: usize) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.tail + (2 * size + WORD) as u64
            > self.peer.word(HEAD_AT).load(Acquire) + CAPACITY as u64
        {
            if Instant::now() > deadline || self.is_over() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// The next record, taken as an honest consumer does: its tag and body. `None` when it does
    /// not come in time.
    pub fn pop(&mut self, patience: Duration) -> Option<(u32, Vec<u8>)> {
        let deadline = Instant::now() + patience;
        loop {
            let at = self.head as usize % CAPACITY;
            let word = self.peer.word(DATA_AT + at).load(Acquire);
            if word == 0 {
                if Instant::now() > deadline {
                    return None;
                }
                std::thread::yield_now();
                continue;
            }
            let len = word as usize & ((1 << 30) - 1);
            if word & FILLER != 0 {
                assert_ne!(word, CLOSE, "the peer closed the ring");
                self.head += (len + WORD) as u64;
                continue;
            }
            let words = (0..len.div_ceil(WORD)).map(|n| at + WORD * (n + 1));
            let words = words.map(|at| self.peer.word(DATA_AT + at).load(Relaxed));
            let mut body: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            body.truncate(len);
            self.head += record_size(len) as u64;
            self.own.word(HEAD_AT).store(self.head, Release);
            return Some(((word >> 32) as u32, body));
        }
    }

    /// Wakes the peer, whether it sleeps or not.
    pub fn wake_peer(&self) {
        fence(SeqCst);
        let parked = [DATA_PARKED_AT, SPACE_PARKED_AT];
        if parked
            .iter()
            .any(|at| self.peer.word(*at).load(Relaxed) & 1 == 1)
        {
            self.ring();
        }
    }

    pub fn ring(&self) {
        let _ = rustix::net::shutdown(&self.peer_bell, Shutdown::Write);
    }

    /// Whether this side was rung, at the latest after `patience`.
    pub fn rings_within(&self, patience: Duration) -> bool {
        let timeout = rustix::event::Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let events = epoll::wait(&self.watch, &mut events, Some(&timeout)).unwrap();
        !events.0.is_empty()
    }

    /// Whether the peer has closed the connection.
    pub fn is_over(&self) -> bool {
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // Whatever it says after the handshake is a Close.
        !matches!(
            rustix::net::recv(&self.control, &mut byte, flags),
            Err(rustix::io::Errno::AGAIN)
        )
    }

    /// Why the peer closes the connection, once it does.
    pub fn verdict(mut self) -> Result<Close, String> {
        let mut answer = Vec::new();
        let read = self.control.read_to_end(&mut answer);
        if let Err(error) = read
            && error.kind() != io::ErrorKind::ConnectionReset
        {
            return Err(format!("the connection stays: {error}"));
        }
        match self.reader.receive(&answer, 0) {
            Ok(Some(message)) if message.kind() == MessageKind::Close => {
                Close::decode(message.body()).map_err(|error| error.to_string())
            }
            other => Err(format!("no Close, but {other:?}")),
        }
    }
}

/// Every word of a segment that its owner may write, but for the ring's.
pub const WORDS: [usize; 7] = [
    MAGIC_AT,
    LAYOUT_HASH_AT,
    nearwire::layout::CAPACITY_AT,
    TAIL_AT,
    HEAD_AT,
    DATA_PARKED_AT,
    SPACE_PARKED_AT,
];

use std::sync::atomic::fence;
