//! A client that writes anything into the request queue that it shares with others: neither the server
//! nor clients with rings of their own come to harm.

use crate::bystander::Bystanders;
use crate::doorbells::echo;
use crate::raw::{COMMITTED, Pages, Raw, Welcomed, hello};
use crate::server::NAME;
use crate::storm::Random;
use crate::support::child::{Commands, say};
use crate::support::{PATIENCE, Place, Settings, eventually, pattern, within};
use nearwire::layout::WORD;
use nearwire::proto::handshake::{FEATURE_MPMC_TRANSPORT, Hello};
use nearwire::{ClientBuilder, TransportPolicy};
use std::sync::atomic::Ordering::{Relaxed, Release};

/// As docs/02 has them.
const TAIL_AT: usize = 0x80;
const SLOTS_AT: usize = 0x400;
const SLOTS: u64 = 4096;
const SLOT: usize = 512;
const FREE: u64 = 0;
const FULL: u64 = 2;
const FLAGS: [u64; 6] = [0, 1 << 16, 1 << 17, 3 << 16, 7 << 16, 1 << 19];

/// Slots that one connection is spent on.
const PER_CONNECTION: u64 = 3000;

/// A client of the queue, and its mapping of that.
fn connect(socket: &str) -> (Raw, Pages, u64, u16) {
    let hello = Hello {
        features_offered: FEATURE_MPMC_TRANSPORT,
        ..hello()
    };
    let mut client = Welcomed::with(socket, hello).expect("a welcome");
    assert_eq!(client.fds.len(), 3, "no queue");
    let queue = client.fds.pop().unwrap();
    let len = (SLOTS_AT + SLOTS as usize * SLOT).next_multiple_of(rustix::param::page_size());
    let queue = Pages::map(&queue, len, true).unwrap();
    let (echo, id) = (echo(&client), client.welcome.connection_id);
    (client.accept().expect("a connection"), queue, id, echo)
}

fn word(queue: &Pages, slot: u64, word: usize) -> &std::sync::atomic::AtomicU64 {
    queue.word(SLOTS_AT + slot as usize * SLOT + word * WORD)
}

/// Pieces at the right place and time, of which everything else may be wrong.
fn pieces(raw: &Raw, queue: &Pages, next: &mut u64, id: u64, echo: u16, random: &mut Random) {
    let mut number = 0;
    let mut position = 0;
    for _ in 0..PER_CONNECTION {
        let (slot, lap) = (*next % SLOTS, (*next / SLOTS) << 32);
        if word(queue, slot, 0).load(Relaxed) != lap | FREE {
            raw.ring();
            std::thread::yield_now();
            continue;
        }
        let odd = |random: &mut Random, right: u64| match random.next() % 40 {
            0 => random.next(),
            1 => right.wrapping_add(random.next() % 64).wrapping_sub(32),
            _ => right,
        };
        // A request, often enough, so that some pieces go far.
        let len = 8 * (2 + random.next() % 40);
        let whole = 3 << 16;
        let flags = match random.next() % 30 {
            0 => FLAGS[(random.next() % 6) as usize],
            _ => whole,
        };
        let head = [
            odd(random, flags | len),
            odd(random, number),
            odd(random, position),
            odd(random, id),
        ];
        for (at, value) in head.into_iter().enumerate() {
            word(queue, slot, 1 + at).store(value, Relaxed);
        }
        let request = COMMITTED | (len - 8) | (1 | u64::from(echo) << 16) << 32;
        word(queue, slot, 5).store(odd(random, request), Relaxed);
        for at in 6..5 + len as usize / 8 {
            word(queue, slot, at).store(random.next(), Relaxed);
        }
        word(queue, slot, 0).store(lap | (id & 0x3fff_ffff) << 2 | FULL, Release);
        *next += 1;
        number += 1;
        position += len;
        // Where a ring would begin anew this one does not; that is refused too.
        if random.next().is_multiple_of(16) {
            raw.ring();
        }
    }
    // Until the server has come by all of it.
    let last = *next - 1;
    while word(queue, last % SLOTS, 0).load(Relaxed) >> 32 == last / SLOTS {
        raw.ring();
        std::thread::yield_now();
    }
}

