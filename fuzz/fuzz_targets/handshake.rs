//! The handshake's ends (a server's, a client's, an observer's), fed in pieces of any size with any
//! number of descriptors: raw bytes, and messages as honest peers send them, with any values and a
//! few bytes spoilt, for no raw bytes get past the Hello.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearwire::proto::handshake::{
    Accept, CallShape, ClientHandshake, ClientLimits, ClientStep, Close, CloseCode, Counters,
    Hello, MessageKind, MessageReader, Method, Observe, ObserverHandshake, Offer, Ready, Reject,
    RejectCode, ServerHandshake, ServerPolicy, ServerStep, VERSIONS, VersionRange, Welcome,
};
use nearwire::proto::mode::Mode;
use std::sync::Arc;

/// The bytes that the fuzzer made, taken from the front. Zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count.min(self.0.len()));
        self.0 = left;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// One of these, the first one mostly, or any number.
    fn number(&mut self, honest: &[u64]) -> u64 {
        match usize::from(self.byte()) {
            255 => {
                let mut number = [0; 8];
                let bytes = self.bytes(8);
                number[..bytes.len()].copy_from_slice(bytes);
                u64::from_le_bytes(number)
            }
            which => honest.get(which).copied().unwrap_or(honest[0]),
        }
    }

    fn text(&mut self) -> String {
        let len = usize::from(self.byte());
        String::from_utf8_lossy(self.bytes(len)).into_owned()
    }

    fn versions(&mut self) -> VersionRange {
        VersionRange {
            min: self.number(&[VERSIONS.min.into(), 1, 99]) as u16,
            max: self.number(&[VERSIONS.max.into(), 1, 99]) as u16,
        }
    }

    fn mode(&mut self) -> Mode {
        [Mode::Calls, Mode::Messages, Mode::Bytes][usize::from(self.byte()) % 3]
    }
}

/// Features in use, singly and together: fences, traces, the socket, the queue.
const FEATURES: [u64; 8] = [0, 1, 2, 1 << 8, 1 << 9, 0x303, 0x103, u64::MAX];

const SEGMENT: u64 = 65_536 + 4096;

fn hello(input: &mut Input) -> Hello {
    Hello {
        versions: input.versions(),
        mode: input.mode(),
        features_offered: input.number(&FEATURES),
        features_required: input.number(&FEATURES),
        layout_hash: input.number(&[nearwire::layout::LAYOUT_HASH]),
        ring_to_server: input.number(&[65_536, 0, 4096, 1 << 20, 1 << 31]) as u32,
        ring_to_client: input.number(&[65_536, 0, 4096, 1 << 20, 1 << 31]) as u32,
        max_message: input.number(&[1 << 20]),
        pid: input.number(&[1]) as u32,
        stream_credits: input.number(&[64]) as u32,
        label: input.text(),
    }
}

fn methods(input: &mut Input) -> Arc<[Method]> {
    let shapes = [
        CallShape::Unary,
        CallShape::ServerStream,
        CallShape::ClientStream,
        CallShape::Bidirectional,
    ];
    (0..input.byte() % 8)
        .map(|_| Method {
            shape: shapes[usize::from(input.byte()) % 4],
            name: input.text().into(),
        })
        .collect()
}

fn welcome(input: &mut Input) -> Welcome {
    Welcome {
        version: input.number(&[VERSIONS.max.into(), 99]) as u16,
        max_in_flight: input.number(&[16]) as u32,
        features: input.number(&FEATURES),
        ring_to_server: input.number(&[65_536, 4096, 1 << 30]) as u32,
        ring_to_client: input.number(&[65_536, 4096, 1 << 30]) as u32,
        server_segment_len: input.number(&[SEGMENT, 0]),
        client_segment_len: input.number(&[SEGMENT, 0]),
        max_message: input.number(&[1 << 20]),
        connection_id: input.number(&[1]),
        stream_credits: input.number(&[64]) as u32,
        label: input.text(),
        methods: methods(input),
    }
}

