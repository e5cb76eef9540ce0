//! Full speed: a client writes everything that it may write, as fast as it can, while the server
//! reads it and an honest client calls beside it.

use crate::bystander::Bystanders;
use crate::doorbells::echo;
use crate::raw::{CAPACITY, CLOSE, COMMITTED, FILLER, Raw, WORDS, Welcomed};
use crate::server::NAME;
use crate::support::child::{Commands, say};
use crate::support::{Place, Settings};
use nearwire::layout::{DATA_PARKED_AT, HEAD_AT, SPACE_PARKED_AT, TAIL_AT, WORD};
use nearwire::proto::frame::Header;
use nearwire::proto::handshake::{Close, CloseCode};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::time::Duration;

/// Words that one connection is spent on, at most.
const PER_CONNECTION: u64 = 400_000;

/// How many words the storms of a test write.
pub fn operations() -> u64 {
    match std::env::var("NEARWIRE_HOSTILE_OPERATIONS") {
        Ok(text) => text.parse().expect("a number of operations"),
        Err(_) => 20_000_000,
    }
}

/// Numbers that look random and are the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 33) % bound
    }

    fn of(&mut self, choices: &[u64]) -> u64 {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// One way to rage. Returns how many words it wrote. Ends when the connection does, or after
/// [`PER_CONNECTION`] words.
type Way = fn(&mut Raw, u16, &mut Random) -> u64;

pub const WAYS: [(&str, Way); 8] = [
    ("commit words", commit_words),
    ("lengths that change", changing_lengths),
    ("heads", heads),
    ("parked words", parked_words),
    ("words nobody believes", constants),
    ("bodies under way", bodies),
    ("everything", everything),
    ("vanishing records", vanishing),
];

/// Writes with `write` until the connection is over.
fn until_over(raw: &mut Raw, mut write: impl FnMut(&mut Raw)) -> u64 {
    let mut written = 0;
    while written < PER_CONNECTION && !raw.is_over() {
        for _ in 0..512 {
            write(raw);
        }
        written += 512;
        raw.ring();
    }
    written
}

fn any_commit_word(random: &mut Random) -> u64 {
    let tag = random.below(16) << 32 | random.below(8) << 48;
    match random.below(8) {
        0 => random.next(),
        1 => 0,
        2 => COMMITTED | FILLER | random.below(CAPACITY as u64),
        3 => tag | random.below(64),
        4 => tag | COMMITTED | random.below(1 << 30),
        _ => tag | COMMITTED | random.below(256),
    }
}

/// Any commit words, most of them where the server looks first.
fn commit_words(raw: &mut Raw, _: u16, random: &mut Random) -> u64 {
    until_over(raw, |raw| {
        let at = match random.below(4) {
            0 => random.below(CAPACITY as u64) / 8 * 8,
            _ => raw.peer.word(HEAD_AT).load(Relaxed),
        };
        raw.data(at).store(any_commit_word(random), Relaxed);
    })
}

/// Every word of the ring is the commit word of a request, and its length never stands still, so
/// that any second look at it would see another one.
fn changing_lengths(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    let tag = 1 | u64::from(echo) << 16;
    let word = |len: u64| tag << 32 | COMMITTED | len;
    for at in (0..CAPACITY as u64).step_by(WORD) {
        raw.data(at).store(word(8), Relaxed);
    }
    let lengths = [8, 8, 24, 40, 56, 248, 2040];
    until_over(raw, |raw| {
        let at = random.below(CAPACITY as u64 / 8) * 8;
        raw.data(at).store(word(random.of(&lengths)), Relaxed);
        let taken = raw.peer.word(TAIL_AT).load(Relaxed);
        raw.own.word(HEAD_AT).store(taken, Relaxed);
    })
}

/// Honest requests, whose answers are released by heads of every kind.
fn heads(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    let mut written = 0;
    let mut id = 0;
    while written < PER_CONNECTION && !raw.is_over() {
        if !raw.wait_for_space(240) {
            break;
        }
        id += 1;
        raw.push_frame(&Header::request(echo, id), &[0; 200]);
        let produced = raw.peer.word(TAIL_AT).load(Acquire);
        // The truth first, and last, so that the server goes on and looks again.
        let truth = produced;
        for _ in 0..2000 {
            let lie = match random.below(8) {
                0 => truth + (CAPACITY as u64 + 8) * random.below(1 << 20),
                1 => truth.wrapping_sub(8 * random.below(1 << 20)),
                2 => truth + 1 + random.below(7),
                3 => random.next(),
                4 => random.of(&[0, 1, u64::MAX, 1 << 63, (1 << 63) - 8]),
                _ => truth,
            };
            raw.own.word(HEAD_AT).store(lie, Relaxed);
        }
        raw.own.word(HEAD_AT).store(truth, SeqCst);
        written += 2001;
    }
    written
}

/// Calls that must all be answered, while the words that say who sleeps flicker, generation after
/// generation.
fn parked_words(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    calls_while(raw, echo, |raw, count| {
        let at = [DATA_PARKED_AT, SPACE_PARKED_AT][count as usize % 2];
        let value = match random.below(4) {
            0 => random.next(),
            1 => random.next() | 1,
            _ => count,
        };
        raw.own.word(at).store(value, Relaxed);
    })
}

/// Calls that must all be answered, while words that the server has no business with change.
fn constants(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    calls_while(raw, echo, |raw, _| {
        let at = WORDS[random.below(WORDS.len() as u64) as usize];
        if at != HEAD_AT {
            raw.own.word(at).store(random.next(), Relaxed);
        }
    })
}

fn calls_while(raw: &mut Raw, echo: u16, mut write: impl FnMut(&mut Raw, u64)) -> u64 {
    let mut written = 0;
    let mut id = 0u64;
    while written < PER_CONNECTION {
        id += 1;
        raw.push_frame(&Header::request(echo, id), b"on");
        let mut waited = 0u64;
        let reply = loop {
            for _ in 0..64 {
                written += 1;
                write(raw, written);
            }
            if let Some((_, reply)) = raw.pop(Duration::ZERO) {
                break reply;
            }
            waited += 1;
            assert!(
                !raw.is_over(),
                "the server closed a connection that it should not"
            );
            assert!(waited < 1 << 32, "no answer");
        };
        assert_eq!(
            reply,
            [&id.to_le_bytes()[..], b"on"].concat(),
            "a wrong answer"
        );
    }
    written
}

/// Records of good form whose bytes change all the time.
fn bodies(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    let mut written = 0;
    while written < PER_CONNECTION && !raw.is_over() {
        if !raw.wait_for_space(512) {
            break;
        }
        let begin = raw.tail;
        let kind = 1 + random.below(13);
        let flags = if random.below(4) == 0 {
            random.below(256)
        } else {
            0
        };
        let tag = kind | flags << 8 | u64::from(echo) << 16;
        raw.push(tag as u32, &[0; 256]);
        for _ in 0..1024 {
            let at = begin + 8 + 8 * random.below(32);
            if at % CAPACITY as u64 != raw.tail % CAPACITY as u64 {
                raw.data(at)
                    .store(random.next() >> random.below(64), Relaxed);
            }
        }
        let taken = raw.peer.word(TAIL_AT).load(Acquire);
        raw.own.word(HEAD_AT).store(taken, SeqCst);
        written += 1025;
    }
    written
}

/// Anything, anywhere.
fn everything(raw: &mut Raw, _: u16, random: &mut Random) -> u64 {
    until_over(raw, |raw| {
        if random.below(8) == 0 {
            let at = WORDS[random.below(WORDS.len() as u64) as usize];
            raw.own
                .word(at)
                .store(random.next() >> random.below(64), Relaxed);
        } else {
            let at = random.below(CAPACITY as u64 / 8) * 8;
            raw.data(at).store(any_commit_word(random), Relaxed);
        }
    })
}

/// A record that is there, is not there, is the end of the ring.
fn vanishing(raw: &mut Raw, echo: u16, random: &mut Random) -> u64 {
    let tag = 1 | u64::from(echo) << 16;
    let ends = u64::from(random.below(8) == 0);
    until_over(raw, |raw| {
        let at = raw.peer.word(HEAD_AT).load(Relaxed);
        let word = match random.below(16) {
            0..8 => 0,
            8 if ends == 1 => CLOSE,
            _ => (tag << 32) | COMMITTED | (8 * random.below(4) + 8),
        };
        raw.data(at).store(word, Relaxed);
        let taken = raw.peer.word(TAIL_AT).load(Relaxed);
        raw.own.word(HEAD_AT).store(taken, Relaxed);
    })
}

/// How a hostile connection ended, without its numbers. `Err` for an end that should not be.
pub fn class(verdict: &Result<Close, String>) -> Result<String, String> {
    let close = match verdict {
        Ok(close) => close,
        Err(error) => return Err(error.clone()),
    };
    match close.code {
        CloseCode::Finished => return Ok("finished".into()),
        CloseCode::Violation => {}
        other => return Err(format!("closed as {other:?}: {}", close.text)),
    }
    let known = [
        "impossible commit word",
        "impossible head",
        "unknown frame kind",
        "flags",
        "frame with a body",
        "frame body of",
        "larger than the limit",
        "were incomplete",
        "has no first fragment",
        "between the fragments",
        "empty fragment",
        "for a message announced",
        "last fragment ends",
        "finished after",
        "which a server does not take",
        "which a client does not take",
        "takes no stream",
        "twice at a time",
        "credits",
        "trace",
        "total",
    ];
    match known.iter().find(|name| close.text.contains(**name)) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("an end without a name: {}", close.text)),
    }
}