/// Anything anywhere, the tail and the states included.
fn anything(raw: &Raw, queue: &Pages, random: &mut Random) {
    for n in 0..20 * PER_CONNECTION {
        let slot = random.next() % SLOTS;
        let state = match random.next() % 4 {
            0 => random.next(),
            _ => ((random.next() % 8) << 32) | (random.next() % 64),
        };
        match random.next() % 8 {
            0 => queue
                .word(TAIL_AT)
                .store(random.next() % (8 * SLOTS), Relaxed),
            1 => word(queue, slot, 1 + (random.next() % 5) as usize).store(random.next(), Relaxed),
            _ => word(queue, slot, 0).store(state, Relaxed),
        }
        if n % 64 == 0 {
            raw.ring();
        }
    }
}

/// The role of the hostile process.
pub fn rage(settings: &Settings, commands: Commands) {
    let socket = settings.text("socket").expect("a socket");
    let mut random = Random::new(7);
    let (mut next, mut closed) = (0, 0);
    say("ready");
    const CONNECTIONS: usize = 60;
    for _ in 0..CONNECTIONS {
        let (raw, queue, id, echo) = connect(socket);
        pieces(&raw, &queue, &mut next, id, echo, &mut random);
        eventually("the server closes it", || raw.is_over());
        closed += 1;
    }
    for _ in 0..20 {
        let (raw, queue, ..) = connect(socket);
        anything(&raw, &queue, &mut random);
    }
    say(format!("slots={next} closed={closed}"));
    commands.next();
}

/// The role of a process that writes the queue's tail where it is told to, and stays.
pub fn scribble(settings: &Settings, commands: Commands) {
    let (_raw, queue, ..) = connect(settings.text("socket").expect("a socket"));
    say("ready");
    loop {
        let tail = match commands.next().parse::<i64>() {
            Ok(tail) => tail,
            Err(_) => return,
        };
        let word = queue.word(TAIL_AT);
        word.store(word.load(Relaxed).wrapping_add_signed(tail), Relaxed);
        say("written");
    }
}

/// Its clients trust one another, but what one of them did is not to last longer than it.
#[test]
fn a_queue_whose_tail_was_overwritten_is_of_use_again() {
    let place = Place::new();
    let settings = [("workers", "1"), ("transport", "prefer mpmc")];
    let _server = place.start_ready("server", &settings);
    let socket = place.socket(NAME);
    let scribbler = place.start_ready("queue scribbler", &[("socket", &*socket)]);
    within(PATIENCE, "calls through a damaged queue", move || {
        let builder = ClientBuilder::new().transport(TransportPolicy::MpmcOnly);
        let mut client = builder.connect_blocking(&socket).unwrap();
        let mut call = |what: &str| {
            for n in 0..100 {
                let request = pattern(n, 300);
                let reply = client.call_bytes("echo", &request);
                assert_eq!(reply.expect(what), request, "{what}");
            }
        };
        call("before");
        let lap = SLOTS as i64;
        for by in [
            1,
            100,
            lap,
            8 * lap,
            1 << 40,
            i64::MAX,
            -lap - 2,
            -(1 << 40),
        ] {
            assert_eq!(scribbler.ask(&by.to_string()), "written");
            call(&by.to_string());
        }
        drop(scribbler);
        call("after");
    });
}

#[test]
fn what_is_written_into_the_queue_harms_neither_the_server_nor_who_has_rings() {
    let place = Place::new();
    let bystanders = Bystanders::start_with(&place, &[("transport", "prefer mpmc")]);
    let storm = place.start_ready("queue storm", &[("socket", &*place.socket(NAME))]);
    let said = storm.hear();
    eprintln!("{said}");
    assert!(said.ends_with("closed=60"), "{said}");
    drop(storm);
    bystanders.unharmed();
}