/// A message of any kind, as an honest peer encodes it.
fn message(input: &mut Input) -> Vec<u8> {
    match input.byte() % 8 {
        0 => hello(input).encode().unwrap_or_default(),
        1 => welcome(input).encode().unwrap_or_default(),
        2 => Accept {
            segment_len: input.number(&[SEGMENT, 0]),
        }
        .encode(),
        3 => Ready {
            over_socket: input.byte() % 2 == 1,
        }
        .encode(),
        4 => Reject {
            code: RejectCode::from_u16(input.byte().into()),
            versions: input.versions(),
            text: input.text(),
        }
        .encode(),
        5 => Close {
            code: CloseCode::from_u16(input.byte().into()),
            text: input.text(),
        }
        .encode(),
        6 => {
            let versions = input.versions();
            Observe { versions }.encode().unwrap_or_default()
        }
        _ => Counters {
            version: input.number(&[VERSIONS.max.into(), 99]) as u16,
            segment_len: input.number(&[SEGMENT, 0]),
        }
        .encode(),
    }
}

/// What the peer sends, in pieces, with descriptors.
struct Pieces<'a> {
    input: Input<'a>,
    /// What is left of a message that was cut.
    rest: Vec<u8>,
}

impl Pieces<'_> {
    fn next(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.input.0.is_empty() && self.rest.is_empty() {
            return None;
        }
        let how = self.input.byte();
        let mut bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            if how & 0x10 == 0 {
                let len = usize::from(self.input.byte());
                bytes = self.input.bytes(len).to_vec();
            } else {
                bytes = message(&mut self.input);
            }
        }
        if how & 0x20 != 0 {
            for _ in 0..self.input.byte() % 4 {
                let (at, with) = (self.input.byte(), self.input.byte());
                if let Some(byte) = bytes.get_mut(usize::from(at)) {
                    *byte ^= with;
                }
            }
        }
        if how & 0x40 != 0 {
            let cut = usize::from(self.input.byte()).min(bytes.len());
            self.rest = bytes.split_off(cut);
        }
        Some((bytes, usize::from(how % 8)))
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let which = input.byte();
    match which % 4 {
        0 => server(input),
        1 => client(input),
        2 => observer(input),
        _ => messages(input),
    }
});

