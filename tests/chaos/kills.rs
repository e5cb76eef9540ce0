//! kill -9, of servers and of clients, wherever they happen to be.

use crate::caller::{KINDS, caller_of};
use crate::census::{Census, files};
use crate::ledger::{Ledger, Summary, What, now};
use crate::server::NAME;
use crate::support::{Process, eventually};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Kills per set of surviving processes.
const KILLS_TOGETHER: usize = 50;

/// So many of each kind of test.
fn kills() -> usize {
    let kills = std::env::var("NEARWIRE_CHAOS_KILLS").map(|text| text.parse::<usize>());
    kills.map_or(200, |kills| kills.expect("a number")) / 2
}

/// Where the dice begin.
pub fn seed() -> u64 {
    let seed = std::env::var("NEARWIRE_CHAOS_SEED").map(|text| text.parse());
    seed.map_or(1, |seed| seed.expect("a number"))
}

/// Longer than this nothing takes that does not hang. The long form may run beside other things,
/// for which it is even stopped for a while.
fn patience() -> Duration {
    match std::env::var("NEARWIRE_CHAOS_KILLS") {
        Ok(_) => Duration::from_secs(200),
        Err(_) => Duration::from_secs(4),
    }
}

/// How long it took from a kill until somebody noticed, many times.
#[derive(Default)]
struct Delays(Vec<u64>);

impl Delays {
    fn add(&mut self, nanos: u64) {
        self.0.push(nanos);
    }

    /// Prints the distribution. Nothing may have hung. Whether it is good only a quiet machine can say;
    /// who has one sets `NEARWIRE_CHAOS_P99_MS` to what 99 of 100 may take at most.
    #[track_caller]
    fn check(&mut self, what: &str) {
        assert!(!self.0.is_empty(), "{what}: nobody noticed anything");
        self.0.sort_unstable();
        let at = |part: f64| self.0[((self.0.len() - 1) as f64 * part) as usize] as f64 / 1e6;
        eprintln!(
            "{what}, ms after the kill: median {:.2}, 90 % {:.2}, 99 % {:.2}, at most {:.2} ({} times)",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0),
            self.0.len()
        );
        let slowest = Duration::from_nanos(*self.0.last().unwrap());
        assert!(slowest < patience(), "{what}: somebody hung");
        if let Ok(most) = std::env::var("NEARWIRE_CHAOS_P99_MS") {
            let most: f64 = most.parse().expect("a number of milliseconds");
            assert!(at(0.99) <= most, "{what}: {:.2} ms at 99 %", at(0.99));
        }
    }
}

pub fn start_caller(ledger: &Ledger, number: usize, kind: &str, hang: bool) -> Process {
    let number = number.to_string();
    let mut settings = vec![
        ("ledger", ledger.path()),
        ("number", &number),
        ("kind", kind),
    ];
    if hang {
        settings.push(("hang", ""));
    }
    ledger.place.start("caller", &settings)
}

pub fn start_server(ledger: &Ledger) -> Process {
    ledger.place.start("server", &[("ledger", ledger.path())])
}

/// Has a caller end its calls and its connections.
pub fn rest(caller: &Process) -> HashMap<String, u64> {
    let line = caller.ask("rest");
    let pairs = line.split(' ').map(|pair| {
        let (name, value) = pair.split_once('=').expect("name=number");
        (name.to_owned(), value.parse().expect("a number"))
    });
    pairs.collect()
}

#[test]
fn servers() {
    let mut dice = fastrand::Rng::with_seed(seed());
    let (mut summary, mut delays) = (Summary::default(), Delays::default());
    let mut left = kills();
    while left > 0 {
        let count = left.min(KILLS_TOGETHER);
        summary += kill_servers(count, &mut dice, &mut delays);
        left -= count;
    }
    eprintln!("{} servers killed: {summary:?}", kills());
    delays.check("clients notice that their server was killed");
    assert!(summary.answered > 0 && summary.maybe > 0, "{summary:?}");
}

/// Kills servers, one after the other, under callers that stay.
fn kill_servers(count: usize, dice: &mut fastrand::Rng, delays: &mut Delays) -> Summary {
    let ledger = Ledger::new();
    let kinds = [KINDS[0], KINDS[0], KINDS[1], KINDS[2]];
    let mut callers: Vec<_> = (0..kinds.len())
        .map(|number| start_caller(&ledger, number, kinds[number], false))
        .collect();
    // What they use when they have called and rest, a runtime's threads for instance.
    let mut first = start_server(&ledger);
    first.expect("ready");
    let mut before = Vec::new();
    for caller in &callers {
        caller.expect("ready");
        caller.tell("go");
    }
    std::thread::sleep(Duration::from_millis(30));
    first.kill();
    first.ended();
    for caller in &callers {
        rest(caller);
        before.push(Census::at_rest(caller));
        caller.tell("go");
    }

    let mut killed = Vec::new();
    for _ in 0..count {
        let mut server = start_server(&ledger);
        // Sometimes before it serves, sometimes while it drains.
        let micros = dice.u64(0..15_000);
        if dice.u32(0..8) > 0 {
            server.expect("ready");
            std::thread::sleep(Duration::from_micros(micros));
            if dice.u32(0..4) == 0 {
                server.tell("shutdown 100");
                std::thread::sleep(Duration::from_micros(dice.u64(0..3000)));
            }
        } else {
            std::thread::sleep(Duration::from_micros(micros));
        }
        killed.push(now());
        server.kill();
        server.ended();
        for caller in &mut callers {
            assert!(caller.is_running(), "a caller failed; see what it printed");
        }
    }

    for (caller, before) in callers.iter().zip(&before) {
        let report = rest(caller);
        assert!(report["calls"] > 0);
        let slowest = Duration::from_micros(report["slowest_connect_us"]);
        assert!(slowest < patience(), "connecting took {slowest:?}");
        before.recurs(caller);
    }
    let summary = ledger.check(|_| true);
    note_delays(&ledger, &killed, delays);

    // The name, if a client did not remove it; and the next server replaces it and takes it along.
    let names = files(ledger.place.path());
    let socket = format!("{NAME}.sock");
    assert!(names.iter().all(|name| *name == socket), "left: {names:?}");
    let last = start_server(&ledger);
    last.expect("ready");
    last.tell("shutdown 0");
    last.expect("shut down");
    let names = files(ledger.place.path());
    assert!(names.is_empty(), "left: {names:?}");
    summary
}

