//! The handshake's two ends, fed in pieces of any size with any number of descriptors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearwire::proto::handshake::{
    Accept, ClientHandshake, ClientLimits, ClientStep, Close, Hello, MessageKind, MessageReader,
    Offer, Reject, ServerHandshake, ServerPolicy, ServerStep, VERSIONS, Welcome,
};
use nearwire::proto::mode::Mode;
use std::sync::Arc;

fn policy() -> ServerPolicy {
    ServerPolicy {
        versions: VERSIONS,
        modes: vec![Mode::Calls],
        features_supported: 1,
        features_required: 0,
        layout_hash: nearwire::layout::LAYOUT_HASH,
        ring_min: 4096,
        ring_max: 1 << 20,
    }
}

fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        mode: Mode::Calls,
        features_offered: 1,
        features_required: 0,
        layout_hash: nearwire::layout::LAYOUT_HASH,
        ring_to_server: 65_536,
        ring_to_client: 65_536,
        max_message: 1 << 20,
        pid: 1,
        stream_credits: 64,
        label: "fuzz".into(),
    }
}

/// Pieces: a length and a number of descriptors before each.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    std::iter::from_fn(move || {
        let (&[len, descriptors], rest) = input.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        Some((piece, usize::from(descriptors % 4)))
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&which, input)) = input.split_first() else {
        return;
    };
    match which % 3 {
        0 => server(input),
        1 => client(input),
        _ => messages(input),
    }
});

fn server(input: &[u8]) {
    let mut handshake = ServerHandshake::new(Arc::new(policy()));
    for (bytes, descriptors) in pieces(input) {
        match handshake.receive(bytes, descriptors) {
            Ok(ServerStep::NeedMore) => {}
            Ok(ServerStep::Hello(agreed)) => {
                let offer = Offer {
                    max_in_flight: 16,
                    server_segment_len: u64::from(agreed.ring_to_client) + 4096,
                    client_segment_len: u64::from(agreed.ring_to_server) + 4096,
                    max_message: 1 << 20,
                    connection_id: 1,
                    stream_credits: 64,
                    label: "server".into(),
                    methods: Arc::new([]),
                };
                handshake.welcome(&offer).expect("an honest offer");
            }
            Ok(ServerStep::Observe) => {
                handshake.counters(1 << 16).expect("an honest observer");
                return;
            }
            Ok(ServerStep::Accepted { .. }) => {
                handshake.ready().expect("it was accepted");
                return;
            }
            Err(error) => {
                let _ = (error.to_string(), handshake.refusal(&error));
                return;
            }
        }
    }
    let _ = handshake.end_of_file();
}

fn client(input: &[u8]) {
    let limits = ClientLimits {
        max_ring: 1 << 20,
        max_segment_len: 1 << 24,
    };
    let mut handshake = ClientHandshake::new(hello(), limits).expect("an honest hello");
    for (bytes, descriptors) in pieces(input) {
        match handshake.receive(bytes, descriptors) {
            Ok(ClientStep::Welcome(welcome)) => {
                assert!(welcome.client_segment_len <= limits.max_segment_len);
                let _ = handshake.accept(welcome.client_segment_len);
            }
            Ok(ClientStep::Ready) => return,
            Ok(_) => {}
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
    }
    let _ = handshake.end_of_file();
}

/// Each message decoded by itself; what decodes says the same when it is encoded again.
fn messages(input: &[u8]) {
    let mut reader = MessageReader::new();
    for (bytes, descriptors) in pieces(input) {
        let Ok(Some(message)) = reader.receive(bytes, descriptors) else {
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
            MessageKind::Reject => drop(Reject::decode(body)),
            MessageKind::Close => drop(Close::decode(body)),
            _ => {}
        }
    }
}

fn body_of(message: &[u8]) -> &[u8] {
    &message[16..]
}
