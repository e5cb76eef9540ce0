//! Byte streams between two processes.

#![cfg(feature = "tokio")]

mod peer;
mod transports;

use nearwire::{AsyncByteStream, ByteStream, ClientBuilder, Spin};
use peer::{OtherSide, PATIENCE, Peer, Place, kill_self, pattern, soon_after};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A few MiB, and no multiple of anything.
const LONG: usize = (5 << 20) + 12_345;

/// Plays the other process.
#[test]
fn peer_process() {
    if let Some((role, name)) = peer::role() {
        play(&role, &name);
    }
}

/// As long as it is held, the other side of this thread's test is a thread.
fn across_threads() -> impl Drop {
    peer::put(OtherSide::OnThread(play))
}

/// As long as it is held, the other side of this thread's test is a task on this thread.
fn on_one_thread() -> impl Drop {
    peer::put(OtherSide::OnThisThread(|role, name| {
        assert_eq!(role, ECHO_IN_TOKIO);
        Box::pin(echo_in_tokio(name))
    }))
}

/// The other side.
fn play(role: &str, name: &str) {
    let connect = || ByteStream::connect(name).unwrap();
    match role {
        "echo" => {
            let (mut reader, mut writer) = connect().split();
            std::io::copy(&mut reader, &mut writer).unwrap();
            writer.finish();
        }
        "echo over the smallest rings" => {
            let stream = ClientBuilder::new()
                .ring(4096)
                .connect_bytes_blocking(name)
                .unwrap();
            let (mut reader, mut writer) = stream.split();
            std::io::copy(&mut reader, &mut writer).unwrap();
            writer.finish();
        }
        ECHO_IN_TOKIO => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(echo_in_tokio(name.to_owned()));
        }
        "a byte at a time" => {
            let mut stream = connect();
            for byte in pattern(5, 10_000) {
                assert_eq!(stream.write(&[byte]).unwrap(), 1);
            }
            stream.finish();
        }
        "lines" => {
            let mut stream = connect();
            for n in 0..1000 {
                writeln!(stream, "line {n}").unwrap();
            }
            stream.finish();
        }
        "write and die" => {
            let mut stream = connect();
            stream.write_all(&pattern(6, 10_000)).unwrap();
            kill_self();
        }
        "do nothing" => {
            let _stream = connect();
            std::thread::sleep(PATIENCE);
        }
        other => panic!("no role {other:?}"),
    }
}

const ECHO_IN_TOKIO: &str = "echo in Tokio";

async fn echo_in_tokio(name: String) {
    let stream = AsyncByteStream::connect(&name).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let copied = tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    assert_eq!(copied, LONG as u64);
    writer.shutdown().await.unwrap();
}

/// A listener's end of a stream to the other process.
fn accepted(place: &Place, role: &str, spin: Spin) -> (Peer, ByteStream) {
    let listener = place
        .listener()
        .spin(spin)
        .bind_bytes(&place.name())
        .unwrap();
    let peer = place.start(role);
    let stream = listener
        .accept_timeout(PATIENCE)
        .unwrap()
        .expect("a connection");
    assert_eq!(stream.peer().pid, peer.id());
    (peer, stream)
}

/// Sends bytes through the other process in pieces of changing length and checks what comes back,
/// read in pieces of other lengths.
fn through(role: &str, spin: Spin, longest_piece: usize) {
    let place = Place::new();
    let (peer, stream) = accepted(&place, role, spin);
    let (mut reader, mut writer) = stream.split();
    let sent = pattern(1, LONG);
    let expected = sent.clone();
    let writing = std::thread::spawn(move || {
        let (mut rest, mut len) = (&sent[..], 1);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(len.min(rest.len()));
            writer.write_all(piece).unwrap();
            rest = behind;
            len = (len * 3 + 1) % longest_piece + 1;
        }
        writer.finish();
        let error = writer.write_all(b"more").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
    let mut buffer = vec![0; 50_000];
    let (mut at, mut len) = (0, 1);
    loop {
        let count = reader.read(&mut buffer[..len]).unwrap();
        if count == 0 {
            break;
        }
        assert!(
            buffer[..count] == expected[at..at + count],
            "{count} bytes at {at}"
        );
        at += count;
        len = (len * 5 + 3) % 50_000 + 1;
    }
    assert_eq!(at, LONG);
    writing.join().unwrap();
    peer.join();
}

fn bytes_come_back_as_they_were() {
    through("echo", Spin::default(), 100_000);
}

fn bytes_come_back_as_they_were_when_everybody_sleeps() {
    through("echo", Spin::NEVER, 1 << 20);
}

fn bytes_come_back_as_they_were_through_small_rings() {
    through("echo over the smallest rings", Spin::default(), 3000);
}

fn single_bytes_are_visible_one_by_one() {
    let place = Place::new();
    let (peer, mut stream) = accepted(&place, "a byte at a time", Spin::default());
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).unwrap() == 1 {
        bytes.push(byte[0]);
    }
    assert!(bytes == pattern(5, 10_000));
    peer.join();
}

