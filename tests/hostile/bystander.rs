//! Who must not come to harm: a server as users run it (that of the calls' tests), and honest
//! clients of it.

use crate::server::NAME;
use crate::support::child::{Commands, say};
use crate::support::{Place, Process, Settings, os, pattern};
use nearwire::{BlockingClient, Client};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Calls without end, blocking and async, and checks each answer. Told `report`, it says how it
/// went since the last report.
pub fn call(settings: &Settings, commands: Commands) {
    let socket = settings.text("socket").expect("a socket").to_owned();
    let stop = AtomicBool::new(false);
    let mut blocking = BlockingClient::connect(&socket).unwrap();
    blocking.call_bytes("echo", b"on").unwrap();
    say("ready");
    while commands.next() == "report" {
        stop.store(false, Relaxed);
        let (times, later) = std::thread::scope(|threads| {
            let calling = threads.spawn(|| {
                let mut times = Vec::new();
                let mut seed = 0;
                // Once at least, however short the others' part was.
                while times.is_empty() || !stop.load(Relaxed) {
                    seed += 1;
                    let request = pattern(seed, seed as usize % 700);
                    let begun = Instant::now();
                    let reply = blocking.call_bytes("echo", &request).expect("an answer");
                    times.push(begun.elapsed());
                    assert!(reply == request, "a wrong answer");
                    // Leaves the worker time to sleep, so that it is woken beside the storm too.
                    if seed % 64 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                times
            });
            let (socket, stop_too) = (&socket, &stop);
            let later = threads.spawn(move || {
                crate::support::current_thread().block_on(async {
                    let client = Client::connect(socket).await.expect("a connection");
                    let mut calls = 0u64;
                    while calls == 0 || !stop_too.load(Relaxed) {
                        calls += 1;
                        let request = pattern(calls, 20_000);
                        let reply = client.call_bytes("echo_later", &request).await;
                        assert!(reply.expect("an answer") == request, "a wrong answer");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    calls
                })
            });
            say("calling");
            commands.next();
            stop.store(true, Relaxed);
            let times = calling.join();
            (times, later.join())
        });
        let (Ok(mut times), Ok(later)) = (times, later) else {
            say("calls=0 later=0 p50_us=0 p99_us=0 max_us=0");
            continue;
        };
        times.sort();
        let of = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
        say(format!(
            "calls={} later={later} p50_us={} p99_us={} max_us={}",
            times.len(),
            of(50),
            of(99),
            of(100)
        ));
    }
}

/// A server with an honest client, and what the server holds while nobody else is there.
pub struct Bystanders {
    pub server: Process,
    client: Process,
    holds: Holdings,
}

/// What must be the same before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    connections: u64,
    descriptors: u64,
    mappings: usize,
    threads: usize,
}

impl Bystanders {
    pub fn start(place: &Place) -> Self {
        Self::start_with(place, &[])
    }

    /// As [`start`](Self::start), with these settings of the server too.
    pub fn start_with(place: &Place, more: &[(&str, &str)]) -> Self {
        let settings = [&[("workers", "1"), ("handshake_ms", "2000")], more].concat();
        let server = place.start_ready("server", &settings);
        let client = place.start_ready("bystander", &[("socket", &place.socket(NAME))]);
        // Until everything that is made once is there.
        client.tell("report");
        client.expect("calling");
        std::thread::sleep(Duration::from_millis(300));
        let before = client.ask("stop");
        eprintln!("bystander alone:  {before}");
        let holds = settled(&server, A_WHILE);
        client.tell("report");
        client.expect("calling");
        Self {
            server,
            client,
            holds,
        }
    }

    /// Nothing happened to them, and nothing is left of whoever else was there.
    #[track_caller]
    pub fn unharmed(self) {
        let report = self.client.ask("stop");
        eprintln!("bystander beside: {report}");
        let number = |name: &str| -> u64 {
            let pair = report.split(' ').find_map(|pair| pair.strip_prefix(name));
            pair.unwrap().strip_prefix('=').unwrap().parse().unwrap()
        };
        assert!(number("calls") > 0 && number("later") > 0, "{report}");
        let deadline = Instant::now() + crate::support::PATIENCE;
        loop {
            let now = settled(&self.server, Duration::ZERO);
            if now == self.holds {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the server holds {now:?}, before it was {:?}",
                self.holds
            );
        }
    }
}

/// Longer than a thread stays that closes what a client left, and has nothing more to close.
const A_WHILE: Duration = Duration::from_millis(1500);

/// What the server holds, once that has not changed for a while.
fn settled(server: &Process, a_while: Duration) -> Holdings {
    let look = || {
        let report = server.report();
        Holdings {
            connections: report["connections"],
            descriptors: report["descriptors"],
            mappings: os::shared_mappings(server.id()),
            threads: os::cpu_times(server.id()).len(),
        }
    };
    let deadline = Instant::now() + crate::support::PATIENCE;
    let (mut before, mut since) = (look(), Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = look();
        if now != before {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= a_while {
            return before;
        }
        assert!(Instant::now() < deadline, "it does not settle: {before:?}");
    }
}
