//! A server that takes no more messages from a client, or connections from a process, than a rate lets
//! it: what is held back comes in the end, and nothing else waits for it.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually, eventually_async, within, within_async};
use nearwire::{BlockingClient, Client, ClientBuilder, Error};
use std::time::{Duration, Instant};

/// As [`PATIENCE`], for what a client that is held back must not wait for.
const SOON: Duration = Duration::from_secs(20);

fn no_more_is_taken_than_the_rate_and_all_of_it_in_the_end() {
    let (rate, burst, calls) = (2_000.0, 50.0, 800);
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "2000:50")]);
    let name = place.socket(NAME);
    within(PATIENCE, "calls above the rate", move || {
        let begun = Instant::now();
        let mut client = BlockingClient::connect(&name).unwrap();
        let echo = client.method("echo").unwrap();
        let mut pipeline = client.pipeline();
        let (mut submitted, mut answered) = (0u32, 0u32);
        while answered < calls {
            while submitted < calls && pipeline.in_flight() < pipeline.max_in_flight() {
                pipeline.submit(echo, &submitted.to_le_bytes()).unwrap();
                submitted += 1;
            }
            pipeline.flush();
            let expected = answered.to_le_bytes();
            pipeline
                .next(|_, reply| assert_eq!(reply.unwrap(), expected))
                .unwrap();
            answered += 1;
            let most = burst + rate * begun.elapsed().as_secs_f64();
            assert!(f64::from(answered) <= most, "{answered} of {most} at most");
        }
    });
    assert_eq!(server.report()["echoed"], u64::from(calls));
}

fn others_have_rates_of_their_own() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_message_rate", "1:3"), ("workers", "1")]);
    let name = place.socket(NAME);
    let mut greedy = BlockingClient::connect(&name).unwrap();
    for _ in 0..100 {
        greedy.notify_bytes("echo", b"x").unwrap();
    }
    within(SOON, "calls of others", move || {
        for _ in 0..20 {
            let mut client = BlockingClient::connect(&name).unwrap();
            for _ in 0..3 {
                assert_eq!(client.call_bytes("echo", b"in").unwrap(), b"in");
            }
        }
    });
    drop(greedy);
}

fn a_call_that_is_held_back_can_be_given_up() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("max_message_rate", "1:2")]);
    let name = place.socket(NAME);
    within(SOON, "giving up", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        for _ in 0..2 {
            client.call_bytes("echo", b"x").unwrap();
        }
        let timeout = Duration::from_millis(20);
        let error = loop {
            // A token may just have come.
            match client.call_bytes_timeout("echo", b"x", timeout) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
        assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
    });
}

fn a_cancellation_has_its_turn() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "100:2")]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "cancelling", async move {
        let client = Client::connect(&name).await.unwrap();
        let hanging = {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("hang", b"").await })
        };
        eventually_async("it begins", || server.report()["started"] == 1).await;
        for _ in 0..40 {
            client.notify_bytes("echo", b"x").await.unwrap();
        }
        hanging.abort();
        eventually_async("it ends", || server.report()["dropped"] == 1).await;
        eventually_async("all came", || server.report()["echoed"] == 40).await;
    });
}

fn answers_leave_while_requests_are_held_back() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "1:2")]);
    let name = place.socket(NAME);
    within(PATIENCE, "answers", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        let methods = ["sleep_ms", "echo"].map(|name| client.method(name).unwrap());
        let mut pipeline = client.pipeline();
        // A number as `postcard` writes it.
        pipeline.submit(methods[0], &[100]).unwrap();
        for _ in 0..60 {
            pipeline.submit(methods[1], b"x").unwrap();
        }
        pipeline.flush();
        let first: Vec<_> = (0..2)
            .map(|_| {
                let next = pipeline.next(|_, reply| reply.unwrap().to_vec());
                next.unwrap().expect("calls are in flight")
            })
            .collect();
        // The sleeper's and another's, in either order.
        assert!(first.contains(&b"x".to_vec()));
        assert!(server.report()["echoed"] < 60);
    });
}

fn a_client_that_dies_while_it_is_held_back_is_noticed() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "1:4")]);
    let mut client = place.start_ready("hang", &[("calls", "200")]);
    eventually("some begin", || server.report()["started"] >= 4);
    let killed = Instant::now();
    client.kill();
    eventually("the connection ends", || {
        let report = server.report();
        report["connections"] == 0 && report["started"] == report["dropped"]
    });
    assert!(killed.elapsed() < SOON);
}

