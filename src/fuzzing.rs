//! What the fuzz targets in `fuzz/` call: one side of a connection, driven in one thread, and at
//! its other end a peer that writes what the fuzzer says. Built with `--cfg fuzzing` only.
//!
//! Both sides' segments, sockets and doorbells are real ones. The handshake, which has a target of
//! its own, is left out.

pub use crate::client::fuzzing::{async_client, async_client_over_socket, blocking_client};
pub use crate::worker::fuzzing::{server, server_over_socket};

use crate::layout::{MIN_CAPACITY, WORD};
use crate::link::{Link, Terms};
use crate::proto::frame::Kind;
use crate::proto::handshake::{CallShape, Close, CloseCode, Method};
use crate::ring::{CLOSE, COMMITTED, Cursors, FILLER, Sink};
use crate::segment::{LocalData, LocalSegment, LocalWords, PeerWords, open_peer};
use crate::settings::Memory;
use crate::sys::{ControlSocket, Doorbell, Handle, PeerDoorbell};
use crate::waiter::Fences;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Both rings' capacity: the smallest, so that inputs go round.
const CAPACITY: usize = MIN_CAPACITY;

/// The largest message that the side under test takes, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;

/// The bytes that the fuzzer made, taken from the front. Zeros when they are used up.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count.min(self.0.len()));
        self.0 = left;
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        let bytes = self.bytes(8);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
}

/// How long something may take to end once the peer is gone, in looks: by the clock a process that was
/// stopped meanwhile would have hung. After the first ones it sleeps for a millisecond at each, so that a
/// thread that has a part in it gets a processor.
#[derive(Debug)]
pub(crate) struct Patience {
    looks: u32,
}

impl Patience {
    const AT_ONCE: u32 = 1000;

    pub(crate) fn new() -> Self {
        Self { looks: 0 }
    }

    /// To be asked at each look.
    pub(crate) fn is_over(&mut self) -> bool {
        self.looks += 1;
        if self.looks > Self::AT_ONCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.looks == Self::AT_ONCE + 5000
    }
}

/// The other side.
pub(crate) trait Peer {
    /// Does what the next bytes of the input say.
    fn act(&mut self, input: &mut Input<'_>);
    /// Is gone, as a process that was killed.
    fn die(&mut self);
}

/// One over shared memory, without any manners.
#[derive(Debug)]
pub(crate) struct HostilePeer {
    words: LocalWords,
    data: LocalData,
    /// Where its next record goes.
    offset: usize,
    /// What the side under test writes.
    seen: PeerWords,
    control: Option<ControlSocket>,
    bell: PeerDoorbell,
    _own_bell: Doorbell,
}

/// One method of each shape; the fuzzed server's are in this order too.
pub(crate) fn methods() -> Arc<[Method]> {
    let shapes = [
        CallShape::Unary,
        CallShape::Unary,
        CallShape::ServerStream,
        CallShape::ClientStream,
        CallShape::Bidirectional,
    ];
    let method = |(number, shape): (usize, CallShape)| Method {
        shape,
        name: number.to_string().into(),
    };
    shapes.into_iter().enumerate().map(method).collect()
}

/// A side to be tested, and its peer. `None` if the system has no resources left.
pub(crate) fn link() -> Option<(Link, HostilePeer)> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let (control, peer_control) = (
        ControlSocket::new(ours).ok()?,
        ControlSocket::new(theirs).ok()?,
    );
    let memory = Memory::default();
    let (segment, handle) = LocalSegment::create(CAPACITY, &memory).ok()?;
    let (peer_segment, peer_handle) = LocalSegment::create(CAPACITY, &memory).ok()?;
    let (bell, peer_bell) = (Doorbell::new().ok()?, Doorbell::new().ok()?);
    let ring = |bell: &Doorbell| PeerDoorbell::open(bell.handle().ok()?).ok();
    let (rings_peer, rings_us) = (ring(&peer_bell)?, ring(&bell)?);
    let peer_mapped = open_peer(peer_handle, CAPACITY).ok()?;
    let (seen, _) = open_peer(handle, CAPACITY).ok()?;
    let (words, data) = peer_segment.into_parts();
    let peer = HostilePeer {
        words,
        data,
        offset: 0,
        seen,
        control: Some(peer_control),
        bell: rings_us,
        _own_bell: peer_bell,
    };
    let link = Link::unconfirmed(control, bell, rings_peer, segment, peer_mapped, terms());
    Some((link, peer))
}

