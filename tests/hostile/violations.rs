//! What a client may write, each kind of wrong once: its connection ends with the name of what was
//! wrong, and nobody else notices.

use crate::bystander::Bystanders;
use crate::doorbells::echo;
use crate::raw::{CAPACITY, CLOSE, COMMITTED, FILLER, Raw, WORDS, Welcomed};
use crate::server::NAME;
use crate::support::{PATIENCE, Place};
use nearwire::layout::{HEAD_AT, WORD};
use nearwire::proto::frame::{Fragment, Header, Kind, MAX_PREFIX_LEN};
use nearwire::proto::handshake::CloseCode;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// What a hostile client does on a connection on which `echo` has this number.
type Deed = Box<dyn Fn(&mut Raw, u16)>;

const BAD_WORD: &str = "impossible commit word";
const BAD_HEAD: &str = "impossible head";

/// Writes this as the very first commit word.
fn word(word: u64) -> Deed {
    Box::new(move |raw, _| {
        raw.data(0).store(word, SeqCst);
        raw.ring();
    })
}

/// Sends a record with this tag and body.
fn record(kind: u8, flags: u8, body: Vec<u8>) -> Deed {
    let tag = u32::from_le_bytes([kind, flags, 0, 0]);
    Box::new(move |raw, _| raw.push(tag, &body))
}

/// Sends requests and takes no answers until the server looks at the head, which by then is what
/// `lie` makes of how much was produced.
fn head(lie: fn(u64) -> u64) -> Deed {
    Box::new(move |raw, echo| {
        // An honest start, so that there is something to go back to: what the server has seen of
        // the head by then is at most a ring behind.
        for id in 0..60 {
            raw.push_frame(&Header::request(echo, id), &[0; 200]);
            raw.pop(PATIENCE).expect("an answer");
        }
        let mut id = 60;
        let answered = raw.head;
        while !raw.is_over() {
            raw.own.word(HEAD_AT).store(lie(answered), SeqCst);
            if !raw.wait_for_space(240) {
                break;
            }
            raw.push_frame(&Header::request(echo, id), &[0; 200]);
            id += 1;
        }
    })
}

fn fragments(headers: Vec<(Header, usize)>) -> Deed {
    Box::new(move |raw, _| {
        for (header, len) in &headers {
            raw.push_frame(header, &vec![0; *len]);
        }
    })
}

