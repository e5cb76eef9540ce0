//! The socket transport, byte by byte, by hand: what a server takes and what it does not.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, Process, eventually, pattern, within};
use nearwire::proto::handshake::{
    ClientHandshake, ClientLimits, ClientStep, Close, CloseCode, ENVELOPE_LEN,
    FEATURE_SOCKET_TRANSPORT, Hello, MAX_SOCKET_RING, Method, VersionRange,
};
use nearwire::proto::mode::Mode;
use nearwire::{BlockingClient, ClientBuilder, Transport, TransportPolicy};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client that has shaken hands for the socket transport.
struct Raw {
    socket: UnixStream,
    methods: Arc<[Method]>,
}

const COMMITTED: u64 = 1 << 31;
const PAD: u64 = 1 << 30;
const REQUEST: u64 = 1;

impl Raw {
    fn connect(path: &str) -> Self {
        let hello = Hello {
            versions: VersionRange { min: 1, max: 1 },
            mode: Mode::Calls,
            features_offered: FEATURE_SOCKET_TRANSPORT,
            features_required: FEATURE_SOCKET_TRANSPORT,
            layout_hash: nearwire::layout::LAYOUT_HASH,
            ring_to_server: 1 << 20,
            ring_to_client: 1 << 20,
            max_message: 1 << 20,
            pid: std::process::id(),
            stream_credits: 16,
            label: "by hand".into(),
        };
        let limits = ClientLimits {
            max_ring: 1 << 20,
            max_segment_len: 1 << 21,
        };
        let mut handshake = ClientHandshake::new(hello, limits).unwrap();
        let mut socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(handshake.hello()).unwrap();
        let next = |socket: &mut UnixStream, handshake: &mut ClientHandshake| {
            let mut buffer = [0; 4096];
            loop {
                let count = socket.read(&mut buffer).unwrap();
                match handshake.receive(&buffer[..count], 0).unwrap() {
                    ClientStep::NeedMore => assert!(count > 0, "the server is gone"),
                    step => return step,
                }
            }
        };
        let ClientStep::Welcome(welcome) = next(&mut socket, &mut handshake) else {
            panic!("no Welcome")
        };
        assert_eq!(welcome.server_segment_len, 0);
        socket.write_all(&handshake.accept(0).unwrap()).unwrap();
        assert_eq!(next(&mut socket, &mut handshake), ClientStep::Ready);
        assert!(handshake.is_over_socket());
        Self {
            socket,
            methods: welcome.methods,
        }
    }

    fn method(&self, name: &str) -> u64 {
        let found = self.methods.iter().position(|method| &*method.name == name);
        found.unwrap() as u64
    }

    /// A request for one reply, as on the wire.
    fn request(&self, method: &str, id: u64, payload: &[u8]) -> Vec<u8> {
        let len = 8 + payload.len() as u64;
        let word = COMMITTED | len | (REQUEST | self.method(method) << 16) << 32;
        let mut bytes = word.to_le_bytes().to_vec();
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0xa5);
        bytes
    }

    /// The next frame: first word, and body without the padding. `None` at the end of the
    /// direction.
    fn frame(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut word = [0; 8];
        self.socket.read_exact(&mut word).unwrap();
        let word = u64::from_le_bytes(word);
        if word == COMMITTED | PAD | 1 << 32 {
            return None;
        }
        assert_eq!(word & (COMMITTED | PAD), COMMITTED, "{word:#x}");
        let len = (word & (PAD - 1)) as usize;
        let mut body = vec![0; len.next_multiple_of(8)];
        self.socket.read_exact(&mut body).unwrap();
        assert!(body[len..].iter().all(|&byte| byte == 0));
        body.truncate(len);
        Some((word, body))
    }

    /// Reads to the end of the file and finds the server's last word.
    fn last_word(mut self) -> Close {
        let mut rest = Vec::new();
        if let Err(error) = self.socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        let at = rest.windows(8).position(|bytes| bytes == b"NEARWIRE");
        let at = at.unwrap_or_else(|| panic!("no last word in {rest:?}"));
        Close::decode(&rest[at + ENVELOPE_LEN..]).unwrap()
    }
}

fn still_serves(place: &Place) {
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    let request = pattern(9, 100_000);
    assert!(client.call_bytes("echo", &request).unwrap() == request);
}

