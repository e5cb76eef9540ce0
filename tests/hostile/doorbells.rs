//! Doorbells that are none, or that their owner abuses: ringing one costs the other side a system
//! call and never holds it up. And: who is awake is not rung, who sleeps is rung once.

use crate::bystander::Bystanders;
use crate::raw::{Raw, SEALS, Welcomed, doorbell, len_of_segment, segment};
use crate::server::NAME;
use crate::support::child::{Commands, say};
use crate::support::{PATIENCE, Place, Settings, pattern};
use nearwire::layout::{DATA_PARKED_AT, SPACE_PARKED_AT};
use nearwire::proto::frame::{Header, Kind};
use nearwire::proto::handshake::RejectCode;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Number of the method `echo`.
pub fn echo(client: &Welcomed) -> u16 {
    let methods = &client.welcome.methods;
    let place = methods.iter().position(|method| &*method.name == "echo");
    place.expect("the server has it") as u16
}

/// A connection whose own bell is this.
fn with_bell(socket: &str, bell: OwnedFd, ring_end: OwnedFd) -> (Raw, u16) {
    let client = Welcomed::connect(socket).unwrap();
    let echo = echo(&client);
    let (fd, own) = segment(len_of_segment(), SEALS);
    (
        client.accept_with(own, bell, vec![fd, ring_end]).unwrap(),
        echo,
    )
}

#[test]
fn what_ringing_could_wait_for_is_refused() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let (_pipe, pipe) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
    let cases: Vec<(&str, OwnedFd)> = vec![
        ("an eventfd", eventfd(0, EventfdFlags::NONBLOCK).unwrap()),
        (
            "a blocking eventfd",
            eventfd(0, EventfdFlags::empty()).unwrap(),
        ),
        ("a pipe", pipe),
        ("a TCP socket", connected.into()),
        ("a TCP listener", tcp.into()),
        ("a datagram socket", datagrams.into()),
        ("an epoll", epoll.unwrap()),
    ];
    for (what, bell) in cases {
        let fd = segment(len_of_segment(), SEALS).0;
        let reject = Welcomed::connect(&socket).unwrap().refused(vec![fd, bell]);
        let reject = reject.unwrap_or_else(|| panic!("{what}: no Reject"));
        assert_eq!(reject.code, RejectCode::Segment, "{what}: {reject:?}");
        assert!(reject.text.contains("doorbell"), "{what}: {reject:?}");
    }
    bystanders.unharmed();
}

/// Calls as one that always sleeps, so that each answer rings its bell, and abuses the bell
/// meanwhile as the setting `how` says. Says how many calls it made.
pub fn abuse(settings: &Settings, commands: Commands) {
    let socket = settings.text("socket").expect("a socket");
    let (sleep_end, ring_end) = doorbell();
    let kept = ring_end.try_clone().unwrap();
    let (mut raw, echo) = with_bell(socket, sleep_end, ring_end);
    // What belongs to the open file is shared with the server: all of it is made hostile.
    let mut watches = Vec::new();
    match settings.text("how").expect("how") {
        "blocking" => {
            for end in [&kept, &raw.bell] {
                rustix::fs::fcntl_setfl(end, OFlags::empty()).unwrap();
            }
        }
        "small" => {
            for end in [&kept, &raw.bell] {
                rustix::net::sockopt::set_socket_send_buffer_size(end, 1).unwrap();
                rustix::net::sockopt::set_socket_recv_buffer_size(end, 1).unwrap();
            }
        }
        "full" => {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            while rustix::net::send(&raw.bell, &[0; 4096], flags).is_ok() {}
            assert!(
                rustix::net::send(&kept, &[0; 1], flags).is_err(),
                "the bell takes bytes"
            );
        }
        "shut" => {
            let _ = rustix::net::shutdown(&kept, rustix::net::Shutdown::Both);
            let _ = rustix::net::shutdown(&raw.bell, rustix::net::Shutdown::Both);
        }
        "crowd" => {
            // As many watches as the system lets one file have: each is woken by each ring.
            use rustix::event::epoll;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            for n in 0..400 {
                let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
                let data = epoll::EventData::new_u64(n);
                if epoll::add(&watch, &raw.bell, data, flags).is_err() {
                    break;
                }
                watches.push(watch);
            }
        }
        other => panic!("no way {other:?}"),
    }
    say("ready");
    raw.own.word(DATA_PARKED_AT).store(1, SeqCst);
    raw.own.word(SPACE_PARKED_AT).store(1, SeqCst);
    let (mut calls, mut parked) = (0u64, 1u64);
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        let request = pattern(calls, 64);
        raw.push_frame(&Header::request(echo, calls), &request);
        parked += 2;
        let (_, reply) = raw.pop(PATIENCE).expect("an answer");
        assert_eq!(&reply[8..], request, "a wrong answer");
        raw.own.word(DATA_PARKED_AT).store(parked, SeqCst);
        raw.own.word(SPACE_PARKED_AT).store(parked, SeqCst);
        calls += 1;
    }
    say(format!("calls={calls} watches={}", watches.len()));
    commands.next();
}

#[test]
fn an_abused_doorbell_holds_nobody_up() {
    for how in ["blocking", "small", "full", "shut", "crowd"] {
        let place = Place::new();
        let bystanders = Bystanders::start(&place);
        let settings = [("socket", &*place.socket(NAME)), ("how", how)];
        let hostile = place.start_ready("doorbell", &settings);
        eprintln!("{how}: {}", hostile.hear());
        drop(hostile);
        bystanders.unharmed();
    }
}

#[test]
fn who_is_awake_is_not_rung_and_who_sleeps_once() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("spin", "never"), ("workers", "1")]);
    let client = Welcomed::connect(&place.socket(NAME)).unwrap();
    let echo = echo(&client);
    let mut raw = client.accept().unwrap();
    let moment = Duration::from_millis(2);
    let call = |raw: &mut Raw, id: u64| {
        raw.push_frame(&Header::request(echo, id), b"on");
        let (_, reply) = raw.pop(PATIENCE).expect("an answer");
        assert_eq!(&reply[8..], b"on");
    };
    for id in 0..200 {
        call(&mut raw, id);
        assert!(!raw.rings_within(moment), "the server rang an awake client");
    }
    for id in 0..200 {
        raw.own.word(DATA_PARKED_AT).store(2 * id + 1, SeqCst);
        call(&mut raw, 1000 + id);
        assert!(
            raw.rings_within(PATIENCE),
            "the server did not ring a sleeper"
        );
        // The same sleep is not rung for again.
        call(&mut raw, 2000 + id);
        assert!(
            !raw.rings_within(moment),
            "the server rang twice for one sleep"
        );
        raw.own.word(DATA_PARKED_AT).store(2 * id + 2, SeqCst);
    }
}

#[test]
fn rings_for_nothing_cost_little() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let mut raw = Raw::connect(&place.socket(NAME)).unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    let mut rings = 0u64;
    while Instant::now() < until {
        raw.ring();
        rings += 1;
    }
    eprintln!("{rings} rings for nothing");
    raw.push_frame(&Header::new(Kind::Ping, 0), &7u64.to_le_bytes());
    let (_, pong) = raw.pop(PATIENCE).expect("a PONG");
    assert_eq!(pong, 7u64.to_le_bytes());
    let _ = raw.own.word(DATA_PARKED_AT).load(Relaxed);
    drop(raw);
    bystanders.unharmed();
}
