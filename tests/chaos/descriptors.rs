//! Descriptors that run out, on either side.

use crate::census::Census;
use crate::ledger::Ledger;
use crate::server::NAME;
use crate::support::child::{Commands, Settings, open_descriptors, say};
use crate::support::{PATIENCE, current_thread, eventually, within};
use nearwire::{BlockingClient, Client, ClientBuilder, Error};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, Instant};

/// Lets this process open so many more descriptors.
fn allow(more: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some((open_descriptors() + more) as u64);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

/// As [`crate::server::serve`], with descriptors for so many things more than it has. Settings:
/// `descriptors`.
pub fn server(settings: &Settings, commands: Commands) {
    // What the server itself needs: workers, the acceptor, the runtime.
    allow(30 + settings.number("descriptors").unwrap());
    crate::server::serve(settings, commands);
}

#[test]
fn a_server_without_descriptors_keeps_its_clients() {
    within(PATIENCE * 2, "a server without descriptors", || {
        let ledger = Ledger::new();
        let settings = [("ledger", ledger.path()), ("descriptors", "40")];
        let server = ledger.place.start_ready("starved server", &settings);
        let name = ledger.place.socket(NAME);
        let before = Census::at_rest(&server);
        for _ in 0..3 {
            let impatient = ClientBuilder::new().timeout(Duration::from_millis(150));
            let (mut clients, mut refused) = (Vec::new(), 0);
            while refused < 5 {
                let began = Instant::now();
                match impatient.connect_blocking(&name) {
                    Ok(client) => clients.push(client),
                    Err(error) => {
                        // By the time, or by the server with its reason.
                        let known = matches!(error, Error::Io { .. } | Error::Handshake(_));
                        assert!(known, "{error:?}");
                        refused += 1;
                    }
                }
                assert!(began.elapsed() < Duration::from_secs(5));
            }
            assert!(clients.len() >= 5, "{} clients", clients.len());
            for client in &mut clients {
                assert_eq!(client.call_bytes("len", b"four").unwrap()[0], 4);
            }
            // It does not spin meanwhile on one that it cannot accept.
            let waiting = {
                let name = name.clone();
                std::thread::spawn(move || BlockingClient::connect(&name).map(drop))
            };
            let times = server.cpu_times();
            std::thread::sleep(Duration::from_millis(300));
            let spent = server.cpu_time_since(&times);
            eprintln!(
                "{} clients; without descriptors for 300 ms: {spent:?}",
                clients.len()
            );
            assert!(spent < Duration::from_millis(200), "{spent:?} of 300 ms");
            // As soon as there are some, others get in.
            clients.truncate(2);
            let _ = waiting.join().unwrap();
            let mut fresh = None;
            eventually("another client gets in", || {
                fresh = BlockingClient::connect(&name).ok();
                fresh.is_some()
            });
            let answer = fresh.unwrap().call_bytes("len", b"four");
            assert_eq!(answer.unwrap()[0], 4);
            for client in &mut clients {
                assert_eq!(client.call_bytes("len", b"four").unwrap()[0], 4);
            }
        }
        eventually("all are gone", || server.ask("connections") == "0");
        before.recurs(&server);
    });
}

/// Connects and calls with descriptors for 0, 1, 2, … things, then with enough. Says how each
/// attempt went.
pub fn client(_: &Settings, commands: Commands) {
    let runtime = current_thread();
    // What the runtime opens later.
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    let attempt = |kind: &str| match kind {
        "blocking" => {
            let mut client = BlockingClient::connect(NAME)?;
            // Long enough that it must sleep.
            client.call_bytes_timeout("hang", &crate::server::request(1, 0, 0), SLEEP)
        }
        _ => runtime.block_on(async {
            let client = Client::connect(NAME).await?;
            let request = crate::server::request(2, 0, 0);
            client.call_bytes("hang", &request).deadline(SLEEP).await
        }),
    };
    loop {
        let command = commands.next();
        let (kind, more) = command.split_once(' ').unwrap();
        let before = open_descriptors();
        allow(more.parse().unwrap());
        let outcome = attempt(kind);
        allow(1000);
        // A connection of the async client is closed by its driver.
        runtime.block_on(async {
            for _ in 0..1000 {
                if open_descriptors() == before {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let leaked = open_descriptors() as i64 - before as i64;
        let error = outcome.unwrap_err();
        say(format!("{leaked} {:?} {error}", error.may_have_executed()));
    }
}

const SLEEP: Duration = Duration::from_millis(60);

#[test]
fn a_client_without_descriptors_says_so() {
    within(PATIENCE * 2, "a client without descriptors", || {
        let ledger = Ledger::new();
        let server = ledger
            .place
            .start_ready("server", &[("ledger", ledger.path())]);
        let client = ledger.place.start("starved client", &[]);
        let before = Census::at_rest(&server);
        for kind in ["blocking", "async"] {
            let mut reached = false;
            for more in 0..12 {
                let said = client.ask(&format!("{kind} {more}"));
                eprintln!("{kind}, {more} descriptors: {said}");
                let (leaked, error) = said.split_once(' ').unwrap();
                assert_eq!(leaked, "0", "descriptors leaked");
                // Here or at the server, whoever looks at the clock first.
                let late = ["the deadline passed", "DEADLINE_EXCEEDED"];
                let known = if late.iter().any(|text| error.contains(text)) {
                    reached = true;
                    true
                } else {
                    assert!(!reached, "it worked with fewer");
                    error.contains("Too many open files")
                };
                assert!(known, "with {more} descriptors: {error}");
            }
            assert!(reached, "never enough");
        }
        eventually("all are gone", || server.ask("connections") == "0");
        before.recurs(&server);
    });
}
