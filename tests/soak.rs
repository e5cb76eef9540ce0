//! A soak: 64 client processes, every kind of call and of connection, all sizes, for a minute or
//! for as many seconds as `NEARWIRE_SOAK_SECONDS` says. Nothing may be lost, doubled, reordered or
//! spoilt, and nothing may grow.

#![cfg(all(target_os = "linux", feature = "tokio", feature = "serde"))]

#[path = "soak/client.rs"]
mod client;
#[path = "soak/heap.rs"]
mod heap;
#[path = "soak/payload.rs"]
mod payload;
#[path = "soak/samples.rs"]
mod samples;
#[path = "soak/server.rs"]
mod server;
mod support;
mod transports;

use samples::Samples;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::{Place, Process, eventually};

const CLIENTS: usize = 64;

/// Has the allocator give large blocks back at once, so that what a process has resident is what
/// it uses, and not the most that it ever used.
const ALLOCATOR: &[(&str, &str)] = &[
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "65536"),
    ("MALLOC_ARENA_MAX", "2"),
];

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(&[("server", server::serve), ("client", client::run)]);
}

/// How long it takes.
fn length() -> Duration {
    let seconds = std::env::var("NEARWIRE_SOAK_SECONDS").map(|text| text.parse());
    Duration::from_secs(seconds.map_or(60, |number| number.expect("a number of seconds")))
}

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// Rests at least, so that each quarter has two.
const RESTS: usize = 8;

#[test]
fn nothing_is_lost_and_nothing_grows() {
    let place = Place::new();
    let start = |role: &str, settings: &[(&str, &str)]| {
        Process::start_through(&[], place.path(), role, settings, ALLOCATOR)
    };
    let server = start("server", &[]);
    server.expect("ready");
    let at_rest = server.report();
    let mut clients: Vec<Process> = (0..CLIENTS)
        .map(|number| start("client", &[("number", &number.to_string())]))
        .collect();
    clients.iter().for_each(|client| client.expect("ready"));

    let (mut calling, mut memory_calling) = (Samples::default(), Samples::default());
    let (mut at_rests, mut rests) = (Samples::default(), 0);
    let began = Instant::now();
    while rests < RESTS || began.elapsed() < length() {
        clients.iter().for_each(|client| client.tell("go"));
        let round = Instant::now();
        while round.elapsed() < length() / 40 {
            // A hundred and more in a quarter.
            std::thread::sleep((length() / 500).min(Duration::from_secs(1)));
            for client in &mut clients {
                assert!(client.is_running(), "a client failed; see what it printed");
            }
            calling.take(&server, &clients);
            memory_calling.take_memory(&server, &clients, None);
        }
        clients.iter().for_each(|client| client.tell("stop"));
        clients.iter().for_each(|client| client.expect("stopped"));
        // Nothing is left of thousands of connections.
        let mut report = server.report();
        eventually("the server is as it was", || {
            report = server.report();
            ["connections", "descriptors", "segments"]
                .iter()
                .all(|what| report[*what] == at_rest[*what])
        });
        assert_eq!(server.ask("trim"), "trimmed");
        at_rests.take_memory(&server, &clients, Some((report["blocks"], report["bytes"])));
        rests += 1;
    }

    let mut did: BTreeMap<String, u64> = BTreeMap::new();
    for client in &clients {
        for (what, times) in client.report() {
            *did.entry(what).or_default() += times;
        }
    }
    let server_did = server.report();
    eprintln!("64 clients for {:?}: {did:?}", began.elapsed());
    eprintln!("the server: {server_did:?}");
    eprintln!("medians of four quarters, while they call:");
    let mut grown = memory_calling.grown(15.0);
    // A minute has few samples, of few threads, and what is allocated once for many comes late in it.
    let settled = length() >= Duration::from_secs(600);
    grown.extend(calling.grown(if settled { 2.0 } else { 15.0 }));
    eprintln!("at {rests} rests:");
    let mut grown_at_rest = at_rests.grown(if settled { 2.0 } else { 5.0 });
    if !settled {
        // Half a megabyte, in which a list that doubles for the last time weighs a fifth (seen).
        grown_at_rest.retain(|what| !what.contains("bytes allocated"));
    }
    grown.extend(grown_at_rest);
    for kind in client::KINDS {
        assert!(did[*kind] > 0, "no {kind} happened");
    }
    assert_eq!(did["empty"], server_did["empty"], "calls without a byte");
    for fault in ["lost", "duplicated", "spoilt", "sessions"] {
        assert_eq!(server_did[fault], 0, "{fault}");
    }
    assert!(grown.is_empty(), "these grew: {}", grown.join(", "));
}