fn cases() -> Vec<(&'static str, Deed, &'static str)> {
    let id = 7u64.to_le_bytes().to_vec();
    let longest = (CAPACITY / 2 - WORD) as u64;
    let first = |total| Header {
        fragment: Fragment::First { total },
        ..Header::request(0, 1)
    };
    let with = |header: Header, fragment| Header { fragment, ..header };
    let mut cases: Vec<(&'static str, Deed, &'static str)> = vec![
        (
            "a length beyond half the ring",
            word(COMMITTED | (longest + 1)),
            BAD_WORD,
        ),
        (
            "a length beyond the ring",
            word(COMMITTED | 1 << 20),
            BAD_WORD,
        ),
        (
            "the largest length",
            word(COMMITTED | ((1 << 30) - 1)),
            BAD_WORD,
        ),
        ("a word that is not committed", word(8), BAD_WORD),
        ("all bits", word(u64::MAX), BAD_WORD),
        (
            "a filler at the start",
            word(COMMITTED | FILLER | (CAPACITY - WORD) as u64),
            BAD_WORD,
        ),
        (
            "a filler too short",
            word(COMMITTED | FILLER | 64),
            BAD_WORD,
        ),
        (
            "a filler too long",
            word(COMMITTED | FILLER | (1 << 29)),
            BAD_WORD,
        ),
        (
            "a tagged filler",
            word(COMMITTED | FILLER | 2 << 32),
            BAD_WORD,
        ),
        ("a head too far", head(|head| head + (1 << 20)), BAD_HEAD),
        ("a head of all bits", head(|_| u64::MAX), BAD_HEAD),
        (
            "a head that goes back",
            head(|head| head - 2 * CAPACITY as u64),
            BAD_HEAD,
        ),
        ("a head back at the start", head(|_| 0), BAD_HEAD),
        ("a head inside a word", head(|head| head + 3), BAD_HEAD),
        ("kind 0", record(0, 0, id.clone()), "kind 0"),
        ("kind 99", record(99, 0, id.clone()), "kind 99"),
        ("a reply", record(Kind::Reply as u8, 0, id.clone()), "reply"),
        (
            "an error",
            record(Kind::Error as u8, 0, [id.clone(), vec![0; 8]].concat()),
            "Error",
        ),
        (
            "a message",
            record(Kind::Message as u8, 0, vec![1; 8]),
            "Message",
        ),
        ("bytes", record(Kind::Bytes as u8, 0, vec![1; 8]), "Bytes"),
        (
            "GOAWAY of a client",
            record(Kind::GoAway as u8, 0, vec![0; 4]),
            "GoAway",
        ),
        (
            "a request without an id",
            record(1, 0, vec![1; 4]),
            "too short",
        ),
        (
            "a deadline without bytes",
            record(1, 8, id.clone()),
            "too short",
        ),
        ("a reserved flag", record(1, 0x80, id.clone()), "flag"),
        ("one-way with a stream", record(1, 0x60, id.clone()), "flag"),
        (
            "a deadline on a cancel",
            record(4, 8, [id.clone(), vec![0; 8]].concat()),
            "flag",
        ),
        (
            "a cancel with a payload",
            record(4, 0, vec![0; 16]),
            "8 are expected",
        ),
        (
            "credits of three bytes",
            record(7, 0, vec![0; 11]),
            "too short",
        ),
        (
            "a total of the whole address space",
            fragments(vec![(first(u64::MAX), 64)]),
            "limit",
        ),
        (
            "a last fragment of nothing",
            fragments(vec![(with(Header::request(0, 1), Fragment::Last), 64)]),
            "which has no first fragment",
        ),
        (
            "a message inside another",
            fragments(vec![(first(9000), 64), (first(9000), 64)]),
            "were incomplete",
        ),
        (
            "fragments beyond their total",
            fragments(vec![
                (first(100), 64),
                (with(Header::request(0, 1), Fragment::Middle), 64),
            ]),
            "announced with",
        ),
        (
            "an item of no call beyond the limit",
            fragments(vec![(
                with(
                    Header::new(Kind::StreamItem, 1),
                    Fragment::First { total: 1 << 50 },
                ),
                64,
            )]),
            "limit",
        ),
    ];
    cases.push((
        "two fillers",
        Box::new(|raw, _| {
            raw.push(1, &[0; 1000]);
            let to_end = CAPACITY as u64 - raw.tail;
            raw.data(0)
                .store(COMMITTED | FILLER | (CAPACITY - WORD) as u64, SeqCst);
            raw.data(raw.tail)
                .store(COMMITTED | FILLER | (to_end - WORD as u64), SeqCst);
            raw.ring();
        }),
        BAD_WORD,
    ));
    cases
}

#[test]
fn each_wrong_thing_ends_its_own_connection_by_name() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    let mut wrong = Vec::new();
    for (what, deed, name) in cases() {
        let client = Welcomed::connect(&socket).unwrap();
        let echo = echo(&client);
        let mut raw = client.accept().unwrap();
        deed(&mut raw, echo);
        match raw.verdict() {
            Ok(close) if close.code == CloseCode::Violation && close.text.contains(name) => {}
            other => wrong.push(format!("{what}: {other:?}, not {name:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    bystanders.unharmed();
}

#[test]
fn an_orderly_end_is_none() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let socket = place.socket(NAME);
    for finish in [word(CLOSE), record(Kind::Finish as u8, 0, vec![])] {
        let mut raw = Raw::connect(&socket).unwrap();
        finish(&mut raw, 0);
        assert_eq!(raw.verdict().unwrap().code, CloseCode::Finished);
    }
    bystanders.unharmed();
}

#[test]
fn words_that_the_server_does_not_believe_change_nothing() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let client = Welcomed::connect(&place.socket(NAME)).unwrap();
    let echo = echo(&client);
    let mut raw = client.accept().unwrap();
    for at in WORDS.into_iter().filter(|at| *at != HEAD_AT) {
        for value in [
            0,
            1,
            u64::MAX,
            1 << 63,
            0x5555_5555_5555_5555,
            CAPACITY as u64 * 2 + 1,
        ] {
            raw.own.word(at).store(value, Relaxed);
            raw.push_frame(&Header::request(echo, value), b"on");
            let (_, reply) = raw.pop(PATIENCE).expect("an answer");
            assert_eq!(reply, [&value.to_le_bytes()[..], b"on"].concat());
        }
    }
    assert!(MAX_PREFIX_LEN >= 8 && !raw.is_over());
    drop(raw);
    bystanders.unharmed();
}