fn pieces(input: Input<'_>) -> Pieces<'_> {
    let rest = Vec::new();
    Pieces { input, rest }
}

fn server(mut input: Input<'_>) {
    let modes = input.byte();
    let all = [Mode::Calls, Mode::Messages, Mode::Bytes];
    let policy = ServerPolicy {
        versions: input.versions(),
        modes: all[usize::from(modes % 3)..].to_vec(),
        features_supported: input.number(&[0x303, 0, 1, 2, 1 << 8, 1 << 9]),
        features_required: input.number(&[0, 1, 2, 1 << 8, 1 << 9]),
        layout_hash: nearwire::layout::LAYOUT_HASH,
        ring_min: input.number(&[4096, 65_536, u64::from(u32::MAX)]) as u32,
        ring_max: input.number(&[1 << 20, 4096, 0]) as u32,
    };
    let (ring_min, ring_max) = (policy.ring_min, policy.ring_max);
    let (over_socket, label, methods) = (input.byte(), input.text(), methods(&mut input));
    let mut handshake = ServerHandshake::new(Arc::new(policy));
    let mut offered = None;
    let mut pieces = pieces(input);
    while let Some((bytes, descriptors)) = pieces.next() {
        match handshake.receive(&bytes, descriptors) {
            Ok(ServerStep::NeedMore) => {}
            Ok(ServerStep::Hello(agreed)) => {
                assert!(offered.is_none(), "a second Hello was taken");
                for ring in [agreed.ring_to_client, agreed.ring_to_server] {
                    assert!(ring.is_power_of_two());
                    assert!(
                        ring <= ring_max.max(ring_min).max(1),
                        "{ring} of {ring_max}"
                    );
                }
                let in_memory = u64::from(!agreed.socket_required);
                let len = u64::from(agreed.ring_to_server) + 4096;
                offered = Some(len * in_memory);
                let offer = Offer {
                    max_in_flight: 16,
                    server_segment_len: (u64::from(agreed.ring_to_client) + 4096) * in_memory,
                    client_segment_len: len * in_memory,
                    max_message: 1 << 20,
                    connection_id: 1,
                    stream_credits: 64,
                    label: label.clone(),
                    methods: methods.clone(),
                };
                if handshake.welcome(&offer).is_err() {
                    return;
                }
                assert!(handshake.welcome(&offer).is_err(), "welcomed twice");
            }
            Ok(ServerStep::Observe) => {
                handshake.counters(1 << 16).expect("an honest observer");
                return;
            }
            Ok(ServerStep::Accepted { segment_len }) => {
                let offered = offered.expect("accepted what was not offered");
                assert!(segment_len == offered || segment_len == 0);
                if over_socket % 2 == 0 {
                    handshake.ready().expect("it was accepted");
                } else {
                    let _ = handshake.ready_over_socket();
                }
                let _ = handshake.into_reader();
                return;
            }
            Err(error) => {
                let _ = (error.to_string(), handshake.refusal(&error));
                assert!(
                    handshake.receive(&bytes, 0).is_err(),
                    "goes on after an error"
                );
                return;
            }
        }
    }
    let _ = handshake.end_of_file().to_string();
}

fn client(mut input: Input<'_>) {
    let limits = ClientLimits {
        max_ring: 1 << 20,
        max_segment_len: 1 << 24,
    };
    let less = input.byte();
    let Ok(mut handshake) = ClientHandshake::new(hello(&mut input), limits) else {
        return;
    };
    let mut welcomed = false;
    let mut pieces = pieces(input);
    while let Some((bytes, descriptors)) = pieces.next() {
        match handshake.receive(&bytes, descriptors) {
            Ok(ClientStep::Welcome(welcome)) => {
                assert!(!welcomed, "a second Welcome was taken");
                welcomed = true;
                assert!(welcome.client_segment_len <= limits.max_segment_len);
                assert!(welcome.server_segment_len <= limits.max_segment_len);
                assert!(welcome.ring_to_client.max(welcome.ring_to_server) <= limits.max_ring);
                let len = match less % 4 {
                    3 => 0,
                    _ => welcome.client_segment_len,
                };
                let _ = handshake.accept(len);
            }
            Ok(ClientStep::Ready) => {
                assert!(welcomed, "ready for what was not offered");
                let _ = (handshake.is_over_socket(), handshake.into_reader());
                return;
            }
            Ok(_) => {}
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
    let _ = handshake.end_of_file().to_string();
}

fn observer(input: Input<'_>) {
    const MOST: u64 = 1 << 20;
    let mut handshake = ObserverHandshake::new(VERSIONS, MOST);
    handshake.observe().expect("honest versions");
    let mut pieces = pieces(input);
    while let Some((bytes, descriptors)) = pieces.next() {
        match handshake.receive(&bytes, descriptors) {
            Ok(None) => {}
            Ok(Some(counters)) => {
                assert!(counters.segment_len > 0 && counters.segment_len <= MOST);
                return;
            }
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
    let _ = handshake.end_of_file().to_string();
}

/// Each message decoded by itself; what decodes says the same when it is encoded again.
fn messages(input: Input<'_>) {
    let mut reader = MessageReader::new();
    let mut pieces = pieces(input);
    while let Some((bytes, descriptors)) = pieces.next() {
        let Ok(Some(message)) = reader.receive(&bytes, descriptors) else {
            continue;
        };
        let body = message.body();
        match message.kind() {
            MessageKind::Hello => {
                if let Ok(hello) = Hello::decode(body) {
                    assert_eq!(
                        Hello::decode(body_of(&hello.encode().expect("encodes"))).as_ref(),
                        Ok(&hello)
                    );
                }
            }
            MessageKind::Welcome => {
                if let Ok(welcome) = Welcome::decode(body) {
                    assert_eq!(
                        Welcome::decode(body_of(&welcome.encode().expect("encodes"))).as_ref(),
                        Ok(&welcome)
                    );
                }
            }
            MessageKind::Accept => drop(Accept::decode(body)),
            MessageKind::Ready => drop(Ready::decode(body)),
            MessageKind::Reject => drop(Reject::decode(body)),
            MessageKind::Close => drop(Close::decode(body)),
            MessageKind::Observe => drop(Observe::decode(body)),
            MessageKind::Counters => drop(Counters::decode(body)),
            _ => {}
        }
    }
}

fn body_of(message: &[u8]) -> &[u8] {
    &message[16..]
}