/// The same over the socket. What the peer said along with its handshake is in the input.
pub(crate) fn link_over_socket(input: &mut Input<'_>) -> Option<(Link, HostileStream)> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let control = Some(ControlSocket::new(theirs).ok()?);
    let (control_of_link, bell) = (ControlSocket::new(ours).ok()?, Doorbell::new().ok()?);
    let early = usize::from(input.byte());
    let received = input.bytes(early).to_vec();
    let link = Link::unconfirmed_over_socket(control_of_link, bell, terms(), received);
    let unsent = Vec::new();
    Some((link, HostileStream { control, unsent }))
}

fn terms() -> Terms {
    Terms {
        fences: Fences::Symmetric,
        ring_out: CAPACITY,
        ring_in: CAPACITY,
        max_message_out: 1 << 16,
        max_message_in: MAX_MESSAGE as u64,
        max_in_flight: 8,
        stream_credits: 4,
        connection_id: 1,
        methods: methods(),
        features: u64::MAX,
        peer_label: String::new(),
    }
}

/// A tag and a body of a frame that may mean something. The bits of `what` beyond the lowest four say
/// how likely that is.
fn frame(what: u8, input: &mut Input<'_>) -> (u32, Vec<u8>) {
    let kinds = Kind::ALL;
    let kind = kinds[usize::from(input.byte()) % kinds.len()] as u8;
    let (flags, method) = (input.byte(), input.byte() % 6);
    let flags = if what & 0x10 == 0 { 0 } else { flags };
    let tag = u32::from_le_bytes([kind, flags, method, 0]);
    let id = u64::from(input.byte());
    let id = if what & 0x20 == 0 {
        id
    } else {
        // As an async client numbers its calls: how many there were, and which place it has.
        id >> 3 << 32 | id % 8
    };
    let len = usize::from(input.byte()) * if what & 0x40 == 0 { 1 } else { 8 };
    let mut body = id.to_le_bytes().to_vec();
    body.extend(input.bytes(len));
    (tag, body)
}

/// The last thing that a peer says, or what is none.
fn last_word(input: &mut Input<'_>) -> Vec<u8> {
    let code = CloseCode::from_u16(u16::from(input.byte()));
    let text = String::from_utf8_lossy(input.bytes(8)).into_owned();
    Close { code, text }.encode()
}

impl Peer for HostilePeer {
    fn act(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        match what % 16 {
            // Records as an honest producer lays them out, but for the space; frames that mean
            // something come first.
            0..=7 => {
                let (tag, body) = frame(what, input);
                self.record(tag, &body);
            }
            8 => {
                let tag = input.word() as u32;
                let len = usize::from(input.byte());
                let body = input.bytes(len);
                self.record(tag, body);
            }
            9 => {
                let word = input.word();
                self.data.word(self.offset).store(word, Relaxed);
            }
            10 => {
                let special = [CLOSE, COMMITTED | FILLER, COMMITTED, FILLER, 1, u64::MAX];
                let word = special[usize::from(input.byte()) % special.len()];
                self.data.word(self.offset).store(word, Relaxed);
            }
            11 => {
                let at = input.word() as usize % CAPACITY / WORD * WORD;
                let word = input.word();
                self.data.word(at).store(word, Relaxed);
            }
            12 => {
                let head = match what >> 4 {
                    0..8 => self.seen.tail().load(Relaxed),
                    8..12 => self.words.head().load(Relaxed).wrapping_add(input.word()),
                    _ => input.word(),
                };
                self.words.head().store(head, Relaxed);
            }
            13 => {
                self.words.data_parked().store(input.word(), Relaxed);
                self.words.space_parked().store(input.word(), Relaxed);
                self.words.tail().store(input.word(), Relaxed);
            }
            14 => self.bell.ring(),
            _ => self.speak(input, what >> 4),
        }
    }