/// Rages until `operations` words are written. Says how the connections ended.
pub fn rage(settings: &Settings, commands: Commands) {
    let socket = settings.text("socket").expect("a socket");
    let wanted = settings.number("operations").expect("operations") as u64;
    let mut random = Random::new(settings.number("seed").unwrap_or(1) as u64);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let (mut written, mut connections) = (0, 0);
    say("ready");
    while written < wanted || connections < 4 * WAYS.len() {
        let (name, way) = WAYS[connections % WAYS.len()];
        let client = Welcomed::connect(socket).expect("a welcome");
        let echo = echo(&client);
        let mut raw = client.accept().expect("a connection");
        written += way(&mut raw, echo, &mut random);
        connections += 1;
        let end = if raw.is_over() {
            class(&raw.verdict()).unwrap_or_else(|error| panic!("{name}: {error}"))
        } else {
            "left open".to_owned()
        };
        *ends.entry(format!("{name}: {end}")).or_default() += 1;
    }
    for (end, count) in &ends {
        eprintln!("{count:8} {end}");
    }
    say(format!("operations={written} connections={connections}"));
    commands.next();
}

#[test]
fn a_storm_of_writes_harms_nobody() {
    let place = Place::new();
    let bystanders = Bystanders::start(&place);
    let operations = operations().to_string();
    let settings = [
        ("socket", &*place.socket(NAME)),
        ("operations", &operations),
    ];
    let storm = place.start_ready("storm", &settings);
    let begun = std::time::Instant::now();
    let said = loop {
        // However long it may take: it is hung only if the server is.
        if let Some(said) = storm.hear_within(Duration::from_secs(3600)) {
            break said;
        }
    };
    eprintln!("{said} in {:?}", begun.elapsed());
    drop(storm);
    bystanders.unharmed();
}
