//! Calls from several threads, their driver and a server under schedules at random:
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib schedules`.
//!
//! Real rings, doorbells and Tokio's reactor, which has a thread of its own here. Whoever is never woken
//! has its schedule run into the limit of steps.

use super::Client;
use crate::error::CloseReason;
use crate::layout::MIN_CAPACITY;
use crate::link::{Incoming, Link, Outgoing, Terms, next_incoming};
use crate::proto::frame::{Header, Kind};
use crate::proto::handshake::{CallShape, Method};
use crate::proto::reassembly::Reassembly;
use crate::segment::{LocalSegment, open_peer};
use crate::settings::{Memory, Spin};
use crate::sync::AtomicBool;
use crate::sys::{ControlSocket, Doorbell, PeerDoorbell};
use crate::waiter::Fences;
use shuttle::future::block_on;
use shuttle::thread;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use tokio::runtime::{Handle, Runtime};

/// Calls that may be in flight: fewer than there are callers.
const IN_FLIGHT: usize = 2;

/// Longer than a ring: it waits for space.
const LARGE: usize = 2 * MIN_CAPACITY;

/// The number of the method whose replies are large.
const MUCH: u16 = 1;

/// So many steps no schedule takes in which everybody is woken.
const STEPS: usize = 50_000;

fn terms() -> Terms {
    Terms {
        fences: Fences::Symmetric,
        ring_out: MIN_CAPACITY,
        ring_in: MIN_CAPACITY,
        max_message_out: 1 << 20,
        max_message_in: 1 << 20,
        max_in_flight: IN_FLIGHT,
        stream_credits: 4,
        connection_id: 1,
        methods: ["echo", "much"]
            .map(|name| Method {
                shape: CallShape::Unary,
                name: name.into(),
            })
            .into(),
        features: 0,
        peer_label: String::new(),
    }
}

/// Both sides of a connection.
fn links() -> (Link, Link) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let side = |socket| {
        let (segment, handle) = LocalSegment::create(MIN_CAPACITY, &Memory::default()).unwrap();
        let bell = Doorbell::new().unwrap();
        let rings = PeerDoorbell::open(bell.handle().unwrap()).unwrap();
        let mapped = open_peer(handle, MIN_CAPACITY).unwrap();
        (
            ControlSocket::new(socket).unwrap(),
            bell,
            segment,
            rings,
            mapped,
        )
    };
    let (control, bell, segment, rings, mapped) = side(ours);
    let (peer_control, peer_bell, peer_segment, rings_peer, peer_mapped) = side(theirs);
    (
        Link::unconfirmed(control, bell, rings_peer, segment, peer_mapped, terms()),
        Link::unconfirmed(
            peer_control,
            peer_bell,
            rings,
            peer_segment,
            mapped,
            terms(),
        ),
    )
}

/// Answers requests, with what they say or with much, and pings, until it is told to stop or has answered
/// so many.
fn serve(link: &mut Link, stop: &AtomicBool, mut answers: usize) {
    let (mut reassembly, mut buffer) = (Reassembly::new(1 << 20), Vec::new());
    while answers > 0 && !stop.load(Relaxed) {
        let reply = match next_incoming(&mut link.rx, &mut reassembly, &mut buffer).unwrap() {
            None => {
                link.rx.release();
                thread::yield_now();
                continue;
            }
            Some(Incoming::Request {
                method,
                id,
                payload,
            }) => match method {
                MUCH => (Header::reply(id), vec![0; LARGE]),
                _ => (Header::reply(id), payload.to_vec()),
            },
            Some(Incoming::Message(message)) => match message.header.kind {
                Kind::Request if !message.header.one_way => {
                    let id = message.header.request_id;
                    (Header::reply(id), message.payload.into_owned())
                }
                Kind::Ping => (Header::new(Kind::Pong, 0), message.payload.into_owned()),
                _ => continue,
            },
            Some(Incoming::Partial) => continue,
            Some(Incoming::Reply { .. }) => unreachable!("a client does not answer"),
        };
        let mut reply = Outgoing::new(&link.tx, reply.0, reply.1);
        while !reply.stage(&mut link.tx).unwrap() {
            link.tx.publish();
            thread::yield_now();
            if stop.load(Relaxed) {
                return;
            }
        }
        link.tx.publish();
        answers -= 1;
        thread::yield_now();
    }
}

/// What all threads of a schedule share: a reactor, in a thread of its own, until the end.
pub(crate) struct World {
    runtime: Handle,
    reactor: thread::JoinHandle<Runtime>,
    stop: Arc<AtomicBool>,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self {
            runtime: runtime.handle().clone(),
            reactor: thread::spawn(move || {
                while !stopped.load(Relaxed) {
                    runtime.block_on(tokio::task::yield_now());
                    thread::yield_now();
                }
                runtime
            }),
            stop,
        }
    }

    /// Whose timers and descriptors the reactor looks after.
    pub(crate) fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Ends the servers that live, when all else has ended.
    pub(crate) fn end(self) {
        self.stop.store(true, Relaxed);
        drop(self.reactor.join().unwrap());
    }

    /// Makes connections to servers that are gone after so many answers. A connection's driver and its
    /// server have a thread each.
    pub(crate) fn connector(&self, answers: usize) -> impl Fn() -> Client + Send + Sync + use<> {
        let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
        move || {
            let (link, mut server) = links();
            let (client, driver) = {
                let _inside = runtime.enter();
                Client::with_driver(link, Spin::NEVER, 0).unwrap()
            };
            let stop = stop.clone();
            thread::spawn(move || block_on(driver));
            thread::spawn(move || {
                serve(&mut server, &stop, answers);
                server.shared.close(CloseReason::Local);
            });
            client
        }
    }
}

/// Runs `callers`, each in a thread, on one connection, until all have ended. The server is gone after
/// so many answers.
fn run(answers: usize, callers: &[fn(Client, usize)]) {
    let world = World::new();
    let client = world.connector(answers)();
    let callers: Vec<_> = callers
        .iter()
        .enumerate()
        .map(|(number, caller)| {
            let (caller, client) = (*caller, client.clone());
            thread::spawn(move || caller(client, number))
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    assert_eq!(client.in_flight(), 0);
    drop(client);
    world.end();
}

/// One that is answered.
fn call(client: Client, number: usize) {
    for round in 0..2 {
        let request = [number as u8, round];
        assert_eq!(
            block_on(client.call_bytes("echo", &request)).unwrap(),
            request
        );
    }
}

/// One for which neither ring has space.
fn call_with_much(client: Client, number: usize) {
    let request = vec![number as u8; LARGE];
    assert!(block_on(client.call_bytes("echo", &request)).unwrap() == request);
}

/// Gives up a large call, wherever it is, then makes another.
fn give_up(client: Client, number: usize) {
    let request = vec![number as u8; LARGE];
    block_on(async {
        let mut given_up = pin!(client.call_bytes("echo", &request));
        let mut polls = number % 3;
        poll_fn(|cx| {
            let ended = given_up.as_mut().poll(cx).is_ready();
            polls = polls.saturating_sub(1);
            if ended || polls == 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    });
    call(client, number);
}

/// Gives up a small call after its first poll, and makes no other: what the server sends for it, which
/// is more than its ring has space for, is taken all the same. Else the server would be stuck with it.
fn give_up_and_rest(client: Client, _: usize) {
    block_on(async {
        let mut given_up = pin!(client.call_bytes("much", b"more"));
        poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx).is_ready())).await;
    });
    while client.core.lock().is_waiting() {
        thread::yield_now();
    }
}

/// Tells something twice, for which it may have to wait, and asks for a sign of life.
fn notify_and_ping(client: Client, number: usize) {
    let request = vec![number as u8; LARGE / 2];
    block_on(async {
        client.notify_bytes("echo", &request).await.unwrap();
        client.notify_bytes("echo", &request).await.unwrap();
        client.ping().await.unwrap();
    });
}

/// Goes on until the server is gone, which each call is told of.
fn call_until_the_end(client: Client, _: usize) {
    block_on(async {
        while client.call_bytes("echo", b"on").await.is_ok() {}
        client.closed().await;
    });
}

/// Runs as many of each kind of schedule: at random, and with few changes from one thread to another, at
/// places of which each has its chance.
pub(crate) fn check(test: fn()) {
    const SCHEDULES: usize = 1000;
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS);
    config.stack_size = 256 << 10;
    let random = shuttle::scheduler::RandomScheduler::new(SCHEDULES);
    shuttle::Runner::new(random, config.clone()).run(test);
    let few_changes = shuttle::scheduler::PctScheduler::new(3, SCHEDULES);
    shuttle::Runner::new(few_changes, config).run(test);
}

#[test]
fn calls_beyond_the_limit_are_answered() {
    check(|| run(usize::MAX, &[call, call_with_much, call]));
}

#[test]
fn calls_that_are_given_up_hinder_nobody() {
    check(|| run(usize::MAX, &[call, give_up, give_up, notify_and_ping]));
}

#[test]
fn what_is_sent_for_a_call_that_was_given_up_is_taken() {
    check(|| run(usize::MAX, &[give_up_and_rest]));
}

#[test]
fn every_call_learns_that_the_server_is_gone() {
    check(|| run(3, &[call_until_the_end as _; 3]));
}
