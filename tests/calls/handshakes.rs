//! Clients and servers that say something else, another version's words, or nothing.

use crate::limits::rejected;
use crate::server::NAME;
use crate::support::{PATIENCE, Place, pattern, within};
use nearwire::proto::handshake::{
    ClientHandshake, ClientLimits, ClientStep, Close, CloseCode, HandshakeError, Hello,
    MessageKind, MessageReader, Ready, Reject, RejectCode, VersionRange,
};
use nearwire::proto::mode::Mode;
use nearwire::{BlockingClient, ClientBuilder, Error};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

fn hello() -> Hello {
    Hello {
        versions: VersionRange { min: 1, max: 1 },
        mode: Mode::Calls,
        features_offered: 0,
        features_required: 0,
        layout_hash: nearwire::layout::LAYOUT_HASH,
        ring_to_server: 65_536,
        ring_to_client: 65_536,
        max_message: 1 << 20,
        pid: std::process::id(),
        stream_credits: 16,
        label: "raw".into(),
    }
}

/// Sends this to the server and reads until it closes.
fn answer_to(socket: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may have seen enough after the first bytes.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // It closed with some of ours unread.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    answer
}

/// The reject that the bytes are.
fn reject_in(bytes: &[u8]) -> Reject {
    let message = MessageReader::new().receive(bytes, 0).unwrap().unwrap();
    assert_eq!(message.kind(), MessageKind::Reject);
    Reject::decode(message.body()).unwrap()
}

fn works(socket: &str) {
    let mut client = BlockingClient::connect(socket).unwrap();
    let request = pattern(3, 100_000);
    assert!(client.call_bytes("echo_later", &request).unwrap() == request);
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    let mut neighbour = BlockingClient::connect(&socket).unwrap();
    let before = server.report()["descriptors"];
    // Not Nearwire at all: no answer that it could not understand anyway.
    assert_eq!(answer_to(&socket, b"GET / HTTP/1.1\r\n\r\n"), b"");
    assert_eq!(answer_to(&socket, b"N"), b"", "answered the end of file");
    assert_eq!(answer_to(&socket, &[0; 100_000]), b"");
    assert_eq!(answer_to(&socket, &pattern(1, 3000)), b"");
    for seed in 0..50 {
        let mut bytes = hello().encode().unwrap();
        let noise = pattern(seed, 8);
        let at = 8 + usize::from(noise[0]) % (bytes.len() - 8);
        bytes[at] ^= noise[1] | 1;
        bytes.truncate(bytes.len() - usize::from(noise[2]) % 3);
        // Whatever it became: an answer in the protocol's words, or the end.
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if !answer.is_empty() {
            assert!(answer.starts_with(b"NEARWIRE"), "{answer:?}");
        }
    }
    assert_eq!(neighbour.call_bytes("echo", b"on").unwrap(), b"on");
    works(&socket);
    crate::support::eventually("all descriptors are closed", || {
        server.report()["descriptors"] == before
    });
    assert_eq!(server.report()["connections"], 1);
}

#[test]
fn malformed_messages_are_told_what_is_wrong() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    let envelope = |kind: u16, len: u32| {
        let mut bytes = b"NEARWIRE".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(len.to_le_bytes());
        bytes
    };
    let mut truncated = envelope(1, 4);
    truncated.extend([1, 0, 1, 0]);
    for (bytes, what) in [
        (envelope(77, 0), "unknown kind 77"),
        (envelope(1, 1 << 30), "1073741824 bytes"),
        (envelope(4, 0), "Ready"),
        (truncated, "mode"),
    ] {
        let reject = reject_in(&answer_to(&socket, &bytes));
        assert_eq!(reject.code, RejectCode::Malformed, "{reject:?}");
        assert!(reject.text.contains(what), "{what:?} is not in {reject:?}");
    }
    works(&socket);
}

