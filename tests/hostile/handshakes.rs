//! Segments, descriptors and messages that no honest client sends: each is refused by name, and
//! nothing of it stays.

use crate::bystander::Bystanders;
use crate::raw::{
    CAPACITY, Pages, SEALS, Welcomed, doorbell, hello, len_of_segment, receive, segment, send,
};
use crate::server::NAME;
use crate::support::{Place, within};
use nearwire::proto::handshake::{Accept, RejectCode};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longer than a refusal takes, shorter than any of the waits that hostile peers set up.
const AT_ONCE: Duration = Duration::from_secs(5);

fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("hostile", flags).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn bell() -> OwnedFd {
    doorbell().1
}

fn some_file(place: &Place) -> OwnedFd {
    let path = place.path().join("file");
    let mut file = File::options();
    let file = file.read(true).write(true).create(true).truncate(false);
    let file = file.open(path).unwrap();
    file.set_len(len_of_segment() as u64).unwrap();
    file.into()
}

#[test]
fn wrong_descriptors_are_refused_by_name() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let len = len_of_segment() as u64;
    let honest = || segment(len_of_segment(), SEALS).0;
    let without = |seal: SealFlags| memfd(len, SEALS.difference(seal));
    let unix = || UnixStream::pair().unwrap();
    let read_only = || File::open("/proc/self/exe").unwrap();
    let mut cases: Vec<(&str, Vec<OwnedFd>, RejectCode, &str)> = Vec::new();
    let mut case = |what, fds, code, text| cases.push((what, fds, code, text));
    use RejectCode::{Malformed, Segment};
    case(
        "no seals",
        vec![memfd(len, SealFlags::empty()), bell()],
        Segment,
        "sealed",
    );
    case(
        "no SHRINK",
        vec![without(SealFlags::SHRINK), bell()],
        Segment,
        "sealed",
    );
    case(
        "no GROW",
        vec![without(SealFlags::GROW), bell()],
        Segment,
        "sealed",
    );
    case(
        "no FUTURE_WRITE",
        vec![without(SealFlags::FUTURE_WRITE), bell()],
        Segment,
        "sealed",
    );
    case(
        "no SEAL",
        vec![without(SealFlags::SEAL), bell()],
        Segment,
        "sealed",
    );
    case(
        "too small",
        vec![memfd(len - 4096, SEALS), bell()],
        Segment,
        "bytes, agreed",
    );
    case(
        "empty",
        vec![memfd(0, SEALS), bell()],
        Segment,
        "bytes, agreed",
    );
    case(
        "too large",
        vec![memfd(len + 4096, SEALS), bell()],
        Segment,
        "bytes, agreed",
    );
    case(
        "huge",
        vec![memfd(1 << 40, SEALS), bell()],
        Segment,
        "bytes, agreed",
    );
    case(
        "zeroed",
        vec![memfd(len, SEALS), bell()],
        Segment,
        "does not begin like",
    );
    case(
        "a regular file",
        vec![some_file(&place), bell()],
        Segment,
        "anonymous",
    );
    case(
        "a program",
        vec![read_only().into(), bell()],
        Segment,
        "anonymous",
    );
    case(
        "a socket as segment",
        vec![unix().0.into(), bell()],
        Segment,
        "anonymous",
    );
    case("swapped", vec![bell(), honest()], Segment, "anonymous");
    case(
        "a memfd as doorbell",
        vec![honest(), honest()],
        Segment,
        "doorbell",
    );
    case(
        "a file as doorbell",
        vec![honest(), some_file(&place)],
        Segment,
        "doorbell",
    );
    case("one descriptor", vec![honest()], Malformed, "descriptor");
    case("none", vec![], Malformed, "descriptor");
    case(
        "three",
        vec![honest(), bell(), bell()],
        Malformed,
        "descriptor",
    );
    case(
        "four",
        vec![honest(), bell(), honest(), bell()],
        Malformed,
        "descriptor",
    );
    for (what, fds, code, text) in cases {
        let client = Welcomed::connect(&socket).unwrap();
        let begun = Instant::now();
        let reject = client.refused(fds);
        let reject = reject.unwrap_or_else(|| panic!("{what}: no Reject"));
        assert_eq!(reject.code, code, "{what}: {reject:?}");
        assert!(reject.text.contains(text), "{what}: {reject:?}");
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
    }
    // More than a message can carry here: the rest is closed by the kernel or by the server.
    for count in [5, 64, 253] {
        let client = Welcomed::connect(&socket).unwrap();
        let one = bell();
        let fds = (0..count).map(|_| one.try_clone().unwrap()).collect();
        let begun = Instant::now();
        client.refused(fds);
        assert!(begun.elapsed() < AT_ONCE, "{count} descriptors");
    }
    bystanders.unharmed();
}

#[test]
fn descriptors_sent_in_a_loop_are_not_collected() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let one = bell();
    let mut sent = 0;
    for round in 0..200 {
        let client = Welcomed::connect(&socket).unwrap();
        let accept = Accept {
            segment_len: client.welcome.client_segment_len,
        };
        // With every single byte of the Accept some more.
        for byte in accept.encode() {
            let fds: Vec<_> = (0..4).map(|_| one.try_clone().unwrap()).collect();
            if send(&client.control, &[byte], &fds).is_err() {
                break;
            }
            sent += 4;
        }
        if round % 2 == 0 {
            // Reads what it is told; the others just leave.
            client.verdict();
        }
    }
    eprintln!("{sent} descriptors were sent");
    bystanders.unharmed();
}

