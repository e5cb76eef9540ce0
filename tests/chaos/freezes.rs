//! SIGSTOP and SIGCONT: processes that stand still for a while, or until they are killed.

use crate::caller::{KINDS, caller_of};
use crate::census::{Census, files};
use crate::kills::{rest, seed, start_caller, start_server};
use crate::ledger::Ledger;
use crate::server::{NAME, reply, request};
use crate::support::{PATIENCE, Process, eventually, within, within_async};
use nearwire::{BlockingClient, Client, ClientBuilder, CloseReason, Error};
use std::time::{Duration, Instant};

/// Whether so much time has passed and not much more.
#[track_caller]
fn about(began: Instant, time: Duration) {
    let took = began.elapsed();
    assert!(
        took >= time && took < time + Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn a_frozen_server_holds_up_whoever_waits_and_nobody_else() {
    let ledger = Ledger::new();
    let mut server = start_server(&ledger);
    server.expect("ready");
    let name = ledger.place.socket(NAME);
    within_async(PATIENCE, "a frozen server", async move {
        let client = Client::connect(&name).await.unwrap();
        let answer = client.call_bytes("sync", &request(1, 5, 5)).await.unwrap();
        assert_eq!(answer, reply(1, 5));
        server.stop();
        let waiting = {
            let client = client.clone();
            // Larger than the ring.
            let bytes = request(2, 300_000, 300_000);
            tokio::spawn(async move { client.call_bytes("later", &bytes).await })
        };
        let time = Duration::from_millis(100);
        let began = Instant::now();
        let bytes = request(3, 0, 0);
        let error = client.call_bytes("sync", &bytes).deadline(time).await;
        assert!(matches!(error, Err(Error::DeadlineExceeded)), "{error:?}");
        about(began, time);
        let began = Instant::now();
        let impatient = ClientBuilder::new().timeout(time);
        let error = impatient.connect(&name).await.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        about(began, time);
        server.go_on();
        assert!(waiting.await.unwrap().unwrap() == reply(2, 300_000));
        let answer = client.call_bytes("later", &request(4, 9, 9)).await.unwrap();
        assert_eq!(answer, reply(4, 9));

        // Killed while it stands still.
        server.stop();
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("later", &request(5, 0, 0)).await })
        };
        let large = {
            let client = client.clone();
            let bytes = request(6, 0, 300_000);
            tokio::spawn(async move { client.call_bytes("later", &bytes).await })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        let killed = server.kill();
        let error = large.await.unwrap().unwrap_err();
        assert!(
            !error.may_have_executed(),
            "it was not sent wholly: {error}"
        );
        let error = waiting.await.unwrap().unwrap_err();
        crate::support::soon_after(killed, "a server killed while it was frozen");
        assert!(
            matches!(
                error,
                Error::Closed {
                    reason: CloseReason::PeerGone,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(client.in_flight(), 0);
        let executed = ledger.entries().into_iter().map(|entry| entry.call);
        let executed: Vec<_> = executed.filter(|call| [1, 2, 4].contains(call)).collect();
        assert_eq!(executed, [1, 2, 4], "each once, in their order");
    });
}

#[test]
fn a_blocking_client_does_not_wait_for_a_frozen_server_beyond_its_time() {
    let ledger = Ledger::new();
    let server = start_server(&ledger);
    server.expect("ready");
    let name = ledger.place.socket(NAME);
    within(PATIENCE, "blocking, frozen", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        server.stop();
        let time = Duration::from_millis(50);
        // The first fits into the ring, the second does not.
        for (call, len) in [(1, 10), (2, 200_000)] {
            let began = Instant::now();
            let error = client.call_bytes_timeout("sync", &request(call, 0, len), time);
            assert!(matches!(error, Err(Error::DeadlineExceeded)), "{error:?}");
            about(began, time);
        }
        server.go_on();
        for call in 3..100 {
            let answer = client.call_bytes("sync", &request(call, 9, 9)).unwrap();
            assert_eq!(answer, reply(call, 9));
        }
    });
}

#[test]
fn a_frozen_client_harms_nobody() {
    let ledger = Ledger::new();
    let server = start_server(&ledger);
    server.expect("ready");
    let mut neighbour = BlockingClient::connect(&ledger.place.socket(NAME)).unwrap();
    neighbour.call_bytes("len", b"warm").unwrap();
    let before = Census::at_rest(&server);
    let resident = server.resident();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut frozen = start_caller(&ledger, number, kind, false);
        frozen.expect("ready");
        frozen.tell("go");
        std::thread::sleep(Duration::from_millis(50));
        frozen.stop();
        let began = Instant::now();
        let mut calls = 0;
        while began.elapsed() < Duration::from_millis(200) {
            assert_eq!(neighbour.call_bytes("len", b"four").unwrap()[0], 4);
            calls += 1;
        }
        assert!(calls > 20, "only {calls} calls beside a frozen client");
        frozen.go_on();
        std::thread::sleep(Duration::from_millis(50));
        assert!(frozen.is_running());
        rest(&frozen);
        ledger.check(|call| caller_of(call) == number as u64);
        frozen.tell("go");
        std::thread::sleep(Duration::from_millis(30));
        frozen.stop();
        frozen.kill();
        frozen.ended();
        eventually("the server lets go of it", || {
            server.ask("connections") == "1"
        });
    }
    before.recurs(&server);
    let grown = server.resident().saturating_sub(resident);
    eprintln!("frozen clients cost the server {} KiB", grown >> 10);
    assert!(grown < 32 << 20, "the server grew by {grown} bytes");
}

#[test]
fn processes_that_stand_still_at_random_lose_nothing() {
    let mut dice = fastrand::Rng::with_seed(seed());
    let ledger = Ledger::new();
    let server = start_server(&ledger);
    server.expect("ready");
    let mut processes: Vec<Process> = (0..4)
        .map(|number| start_caller(&ledger, number, KINDS[number % 3], false))
        .collect();
    // What they use when they have called and rest.
    for caller in &processes {
        caller.expect("ready");
        caller.tell("go");
    }
    std::thread::sleep(Duration::from_millis(30));
    processes.iter().for_each(|caller| drop(rest(caller)));
    let gone = |server: &Process| {
        eventually("the server lets go of all", || {
            server.ask("connections") == "0"
        });
    };
    gone(&server);
    processes.push(server);
    let before: Vec<_> = processes.iter().map(Census::at_rest).collect();
    for caller in &processes[..4] {
        caller.tell("go");
    }
    for _ in 0..60 {
        let process = &processes[dice.usize(0..processes.len())];
        process.stop();
        std::thread::sleep(Duration::from_micros(dice.u64(0..20_000)));
        process.go_on();
        std::thread::sleep(Duration::from_micros(dice.u64(0..5_000)));
        processes
            .iter_mut()
            .for_each(|process| assert!(process.is_running()));
    }
    processes[..4].iter().for_each(|caller| drop(rest(caller)));
    let summary = ledger.check(|_| true);
    eprintln!("frozen at random: {summary:?}");
    // Only what was given up.
    assert_eq!(summary.not, 0, "{summary:?}");
    gone(&processes[4]);
    for (process, before) in processes.iter().zip(&before) {
        before.recurs(process);
    }
    processes[4].tell("shutdown 0");
    processes[4].expect("shut down");
    assert!(files(ledger.place.path()).is_empty());
}