#[test]
fn a_client_of_another_version_is_told_both() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    let mut future = hello();
    future.versions = VersionRange { min: 7, max: 9 };
    let limits = ClientLimits {
        max_ring: 1 << 20,
        max_segment_len: 1 << 24,
    };
    let mut handshake = ClientHandshake::new(future, limits).unwrap();
    let answer = answer_to(&socket, handshake.hello());
    assert_eq!(reject_in(&answer).code, RejectCode::Version);
    let error = handshake.receive(&answer, 0).unwrap_err();
    assert!(
        matches!(error, HandshakeError::VersionMismatch { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("7 to 9") && text.contains("speaks 1"),
        "{text}"
    );
    assert!(text.contains("update the server"), "{text}");
    // Its Hello may look different behind the versions.
    let mut bytes = b"NEARWIRE\x01\0\0\0\x05\0\0\0".to_vec();
    bytes.extend([2, 0, 2, 0, 99]);
    let reject = reject_in(&answer_to(&socket, &bytes));
    assert_eq!(reject.code, RejectCode::Version);
    assert_eq!(reject.versions, VersionRange { min: 1, max: 1 });
    works(&socket);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    let refused = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        reject_in(&answer_to(&socket, &hello.encode().unwrap()))
    };
    let reject = refused(|hello| hello.layout_hash ^= 1);
    assert_eq!(reject.code, RejectCode::Layout);
    assert!(reject.text.contains("same version"), "{reject:?}");
    let reject = refused(|hello| hello.mode = Mode::Messages);
    assert_eq!(reject.code, RejectCode::Mode);
    let reject = refused(|hello| {
        hello.features_offered = 1 << 40;
        hello.features_required = 1 << 40;
    });
    assert_eq!(reject.code, RejectCode::Features);
    // The library's own client of the wrong kind.
    let error = nearwire::Connection::connect(&socket).unwrap_err();
    assert_eq!(rejected(error).0, RejectCode::Mode);
    works(&socket);
}

#[test]
fn silent_clients_are_turned_away_and_delay_nobody() {
    let place = Place::new();
    let server = place.start_ready("server", &[("handshake_ms", "700")]);
    let socket = place.socket(NAME);
    let begun = Instant::now();
    let hello = hello().encode().unwrap();
    let silent: Vec<_> = (0..60)
        .map(|n| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // Some say nothing, some half a word, some do not go on after the Welcome.
            let said = [0, 5, 30, hello.len()][n % 4];
            stream.write_all(&hello[..said]).unwrap();
            (stream, said == hello.len())
        })
        .collect();
    let others = Instant::now();
    for _ in 0..10 {
        works(&socket);
    }
    let took = others.elapsed();
    eprintln!("10 clients beside 60 silent ones: {took:?}");
    for (mut stream, welcomed) in silent {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(begun.elapsed() >= Duration::from_millis(700), "too early");
        let mut reader = MessageReader::new();
        // The Welcome's descriptors were not received, but it is cut off all the same.
        let mut message = reader
            .receive(&answer, if welcomed { 2 } else { 0 })
            .unwrap()
            .unwrap();
        if welcomed {
            assert_eq!(message.kind(), MessageKind::Welcome);
            message = reader.receive(&[], 0).unwrap().unwrap();
        }
        let reject = Reject::decode(message.body()).unwrap();
        assert_eq!(reject.code, RejectCode::Limits);
        assert!(reject.text.contains("too long"), "{reject:?}");
    }
    assert!(
        took < Duration::from_secs(5),
        "silent clients delayed others: {took:?}"
    );
    crate::support::eventually("they are gone", || server.report()["connections"] == 0);
}