#[test]
fn half_handshakes_and_silence_leave_nothing() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let hello = hello().encode().unwrap();
    let mut silent = Vec::new();
    for n in 0..120 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let said = [0, 1, 15, 16, hello.len() - 1, hello.len()][n % 6];
        stream.write_all(&hello[..said]).unwrap();
        match n % 3 {
            0 => silent.push(stream),
            1 => drop(stream),
            _ => {
                // With descriptors where none belong.
                let _ = send(&stream, b"N", &[bell(), bell()]);
            }
        }
    }
    // The server gives each of them its handshake time and no more.
    let begun = Instant::now();
    for mut stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    // And some that take their Welcome and go.
    for n in 0..60 {
        let client = Welcomed::connect(&socket).unwrap();
        if n % 2 == 0 {
            let mut none = Vec::new();
            let _ = send(&client.control, &[0; 7], &[]);
            let _ = client.control.shutdown(std::net::Shutdown::Write);
            let _ = receive(&client.control, &mut none);
        }
    }
    bystanders.unharmed();
}

/// A TCP socket whose close waits for an hour: it lingers, and what it has to send nobody takes.
/// The other end must be kept.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 65536]).is_ok() {}
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&stream, hour).unwrap();
    (stream.into(), other)
}

/// A client that sends lingering descriptors, on a thread of its own: whoever lets go of one last waits,
/// and that may be this process as well.
fn sender(send: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(send)
}

#[test]
fn closing_what_a_client_sent_does_not_hold_the_server_up() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let mut kept = Vec::new();
    let mut lingering = || {
        let (fd, other) = lingering();
        kept.push(other);
        fd
    };
    // As a doorbell, as a segment, as one too many, with the first byte, and unread.
    let cases: Vec<Vec<OwnedFd>> = vec![
        vec![segment(len_of_segment(), SEALS).0, lingering()],
        vec![lingering(), bell()],
        vec![segment(len_of_segment(), SEALS).0, bell(), lingering()],
        (0..6).map(|_| lingering()).collect(),
    ];
    let mut senders = Vec::new();
    for fds in cases {
        let client = Welcomed::connect(&socket).unwrap();
        senders.push(sender(move || drop(client.refused(fds))));
    }
    let (early, fd) = (UnixStream::connect(&socket).unwrap(), lingering());
    senders.push(sender(move || {
        let _ = send(&early, b"N", &[fd]);
    }));
    let (client, fd) = (Welcomed::connect(&socket).unwrap(), lingering());
    senders.push(sender(move || {
        let _ = send(&client.control, b"not an Accept", &[]);
        let _ = send(&client.control, b"more", &[fd]);
    }));
    // On an established connection.
    let raw = crate::raw::Raw::connect(&socket).unwrap();
    let fds = [lingering(), lingering(), lingering()];
    senders.push(sender(move || {
        for fd in fds {
            let _ = send(&raw.control, &[0; 4], &[fd]);
        }
    }));
    // Until all of it has come.
    std::thread::sleep(Duration::from_millis(500));
    within(AT_ONCE, "the next clients", move || {
        for _ in 0..10 {
            let mut client = nearwire::BlockingClient::connect(&socket).unwrap();
            assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
        }
    });
    drop(kept);
    for sender in senders {
        sender.join().unwrap();
    }
    bystanders.unharmed();
}

#[test]
fn the_servers_segment_cannot_be_changed_from_outside() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let client = Welcomed::connect(&place.socket(NAME)).unwrap();
    let theirs = &client.fds[0];
    let len = client.welcome.server_segment_len as usize;
    assert!(Pages::map(theirs, len, false).is_ok());
    assert!(Pages::map(theirs, len, true).is_err(), "mapped for writing");
    assert!(rustix::io::pwrite(theirs, b"x", 0).is_err(), "written");
    assert!(rustix::fs::ftruncate(theirs, 0).is_err(), "truncated");
    assert!(rustix::fs::ftruncate(theirs, 1 << 30).is_err(), "grown");
    assert!(
        rustix::fs::fcntl_add_seals(theirs, SealFlags::WRITE).is_err(),
        "sealed"
    );
    let modes = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(theirs, modes, 0, CAPACITY as u64);
    assert!(punched.is_err(), "a hole was punched");
    let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(theirs));
    if let Ok(again) = File::options().read(true).write(true).open(path) {
        assert!(
            Pages::map(&again, len, true).is_err(),
            "opened again and mapped"
        );
        assert!(
            rustix::io::pwrite(&again, b"x", 0).is_err(),
            "opened again and written"
        );
    }
    drop(client);
    bystanders.unharmed();
}

#[test]
fn a_locked_directory_keeps_a_server_waiting_for_seconds_at_most() {
    let place = Place::new();
    let directory = File::open(place.path()).unwrap();
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let socket = place.socket("locked");
    let error = within(Duration::from_secs(30), "binding", move || {
        nearwire::Server::builder().bind(&socket).unwrap_err()
    });
    assert!(
        error.to_string().contains("lock the socket directory"),
        "{error}"
    );
    drop(directory);
    assert!(
        nearwire::Server::builder()
            .bind(&place.socket("locked"))
            .is_ok()
    );
}