fn what_a_client_sent_before_it_left_is_taken() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "1:1")]);
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    for _ in 0..200 {
        client.notify_bytes("echo", b"x").unwrap();
    }
    drop(client);
    eventually("all came", || server.report()["echoed"] == 200);
    eventually("it is closed", || server.report()["connections"] == 0);
}

fn draining_does_not_wait_for_what_is_held_back() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "1:4")]);
    let _hanging = place.start_ready("hang", &[("calls", "100")]);
    let name = place.socket(NAME);
    let mut idle = BlockingClient::connect(&name).unwrap();
    for _ in 0..100 {
        idle.notify_bytes("echo", b"x").unwrap();
    }
    eventually("some begin", || server.report()["started"] >= 4);
    within(PATIENCE, "shutdown", move || {
        let begun = Instant::now();
        server.tell("shutdown 300");
        server.expect("shut down");
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_millis(290) && took < SOON,
            "{took:?}"
        );
        assert!(server.report()["echoed"] < 100);
    });
}

fn draining_is_over_at_once_if_all_is_held_back() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_message_rate", "1:4")]);
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    for _ in 0..100 {
        client.notify_bytes("echo", b"x").unwrap();
    }
    within(PATIENCE, "shutdown", move || {
        let begun = Instant::now();
        server.tell("shutdown 60000");
        server.expect("shut down");
        assert!(begun.elapsed() < SOON);
    });
}

fn who_connects_too_fast_waits_and_nobody_else_does() {
    let (rate, burst, count) = (5.0, 10, 40);
    let place = Place::new();
    let server = place.start_ready("server", &[("max_connect_rate", "5:10")]);
    let many = place.start_ready("many", &[("count", &count.to_string())]);
    let name = place.socket(NAME);
    within(PATIENCE, "connecting", move || {
        let connections = || server.report()["connections"];
        let begun = Instant::now();
        many.tell("go");
        eventually("the burst is in", || connections() >= burst);
        // Of this process, which has a burst of its own.
        let mut others: Vec<_> = (0..3)
            .map(|_| BlockingClient::connect(&name).unwrap())
            .collect();
        for other in &mut others {
            assert_eq!(other.call_bytes("echo", b"in").unwrap(), b"in");
        }
        assert!(connections() < count + 3, "all others were before these");
        many.expect("done");
        assert_eq!(connections(), count + 3);
        let most = burst as f64 + rate * begun.elapsed().as_secs_f64();
        assert!(count as f64 <= most, "{count} of {most} at most");
    });
}

fn stopping_does_not_wait_for_those_that_connect_too_fast() {
    let place = Place::new();
    let server = place.start_ready("server", &[("max_connect_rate", "1:1")]);
    let name = place.socket(NAME);
    let _first = BlockingClient::connect(&name).unwrap();
    let waiting = std::thread::spawn(move || {
        let builder = ClientBuilder::new().timeout(PATIENCE);
        // One by one, so that one waits nearly all the time.
        let mut clients = Vec::new();
        loop {
            match builder.clone().connect_blocking(&name) {
                Ok(client) => clients.push(client),
                Err(error) => return error,
            }
        }
    });
    eventually("another is in", || server.report()["connections"] >= 2);
    within(PATIENCE, "shutdown", move || {
        let begun = Instant::now();
        server.tell("shutdown 60000");
        server.expect("shut down");
        assert!(begun.elapsed() < SOON);
        waiting.join().unwrap();
        assert!(begun.elapsed() < SOON, "it was not told");
    });
}

crate::over_all_transports!(
    who_connects_too_fast_waits_and_nobody_else_does,
    stopping_does_not_wait_for_those_that_connect_too_fast,
    no_more_is_taken_than_the_rate_and_all_of_it_in_the_end,
    others_have_rates_of_their_own,
    a_call_that_is_held_back_can_be_given_up,
    a_cancellation_has_its_turn,
    answers_leave_while_requests_are_held_back,
    a_client_that_dies_while_it_is_held_back_is_noticed,
    what_a_client_sent_before_it_left_is_taken,
    draining_does_not_wait_for_what_is_held_back,
    draining_is_over_at_once_if_all_is_held_back,
);