    fn die(&mut self) {
        self.control = None;
    }
}

impl HostilePeer {
    /// A record, with a filler before it if it must be.
    fn record(&mut self, tag: u32, body: &[u8]) {
        let body = &body[..body.len().min(CAPACITY / 2 - WORD)];
        let size = crate::layout::record_size(body.len());
        if self.offset + size + WORD > CAPACITY {
            let filler = COMMITTED | FILLER | (CAPACITY - self.offset - WORD) as u64;
            if self.offset > 0 {
                self.data.word(0).store(0, Relaxed);
                self.data.word(self.offset).store(filler, Relaxed);
            }
            self.offset = 0;
        }
        self.data.copy_in(self.offset + WORD, body);
        self.data.word(self.offset + size).store(0, Relaxed);
        let word = u64::from(tag) << 32 | COMMITTED | body.len() as u64;
        self.data.word(self.offset).store(word, Relaxed);
        self.offset += size;
    }

    fn speak(&mut self, input: &mut Input<'_>, how: u8) {
        match (how, &self.control) {
            (0, _) => self.control = None,
            (1..4, Some(control)) => {
                let _ = control.send(&last_word(input), &[]);
            }
            (4, Some(control)) => {
                if let Ok((one, _)) = UnixStream::pair() {
                    let handle = Handle::from(std::os::fd::OwnedFd::from(one));
                    let _ = control.send(input.bytes(8), &[&handle]);
                }
            }
            (_, Some(control)) => {
                let _ = control.send(input.bytes(16), &[]);
            }
            (_, None) => {}
        }
    }
}

/// A peer over the socket: whatever it sends it sends in pieces of any length.
#[derive(Debug)]
pub(crate) struct HostileStream {
    control: Option<ControlSocket>,
    /// What it will send next.
    unsent: Vec<u8>,
}

impl Peer for HostileStream {
    fn act(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let mut handles = Vec::new();
        match what % 16 {
            0..=7 => {
                let (tag, body) = frame(what, input);
                let word = u64::from(tag) << 32 | COMMITTED | body.len() as u64;
                self.unsent.extend(word.to_le_bytes());
                self.unsent.extend(&body);
                let padding = body.len().next_multiple_of(WORD) - body.len();
                self.unsent.resize(self.unsent.len() + padding, 0);
                if what & 0x80 != 0 {
                    return;
                }
            }
            8 => self.unsent.extend(input.word().to_le_bytes()),
            9 => {
                let special = [
                    CLOSE,
                    COMMITTED | FILLER,
                    COMMITTED | 1 << 20,
                    FILLER,
                    u64::MAX,
                ];
                let word = special[usize::from(input.byte()) % special.len()];
                self.unsent.extend(word.to_le_bytes());
            }
            10 => {
                let count = usize::from(input.byte());
                self.unsent.extend(input.bytes(count));
            }
            11 => self.unsent.extend(last_word(input)),
            12 => {
                // Takes what was sent to it, or a part.
                let mut taken = [0; 1024];
                if let Some(control) = &self.control {
                    let _ = control.receive(&mut taken, &mut handles);
                }
                return;
            }
            13 => {
                if let (Some(control), Ok((one, _))) = (&self.control, UnixStream::pair()) {
                    let handle = Handle::from(std::os::fd::OwnedFd::from(one));
                    let _ = control.send(input.bytes(8), &[&handle]);
                }
                return;
            }
            14 if what >> 4 == 0 => self.control = None,
            _ => {}
        }
        let count = match what >> 4 & 3 {
            0..3 => self.unsent.len(),
            _ => usize::from(input.byte()).min(self.unsent.len()),
        };
        if let Some(control) = &self.control {
            let sent = control.send(&self.unsent[..count], &[]).unwrap_or(count);
            self.unsent.drain(..sent);
        }
    }

    fn die(&mut self) {
        self.control = None;
    }
}