fn server(place: &Place) -> Process {
    place.start_ready("server", &[("transport", "any")])
}

#[test]
fn frames_may_come_in_any_pieces() {
    let place = Place::new();
    let _server = server(&place);
    let path = place.socket(NAME);
    within(PATIENCE, "pieces", move || {
        for piece in [1, 3, 7, 8, 9, 24, 1000] {
            let mut client = Raw::connect(&path);
            let mut bytes = Vec::new();
            for id in 0..20u64 {
                bytes.extend(client.request("echo_into", id, &pattern(id, id as usize * 11)));
            }
            for piece in bytes.chunks(piece) {
                client.socket.write_all(piece).unwrap();
            }
            for id in 0..20u64 {
                let (word, body) = client.frame().unwrap();
                assert_eq!(word >> 32, 2, "a reply without flags");
                assert_eq!(body[..8], id.to_le_bytes());
                assert!(body[8..] == pattern(id, id as usize * 11));
            }
        }
    });
}

#[test]
fn what_no_honest_client_sends_ends_its_connection_alone() {
    let place = Place::new();
    let server = server(&place);
    let path = place.socket(NAME);
    within(PATIENCE, "violations over the socket", move || {
        let longest = u64::from(MAX_SOCKET_RING) / 2 - 8;
        let end = COMMITTED | PAD | 1 << 32;
        let frame = COMMITTED | REQUEST << 32;
        let cases: [(&str, Vec<u64>); 7] = [
            ("too long a frame", vec![frame | (longest + 1)]),
            ("the longest length there is", vec![frame | (PAD - 1)]),
            ("a filler", vec![COMMITTED | PAD | 8, 0]),
            ("zeros", vec![0, 0]),
            ("text", vec![u64::from_le_bytes(*b"GET / HT")]),
            (
                "a handshake message",
                vec![u64::from_le_bytes(*b"NEARWIRE"), 4],
            ),
            ("a frame behind the end", vec![end, frame | 8, 1]),
        ];
        for (what, words) in cases {
            let mut client = Raw::connect(&path);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            client.socket.write_all(&bytes).unwrap();
            if what.contains("behind the end") {
                // An orderly end may have been taken for one before the rest came.
                drop(client);
                continue;
            }
            assert_eq!(client.last_word().code, CloseCode::Violation, "{what}");
        }
        // A length that is allowed and of which the body never comes holds nobody up.
        let mut silent = Raw::connect(&path);
        silent
            .socket
            .write_all(&(frame | longest).to_le_bytes())
            .unwrap();
        let mut client = BlockingClient::connect(&path).unwrap();
        assert_eq!(
            client.call_bytes("echo", b"in between").unwrap(),
            b"in between"
        );
    });
    still_serves(&place);
    eventually("their connections are closed", || {
        server.report()["connections"] == 0
    });
}