fn a_write_is_visible_without_a_flush() {
    let place = Place::new();
    let (_peer, mut stream) = accepted(&place, "echo", Spin::default());
    for n in 0..100 {
        let message = pattern(n, 1 + n as usize);
        assert_eq!(stream.write(&message).unwrap(), message.len());
        let mut answer = vec![0; message.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
    }
    assert_eq!(stream.read(&mut []).unwrap(), 0);
    assert_eq!(stream.write(&[]).unwrap(), 0);
    stream.finish();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

fn lines_arrive() {
    let place = Place::new();
    let (peer, stream) = accepted(&place, "lines", Spin::default());
    let (reader, _writer) = stream.split();
    let mut count = 0;
    for (n, line) in BufReader::new(reader).lines().enumerate() {
        assert_eq!(line.unwrap(), format!("line {n}"));
        count += 1;
    }
    assert_eq!(count, 1000);
    peer.join();
}

fn what_was_written_before_a_kill_arrives_and_then_a_reset() {
    let place = Place::new();
    let (mut peer, mut stream) = accepted(&place, "write and die", Spin::default());
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    assert!(bytes == pattern(6, 10_000), "{} bytes", bytes.len());
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    let error = stream.write_all(b"too late").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    peer.wait();
}

/// Kills the other process when this one has been blocked for a while.
fn kill_soon(mut peer: Peer) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        let killed = peer.kill();
        peer.wait();
        killed
    })
}

fn a_kill_ends_blocked_reads_and_writes() {
    let place = Place::new();
    let (peer, stream) = accepted(&place, "do nothing", Spin::default());
    let (mut reader, mut writer) = stream.split();
    let killer = kill_soon(peer);
    let writing = std::thread::spawn(move || writer.write_all(&pattern(1, LONG)).unwrap_err());
    let read = reader.read(&mut [0; 100]).unwrap_err();
    let written = writing.join().unwrap();
    soon_after(killer.join().unwrap(), "a read and a write");
    assert_eq!(read.kind(), ErrorKind::ConnectionReset, "{read}");
    assert_eq!(written.kind(), ErrorKind::ConnectionReset, "{written}");
}

async fn a_kill_ends_reads_and_writes_in_tokio() {
    let place = Place::new();
    let listener = place.listener().bind_bytes(&place.name()).unwrap();
    let peer = place.start("do nothing");
    let (mut reader, mut writer) = listener.accept_async().await.unwrap().split();
    let killer = kill_soon(peer);
    let bytes = pattern(1, LONG);
    let (read, written) = tokio::join!(reader.read_u8(), writer.write_all(&bytes));
    soon_after(killer.join().unwrap(), "a task's read and write");
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(written.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn writing_to_a_peer_that_dropped_its_end_is_a_broken_pipe() {
    let place = Place::new();
    let listener = place.listener().bind_bytes(&place.name()).unwrap();
    let mut client = ByteStream::connect(&place.name()).unwrap();
    drop(listener.accept().unwrap());
    let error = client.write_all(&pattern(1, LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

async fn tokio_copies_in_both_directions() {
    let place = Place::new();
    let listener = place.listener().bind_bytes(&place.name()).unwrap();
    let peer = place.start(ECHO_IN_TOKIO);
    let (mut reader, mut writer) = listener.accept_async().await.unwrap().split();
    let sent = pattern(2, LONG);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        let copied = tokio::io::copy(&mut &sent[..], &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
        let error = writer.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        copied
    });
    let mut received = Vec::new();
    let copied = tokio::io::copy(&mut reader, &mut received).await.unwrap();
    assert_eq!(copied, LONG as u64);
    assert_eq!(blake3::hash(&received), blake3::hash(&expected));
    assert_eq!(writing.await.unwrap(), LONG as u64);
    peer.join_async().await;
}

/// On one thread, with reads and writes that end early.
async fn dropped_reads_and_writes_lose_nothing() {
    let place = Place::new();
    let listener = place.listener().bind_bytes(&place.name()).unwrap();
    let mut client = AsyncByteStream::connect(&place.name()).await.unwrap();
    let mut server = listener.accept_async().await.unwrap();
    let short = Duration::from_micros(500);
    let sent = pattern(3, 1 << 20);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        let mut at = 0;
        while at < sent.len() {
            if let Ok(written) = tokio::time::timeout(short, client.write(&sent[at..])).await {
                at += written.unwrap();
            }
        }
    });
    let mut received = Vec::new();
    let mut buffer = vec![0; 7000];
    loop {
        match tokio::time::timeout(short, server.read(&mut buffer)).await {
            Ok(Ok(0)) => break,
            Ok(count) => received.extend_from_slice(&buffer[..count.unwrap()]),
            Err(_) => {}
        }
        if received.len() % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert!(received == expected);
    writing.await.unwrap();
}

crate::over_both_transports!(
    bytes_come_back_as_they_were,
    bytes_come_back_as_they_were_when_everybody_sleeps,
    bytes_come_back_as_they_were_through_small_rings,
    single_bytes_are_visible_one_by_one,
    a_write_is_visible_without_a_flush,
    lines_arrive,
    what_was_written_before_a_kill_arrives_and_then_a_reset,
    a_kill_ends_blocked_reads_and_writes,
    writing_to_a_peer_that_dropped_its_end_is_a_broken_pipe;
    on_one_thread:
    a_kill_ends_reads_and_writes_in_tokio,
    dropped_reads_and_writes_lose_nothing;
    on_threads:
    tokio_copies_in_both_directions,
);

crate::over_both_transports_and!(across_threads:
    bytes_come_back_as_they_were,
    bytes_come_back_as_they_were_when_everybody_sleeps,
    bytes_come_back_as_they_were_through_small_rings,
    single_bytes_are_visible_one_by_one,
    a_write_is_visible_without_a_flush,
    lines_arrive;
    on_threads:
    tokio_copies_in_both_directions,
);

crate::over_both_transports_and!(on_one_thread:;
    on_one_thread:
    tokio_copies_in_both_directions,
);