/// A server of one client, which says this and then waits for the client to leave.
fn fake_server(socket: &str, says: Vec<u8>) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&says);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_client_survives_servers_that_are_none() {
    let place = Place::new();
    let connect_to = |number: usize, says: Vec<u8>| {
        let socket = place.socket(&format!("fake{number}"));
        let server = fake_server(&socket, says);
        let connected = within(PATIENCE, "connecting to a fake", move || {
            let builder = ClientBuilder::new().timeout(Duration::from_secs(20));
            builder.connect_blocking(&socket).map(drop)
        });
        server.join().unwrap();
        match connected.unwrap_err() {
            Error::Handshake(error) => error,
            other => panic!("{other}"),
        }
    };
    let reject = |code, min, max, text: &str| Reject {
        code,
        versions: VersionRange { min, max },
        text: text.into(),
    };
    // Of another version.
    let error = connect_to(1, reject(RejectCode::Version, 4, 5, "").encode());
    let text = error.to_string();
    assert!(
        text.contains("speaks protocol version 1") && text.contains("4 to 5"),
        "{text}"
    );
    // With a reason that this version does not know.
    let error = connect_to(2, reject(RejectCode::Other(99), 1, 1, "moon").encode());
    assert!(
        error.to_string().contains("99") && error.to_string().contains("moon"),
        "{error}"
    );
    // Something else, nothing, half a message, and the wrong message.
    let error = connect_to(3, b"220 smtp ready\r\n".to_vec());
    assert!(
        matches!(error, HandshakeError::NotNearwire { .. }),
        "{error}"
    );
    let error = connect_to(4, vec![]);
    assert!(
        matches!(error, HandshakeError::Disconnected { .. }),
        "{error}"
    );
    let error = connect_to(5, b"NEARWIRE\x02\0\0\0\xff\0\0\0....".to_vec());
    assert!(
        matches!(error, HandshakeError::Disconnected { .. }),
        "{error}"
    );
    let error = connect_to(6, Ready { over_socket: false }.encode());
    assert!(
        matches!(error, HandshakeError::OutOfOrder { .. }),
        "{error}"
    );
    let close = Close {
        code: CloseCode::Internal,
        text: "out of luck".into(),
    };
    let error = connect_to(7, close.encode());
    assert!(error.to_string().contains("out of luck"), "{error}");
    let error = connect_to(8, pattern(9, 100_000));
    assert!(
        matches!(error, HandshakeError::NotNearwire { .. }),
        "{error}"
    );
}

#[test]
fn a_server_that_never_answers_costs_the_clients_timeout() {
    let place = Place::new();
    let socket = place.socket("mute");
    let _listener = UnixListener::bind(&socket).unwrap();
    within(PATIENCE, "a mute server", move || {
        let timeout = Duration::from_millis(200);
        let builder = ClientBuilder::new().timeout(timeout);
        let begun = Instant::now();
        let error = builder.connect_blocking(&socket).unwrap_err();
        assert!(begun.elapsed() >= timeout);
        assert!(error.to_string().contains("does not answer"), "{error}");
    });
}

#[test]
fn a_server_whose_backlog_is_full_costs_the_clients_timeout() {
    let place = Place::new();
    let socket = place.socket("full");
    let address = rustix::net::SocketAddrUnix::new(&socket).unwrap();
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    );
    let listener = listener.unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _in_the_backlog = UnixStream::connect(&socket).unwrap();
    within(PATIENCE, "a full backlog", move || {
        let timeout = Duration::from_millis(200);
        let builder = ClientBuilder::new().timeout(timeout);
        let begun = Instant::now();
        let error = builder.connect_blocking(&socket).unwrap_err();
        assert!(begun.elapsed() >= timeout);
        assert!(error.to_string().contains("does not answer"), "{error}");
    });
}

#[test]
fn the_step_after_a_welcome_is_checked_as_well() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    // An Accept without descriptors.
    let mut bytes = hello().encode().unwrap();
    bytes.extend(nearwire::proto::handshake::Accept { segment_len: 1 }.encode());
    let answer = answer_to(&socket, &bytes);
    let mut reader = MessageReader::new();
    let welcome = reader.receive(&answer, 2).unwrap().unwrap();
    assert_eq!(welcome.kind(), MessageKind::Welcome);
    let message = reader.receive(&[], 0).unwrap().unwrap();
    let reject = Reject::decode(message.body()).unwrap();
    assert_eq!(reject.code, RejectCode::Malformed, "{reject:?}");
    // The same Welcome is acceptable to the client's end of the protocol.
    let limits = ClientLimits {
        max_ring: 1 << 20,
        max_segment_len: 1 << 24,
    };
    let mut handshake = ClientHandshake::new(hello(), limits).unwrap();
    let step = handshake.receive(&answer, 2).unwrap();
    assert!(matches!(step, ClientStep::Welcome(_)));
    works(&socket);
}
