//! Peers that break the rules: what a connection takes, and what ends it.

use super::bytes::ByteRx;
use super::open::Open;
use super::{ByteStream, Connection, Received};
use crate::client::ClientBuilder;
use crate::error::{CloseReason, Error, Violation};
use crate::link::{Link, Outgoing, Tx, stage_frame};
use crate::listener::ListenerBuilder;
use crate::proto::frame::{Header, Kind, Tag};
use crate::proto::mode::Mode;
use crate::server::Limits;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Runs `test` with a name that nobody else uses.
fn with_name<T>(test: impl FnOnce(&str) -> T) -> T {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let unique = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    let directory = std::env::temp_dir().join(format!("nearwire-stream-{}-{}", unique.0, unique.1));
    std::fs::create_dir(&directory).unwrap();
    #[cfg(unix)]
    {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&directory, private).unwrap();
    }
    let result = test(directory.join("socket").to_str().unwrap());
    std::fs::remove_dir_all(directory).unwrap();
    result
}

fn listener() -> ListenerBuilder {
    ListenerBuilder::new().limits(Limits {
        max_message: 100_000,
        ..Limits::default()
    })
}

/// A connection, and the other end without any manners.
fn messages() -> (Connection, Link) {
    // Smaller than the largest message.
    let client = ClientBuilder::new().ring(64 << 10);
    with_name(|name| {
        let listener = listener().bind(name).unwrap();
        let link = client.link(name, Mode::Messages).unwrap();
        (listener.accept().unwrap(), link)
    })
}

fn bytes() -> (ByteStream, Link) {
    with_name(|name| {
        let listener = listener().bind_bytes(name).unwrap();
        let link = ClientBuilder::new().link(name, Mode::Bytes).unwrap();
        (listener.accept().unwrap(), link)
    })
}

fn push(tx: &mut Tx, kind: Kind, body: &[u8]) {
    assert!(tx.stage(Tag::of(kind).to_bits(), body).unwrap());
    tx.publish();
}

fn violation<T: std::fmt::Debug, E: Into<Error> + std::fmt::Debug>(
    result: Result<T, E>,
    what: &str,
) {
    let error = result.unwrap_err().into();
    let named = matches!(&error, Error::Protocol(Violation::Frame(text)) if text.contains(what));
    assert!(named, "{error}");
}

#[test]
fn a_frame_of_another_mode_ends_the_connection() {
    let (mut connection, mut link) = messages();
    push(&mut link.tx, Kind::Message, b"fine");
    push(&mut link.tx, Kind::Request, &[0; 16]);
    push(&mut link.tx, Kind::Message, b"too late");
    let mut message = Vec::new();
    assert!(connection.recv(&mut message).unwrap());
    assert_eq!(message, b"fine");
    violation(connection.recv(&mut message), "a Request frame");
    violation(connection.recv(&mut message), "a Request frame");
    violation(connection.try_recv(&mut message), "a Request frame");
    violation(connection.send(b"?"), "a Request frame");
    // The peer is told.
    link.shared.read_last_word();
    let told = link.shared.closed().cloned();
    let reason = matches!(&told, Some(CloseReason::PeerSays(text)) if text.contains("a Request"));
    assert!(reason, "{told:?}");
}

#[test]
fn frames_that_do_not_decode_end_the_connection() {
    let (mut connection, mut link) = messages();
    assert!(link.tx.stage(200, b"what?").unwrap());
    link.tx.publish();
    violation(connection.recv(&mut Vec::new()), "kind");

    let (mut stream, mut link) = bytes();
    push(&mut link.tx, Kind::Bytes, b"");
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");

    let (mut stream, mut link) = bytes();
    push(&mut link.tx, Kind::Bytes, b"fine");
    push(&mut link.tx, Kind::Message, b"not bytes");
    push(&mut link.tx, Kind::Bytes, b"too late");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 4);
    for _ in 0..2 {
        let error = stream.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn messages_above_the_limit_end_the_connection() {
    let with_header = |header: &Header, body: &[u8]| {
        let (mut connection, mut link) = messages();
        assert!(stage_frame(&mut link.tx, header, body).unwrap());
        link.tx.publish();
        violation(connection.recv(&mut Vec::new()), "100001");
    };
    let too_large = Header {
        fragment: crate::proto::frame::Fragment::First { total: 100_001 },
        ..Header::new(Kind::Message, 0)
    };
    with_header(&too_large, &[0; 100]);

    // In one piece: possible if the ring is larger than the limit.
    let (mut connection, mut link) = with_name(|name| {
        let limits = Limits {
            max_message: 1000,
            ..Limits::default()
        };
        let listener = ListenerBuilder::new().limits(limits).bind(name).unwrap();
        let link = ClientBuilder::new().link(name, Mode::Messages).unwrap();
        (listener.accept().unwrap(), link)
    });
    push(&mut link.tx, Kind::Message, &[1; 1000]);
    push(&mut link.tx, Kind::Message, &[1; 1001]);
    assert!(connection.recv(&mut Vec::new()).unwrap());
    violation(connection.recv(&mut Vec::new()), "1001");
}

#[test]
fn an_end_in_the_middle_of_a_message_is_no_orderly_end() {
    let (mut connection, mut link) = messages();
    let mut outgoing = Outgoing::new(&link.tx, Header::new(Kind::Message, 0), [0; 70_000]);
    assert!(!outgoing.stage(&mut link.tx).unwrap());
    link.tx.publish();
    let mut message = Vec::new();
    assert_eq!(
        connection.try_recv(&mut message).unwrap(),
        Received::Nothing
    );
    link.tx.close();
    violation(connection.recv(&mut message), "middle of a message");
}

#[test]
fn finish_frames_end_a_direction_and_small_talk_is_ignored() {
    let (mut connection, mut link) = messages();
    let ping = Header::new(Kind::Ping, 0);
    assert!(stage_frame(&mut link.tx, &ping, &[7; 8]).unwrap());
    push(&mut link.tx, Kind::Message, b"last");
    push(&mut link.tx, Kind::Finish, b"");
    push(&mut link.tx, Kind::Message, b"after the end");
    let mut message = Vec::new();
    assert!(connection.recv(&mut message).unwrap());
    assert_eq!(message, b"last");
    assert!(!connection.recv(&mut message).unwrap());
    assert_eq!(
        connection.try_recv(&mut message).unwrap(),
        Received::Finished
    );

    let (mut stream, mut link) = bytes();
    assert!(stage_frame(&mut link.tx, &ping, &[7; 8]).unwrap());
    push(&mut link.tx, Kind::Bytes, b"last");
    push(&mut link.tx, Kind::Finish, b"");
    push(&mut link.tx, Kind::Bytes, b"after the end");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
}

#[test]
fn a_record_that_changes_while_it_is_read_ends_the_connection() {
    let (link, other) = with_name(|name| {
        let listener = listener().bind_bytes(name).unwrap();
        let link = ClientBuilder::new().link(name, Mode::Bytes).unwrap();
        (link, listener.accept().unwrap())
    });
    let open = Open::new(link.shared.clone(), None);
    let mut reading = ByteRx::new(link.rx, open);
    let (_reader, mut writer) = other.split();
    writer.write_all(b"twenty bytes or less").unwrap();
    assert_eq!(reading.read(&mut [0; 15]).unwrap(), 15);
    // As if the record had been longer when its first part was read.
    reading.at = 20;
    violation(reading.read(&mut [0; 10]), "changed while it was read");
}