/// How long each caller took to notice each kill: from it to the end of a call that was in flight.
fn note_delays(ledger: &Ledger, killed: &[u64], delays: &mut Delays) {
    let mut begun = HashMap::new();
    let mut noticed: HashMap<(u64, usize), u64> = HashMap::new();
    for entry in ledger.entries() {
        match entry.what {
            What::Begun => drop(begun.insert(entry.call, entry.at)),
            What::Maybe => {
                let began = begun[&entry.call];
                // The first kill after it began.
                let kill = killed.partition_point(|kill| *kill < began);
                if let Some(at) = killed.get(kill)
                    && entry.at > *at
                {
                    let delay = entry.at - at;
                    let first = noticed
                        .entry((caller_of(entry.call), kill))
                        .or_insert(delay);
                    *first = delay.min(*first);
                }
            }
            _ => {}
        }
    }
    noticed.into_values().for_each(|delay| delays.add(delay));
}

#[test]
fn clients() {
    let mut dice = fastrand::Rng::with_seed(seed());
    let (mut summary, mut delays) = (Summary::default(), Delays::default());
    let mut left = kills();
    while left > 0 {
        let count = left.min(KILLS_TOGETHER);
        summary += kill_clients(count, &mut dice, &mut delays);
        left -= count;
    }
    eprintln!("{} clients killed: {summary:?}", kills());
    delays.check("a server notices that its client was killed");
    assert!(summary.answered > 0 && summary.unheard > 0, "{summary:?}");
}

/// Kills clients of one server, which has another client all the time.
fn kill_clients(count: usize, dice: &mut fastrand::Rng, delays: &mut Delays) -> Summary {
    const AT_A_TIME: usize = 3;
    let ledger = Ledger::new();
    let server = start_server(&ledger);
    server.expect("ready");
    let mut neighbour = start_caller(&ledger, 0, KINDS[1], false);
    neighbour.expect("ready");
    // One of each kind that goes by itself shows what a server uses when nobody calls.
    for (number, kind) in KINDS.into_iter().enumerate() {
        let caller = start_caller(&ledger, 1 + number, kind, false);
        caller.expect("ready");
        caller.tell("go");
        std::thread::sleep(Duration::from_millis(20));
        rest(&caller);
    }
    let alone = |what: &str, others: u64| {
        eventually(what, || server.ask("connections") == others.to_string());
    };
    alone("the first clients are gone", 0);
    let before = Census::at_rest(&server);
    neighbour.tell("go");

    let mut killed = HashMap::new();
    let mut victims: Vec<(usize, Process)> = Vec::new();
    for victim in 0..count + AT_A_TIME {
        if victims.len() == AT_A_TIME || victim >= count {
            if victims.is_empty() {
                break;
            }
            let (number, mut process) = victims.swap_remove(dice.usize(0..victims.len()));
            // Sometimes before it calls, or connects.
            if dice.u32(0..4) > 0 {
                process.expect("ready");
            }
            std::thread::sleep(Duration::from_micros(dice.u64(0..15_000)));
            killed.insert(number as u64, now());
            process.kill();
            process.ended();
            assert!(neighbour.is_running(), "the neighbour failed");
        }
        if victim < count {
            let number = 10 + victim;
            let kind = KINDS[dice.usize(0..KINDS.len())];
            let process = start_caller(&ledger, number, kind, true);
            // It hears this when it is ready.
            process.tell("go");
            victims.push((number, process));
        }
    }
    assert_eq!(killed.len(), count);
    rest(&neighbour);
    alone("the killed clients are gone", 0);
    before.recurs(&server);
    let summary = ledger.check(|call| caller_of(call) == 0);
    let mut noticed: HashMap<u64, u64> = HashMap::new();
    for entry in ledger.entries() {
        if entry.what == What::Dropped
            && let Some(at) = killed.get(&caller_of(entry.call))
            && entry.at > *at
        {
            let delay = noticed.entry(caller_of(entry.call)).or_insert(u64::MAX);
            *delay = (entry.at - at).min(*delay);
        }
    }
    noticed.into_values().for_each(|delay| delays.add(delay));

    // It still serves, and goes as it should.
    let began = Instant::now();
    server.tell("shutdown 5000");
    server.expect("shut down");
    assert!(began.elapsed() < patience(), "nothing was in flight");
    assert!(files(ledger.place.path()).is_empty());
    summary
}