#[test]
fn descriptors_are_closed_and_end_the_connection() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::os::fd::AsFd;
    let place = Place::new();
    let server = server(&place);
    // Before the first connection: when one has ended, a thread may still be closing what it left.
    let before = server.report()["descriptors"];
    still_serves(&place);
    eventually("nobody is connected", || {
        server.report()["connections"] == 0
    });
    let client = Raw::connect(&place.socket(NAME));
    let request = client.request("echo_into", 1, b"with a descriptor");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    // Not the connection's own: a socket that a peer sent is shut down before it is closed.
    let (sent, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let descriptors = [sent.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let bytes = [std::io::IoSlice::new(&request)];
    let flags = SendFlags::empty();
    rustix::net::sendmsg(&client.socket, &bytes, &mut ancillary, flags).unwrap();
    assert_eq!(client.last_word().code, CloseCode::Violation);
    eventually("all descriptors are closed", || {
        server.report()["descriptors"] == before
    });
}

/// Requests whose replies are not read stop being read, and take no memory from there on.
#[test]
fn a_client_that_does_not_read_is_not_served_and_costs_a_bounded_amount() {
    let place = Place::new();
    let server = server(&place);
    still_serves(&place);
    let before = server.resident();
    let mut clients: Vec<_> = (0..20).map(|_| Raw::connect(&place.socket(NAME))).collect();
    let mut sent = 0;
    for client in &mut clients {
        client.socket.set_nonblocking(true).unwrap();
        let request = client.request("echo_into", 1, &pattern(1, 1000));
        let deadline = Instant::now() + Duration::from_millis(300);
        while Instant::now() < deadline {
            match client.socket.write(&request) {
                // A part of one more: it goes no further.
                Ok(count) if count < request.len() => break,
                Ok(count) => sent += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
    still_serves(&place);
    let grown = server.resident().saturating_sub(before);
    // Two kernel buffers, two rings, a batch, a read: no more gets in per connection.
    assert!(sent < 20 * (2 << 20), "{sent} bytes were taken");
    assert!(grown < 20 * (1 << 20), "{grown} bytes for 20 connections");
    let cpu = server.cpu_times();
    std::thread::sleep(Duration::from_millis(300));
    let busy = server.cpu_time_since(&cpu);
    assert!(busy < Duration::from_millis(30), "busy for {busy:?}");
    drop(clients);
    eventually("their connections are closed", || {
        server.report()["connections"] == 0
    });
}

#[test]
fn each_side_may_insist_on_a_transport_and_is_told_if_there_is_none_in_common() {
    use TransportPolicy::{PreferSharedMemory, SharedMemoryOnly, SocketOnly};
    let place = Place::new();
    let servers = [
        ("any", "any"),
        ("socket", "socket"),
        ("shared", "shared memory"),
    ];
    let _servers = servers.map(|(name, transport)| {
        if !cfg!(feature = "spsc_transport") && name == "shared" {
            return None;
        }
        let settings = [("name", name), ("transport", transport)];
        Some(place.start_ready("server", &settings))
    });
    let connect = |server: &str, policy| {
        let client = ClientBuilder::new().transport(policy);
        client.connect_blocking(&place.socket(server))
    };
    let carried = |server: &str, policy| {
        let mut client = connect(server, policy).unwrap();
        let request = pattern(3, 70_000);
        assert!(client.call_bytes("echo", &request).unwrap() == request);
        client.info().transport
    };
    assert_eq!(carried("any", SocketOnly), Transport::Socket);
    assert_eq!(carried("socket", PreferSharedMemory), Transport::Socket);
    assert_eq!(carried("socket", SocketOnly), Transport::Socket);
    if !cfg!(feature = "spsc_transport") {
        assert_eq!(carried("any", PreferSharedMemory), Transport::Socket);
        let error = connect("any", SharedMemoryOnly).unwrap_err();
        assert!(error.to_string().contains("spsc_transport"), "{error}");
        return;
    }
    assert_eq!(carried("any", PreferSharedMemory), Transport::SharedMemory);
    assert_eq!(carried("any", SharedMemoryOnly), Transport::SharedMemory);
    let shared = "shared";
    assert_eq!(carried(shared, PreferSharedMemory), Transport::SharedMemory);
    let error = connect("socket", SharedMemoryOnly).unwrap_err().to_string();
    assert!(
        error.contains("the server takes the socket transport alone"),
        "{error}"
    );
    let error = connect(shared, SocketOnly).unwrap_err().to_string();
    assert!(
        error.contains("the client takes the socket transport alone"),
        "{error}"
    );
}

/// The limit, and a process that may not have more address space.
#[cfg(feature = "spsc_transport")]
#[test]
fn where_shared_memory_is_refused_the_socket_takes_its_place() {
    let place = Place::new();
    let settings = [
        ("name", "small"),
        ("max_mapped", "100000"),
        ("transport", "any"),
    ];
    let _server = place.start_ready("server", &settings);
    let connect = |policy| {
        let client = ClientBuilder::new().transport(policy);
        client.connect_blocking(&place.socket("small"))
    };
    let mut client = connect(TransportPolicy::PreferSharedMemory).unwrap();
    assert_eq!(client.info().transport, Transport::Socket);
    let request = pattern(4, 200_000);
    assert!(client.call_bytes("echo", &request).unwrap() == request);
    let error = connect(TransportPolicy::SharedMemoryOnly).unwrap_err();
    assert!(error.to_string().contains("max_mapped"), "{error}");

    let settings = [("name", "roomy"), ("transport", "any")];
    let _server = place.start_ready("server", &settings);
    let client = place.start_ready("cramped", &[("name", "roomy")]);
    client.expect("socket");
}

/// One server, clients of every kind at the same time.
#[cfg(feature = "mpmc_transport")]
#[test]
fn one_server_serves_mpmc_clients_and_others_at_the_same_time() {
    use TransportPolicy::{MpmcOnly, PreferMpmc, PreferSharedMemory, SharedMemoryOnly, SocketOnly};
    let place = Place::new();
    let _servers = [
        ("both", "prefer mpmc"),
        ("mpmc", "mpmc"),
        ("spsc", "shared memory"),
    ]
    .map(|(name, transport)| {
        let settings = [("name", name), ("transport", transport), ("workers", "2")];
        place.start_ready("server", &settings)
    });
    let connect = |server: &str, policy| {
        let client = ClientBuilder::new().transport(policy);
        client.connect_blocking(&place.socket(server))
    };
    let mut clients: Vec<_> = [
        ("both", MpmcOnly, Transport::Mpmc),
        ("both", PreferMpmc, Transport::Mpmc),
        ("both", PreferSharedMemory, Transport::SharedMemory),
        ("both", SharedMemoryOnly, Transport::SharedMemory),
        ("both", SocketOnly, Transport::Socket),
        ("mpmc", PreferMpmc, Transport::Mpmc),
        ("mpmc", MpmcOnly, Transport::Mpmc),
        ("spsc", PreferMpmc, Transport::SharedMemory),
    ]
    .into_iter()
    .map(|(server, policy, carried)| {
        let client = connect(server, policy).unwrap();
        assert_eq!(client.info().transport, carried, "{server}, {policy:?}");
        client
    })
    .collect();
    for n in 0..50 {
        for (seed, client) in clients.iter_mut().enumerate() {
            let request = pattern(seed as u64, 1 + n * 2_000);
            assert!(client.call_bytes("echo", &request).unwrap() == request);
        }
    }
    let error = connect("spsc", MpmcOnly).unwrap_err().to_string();
    let text = "the client takes the mpmc transport alone, which the server does not offer";
    assert!(error.contains(text), "{error}");
    for policy in [SharedMemoryOnly, SocketOnly] {
        let error = connect("mpmc", policy).unwrap_err().to_string();
        let text = "the server takes the mpmc transport alone, which the client does not offer";
        assert!(
            error.contains(text) || error.contains("the socket transport alone"),
            "{error}"
        );
    }
}

/// Far more than the queue has room for, to a server that does not take it for a while: nobody's
/// thread is held, and nothing is lost.
#[cfg(feature = "mpmc_transport")]
#[test]
fn an_mpmc_queue_that_is_full_keeps_what_is_sent_and_blocks_no_runtime() {
    use crate::support::{PATIENCE, within_async};
    let place = Place::new();
    let settings = [
        ("transport", "mpmc"),
        ("workers", "1"),
        ("max_ring", "4194304"),
    ];
    let server = place.start_ready("server", &settings);
    let name = place.socket(NAME);
    within_async(PATIENCE, "a full queue", async move {
        let builder = ClientBuilder::new()
            .transport(TransportPolicy::MpmcOnly)
            .ring(4 << 20);
        let blocked = builder.connect(&name).await.unwrap();
        let blocking = tokio::spawn({
            let blocked = blocked.clone();
            async move { blocked.call::<u64>("block_ms", &600u64).await }
        });
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        // 6 MB, where the queue has slots for 2.
        let clients = [builder.connect(&name).await, builder.connect(&name).await];
        let requests: Vec<_> = (0..30).map(|n| pattern(n, 200_000)).collect();
        let calls: Vec<_> = clients
            .into_iter()
            .map(Result::unwrap)
            .flat_map(|client| {
                requests.iter().map(move |request| {
                    let (client, request) = (client.clone(), request.clone());
                    tokio::spawn(async move {
                        client.call_bytes("echo_into", &request).await.unwrap() == request
                    })
                })
            })
            .collect();
        // This runtime has one thread: it still has time for others.
        let before = std::time::Instant::now();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(
            before.elapsed() < std::time::Duration::from_millis(450),
            "held up"
        );
        assert!(
            !blocking.is_finished(),
            "the server took requests meanwhile"
        );
        for call in calls {
            assert!(call.await.unwrap());
        }
        assert_eq!(blocking.await.unwrap().unwrap(), 600);
    });
    eventually("all is closed", || server.report()["connections"] == 0);
}
