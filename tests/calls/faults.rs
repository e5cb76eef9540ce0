//! Handlers that panic, processes that die or stand still.

use crate::limits::rejected;
use crate::server::NAME;
use crate::support::{
    PATIENCE, Place, Process, eventually, multi_thread, soon_after, within, within_async,
};
use nearwire::{BlockingClient, Client, CloseReason, Code, Error, Spin};
use std::sync::mpsc;
use std::time::Instant;

fn a_panicking_handler_costs_its_caller_one_error() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "1")]);
    let mut neighbour = BlockingClient::connect(&place.socket(NAME)).unwrap();
    let name = place.socket(NAME);
    within_async(PATIENCE, "panics", async move {
        let client = Client::connect(&name).await.unwrap();
        for _ in 0..3 {
            for (method, text) in [
                ("panic_sync", "sync"),
                ("panic_start", "start"),
                ("panic_first", "first"),
                ("panic_later", "later"),
            ] {
                let error = client.call_bytes(method, b"").await.unwrap_err();
                let Error::Status(status) = error else {
                    panic!("{method}: {error}")
                };
                assert_eq!(status.code, Code::HANDLER_PANICKED);
                assert!(status.message.contains(text), "{status}");
                assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
            }
            let mut items = client.stream_bytes("panic_stream", b"");
            assert_eq!(items.next().await.unwrap().unwrap(), b"one");
            for mut items in [items, client.stream_bytes("panic_stream_start", b"")] {
                let Some(Err(Error::Status(status))) = items.next().await else {
                    panic!("no status")
                };
                assert_eq!(status.code, Code::HANDLER_PANICKED);
                assert!(items.next().await.is_none());
            }
            // It had its answer when it panicked; whichever comes, the worker lives.
            let _ = client.call_bytes("panic_drop", b"").await;
            assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
        }
        assert_eq!(client.in_flight(), 0);
    });
    assert_eq!(neighbour.call_bytes("echo", b"on").unwrap(), b"on");
    eventually("the client has left", || {
        server.report()["connections"] == 1
    });
}

/// Whether it says that the server is gone, in one way or another.
fn is_gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Closed {
            reason: CloseReason::PeerGone,
            ..
        }
    )
}

/// Kills the server while `wait` is waiting for it, which says when it begins.
fn kill_during<T: Send + 'static>(
    mut server: Process,
    what: &'static str,
    wait: impl FnOnce(mpsc::Sender<()>) -> T + Send + 'static,
) -> T {
    within(PATIENCE, what, move || {
        let (begins, began) = mpsc::channel();
        let waiting = std::thread::spawn(move || (wait(begins), Instant::now()));
        began.recv().unwrap();
        // Until it sleeps.
        std::thread::sleep(std::time::Duration::from_millis(100));
        let killed = server.kill();
        let (outcome, ended) = waiting.join().unwrap();
        assert!(ended >= killed, "{what}: ended before the kill");
        soon_after(killed, what);
        outcome
    })
}

fn a_blocking_call_learns_that_the_server_was_killed() {
    for spin in [Spin::default(), Spin::NEVER] {
        let place = Place::new();
        let server = place.start_ready("server", &[]);
        let name = place.socket(NAME);
        let error = kill_during(server, "blocking call", move |begins| {
            let builder = BlockingClient::builder().spin(spin);
            let mut client = builder.connect_blocking(&name).unwrap();
            begins.send(()).unwrap();
            let error = client.call_bytes("hang", b"").unwrap_err();
            // It stays gone, and what is asked for now nobody executes.
            let later = client.call_bytes("echo", b"").unwrap_err();
            assert!(is_gone(&later) && !later.may_have_executed(), "{later}");
            let (echo, mut pipeline) = (client.method("echo").unwrap(), client.pipeline());
            let later = pipeline.submit(echo, b"").unwrap_err();
            assert!(is_gone(&later) && !later.may_have_executed(), "{later}");
            drop(pipeline);
            error
        });
        assert!(is_gone(&error), "{error}");
        let error = BlockingClient::connect(&place.socket(NAME)).unwrap_err();
        assert!(matches!(error, Error::NoServer { .. }), "{error}");
    }
}

fn a_pipeline_learns_that_the_server_was_killed() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let error = kill_during(server, "pipeline", move |begins| {
        let mut client = BlockingClient::connect(&name).unwrap();
        let (hang, echo) = (
            client.method("hang").unwrap(),
            client.method("echo").unwrap(),
        );
        let mut pipeline = client.pipeline();
        for _ in 0..32 {
            pipeline.submit(hang, b"").unwrap();
            pipeline.submit(echo, b"echo").unwrap();
        }
        // What was answered before is still there.
        for _ in 0..32 {
            let reply = pipeline.next(|_, reply| reply.map(<[u8]>::to_vec)).unwrap();
            assert_eq!(reply.unwrap().unwrap(), b"echo");
        }
        begins.send(()).unwrap();
        pipeline.next(|_, _| ()).unwrap_err()
    });
    assert!(is_gone(&error), "{error}");
}

fn sending_a_request_larger_than_the_ring_learns_that_the_server_was_killed() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let error = kill_during(server, "large request", move |begins| {
        let mut client = BlockingClient::connect(&name).unwrap();
        let block = client.method("block_ms").unwrap();
        let mut pipeline = client.pipeline();
        // Ten seconds, in which the server reads nothing.
        pipeline.submit(block, &[0x90, 0x4e]).unwrap();
        begins.send(()).unwrap();
        pipeline.submit(block, &vec![0; 1 << 20]).unwrap_err()
    });
    assert!(is_gone(&error), "{error}");
}

fn async_calls_and_streams_learn_that_the_server_was_killed() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    kill_during(server, "32 async calls and 2 streams", move |begins| {
        multi_thread().block_on(async {
            let client = Client::connect(&name).await.unwrap();
            let calls = (0..32).map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call_bytes("hang", b"").await.unwrap_err() })
            });
            let calls: Vec<_> = calls.collect();
            // One that waits, and one with items that were not taken yet.
            let mut waiting = client.stream::<u64>("count_slowly", &(2u64, 60_000u64));
            waiting.next().await.unwrap().unwrap();
            let mut endless = client.stream::<Vec<u8>>("endless", &100u64);
            for _ in 0..100 {
                endless.next().await.unwrap().unwrap();
            }
            begins.send(()).unwrap();
            let error = waiting.next().await.unwrap().unwrap_err();
            assert!(is_gone(&error), "{error}");
            assert!(waiting.next().await.is_none());
            for call in calls {
                let error = call.await.unwrap();
                assert!(is_gone(&error), "{error}");
            }
            let error = loop {
                if let Err(error) = endless.next().await.unwrap() {
                    break error;
                }
            };
            assert!(is_gone(&error), "{error}");
            assert!(endless.next().await.is_none());
            let error = client.call_bytes("echo", b"").await.unwrap_err();
            assert!(is_gone(&error), "{error}");
            assert_eq!(client.in_flight(), 0);
        });
    });
}

fn an_idle_async_client_learns_of_it_with_its_next_call() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "idle, then a call", async move {
        let client = Client::connect(&name).await.unwrap();
        let unused = Client::connect(&name).await.unwrap();
        assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
        let killed = server.kill();
        for client in [client, unused] {
            let error = client.call_bytes("echo", b"").await.unwrap_err();
            assert!(is_gone(&error), "{error}");
        }
        soon_after(killed, "idle async clients");
    });
}

fn killed_clients_leave_nothing_at_the_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let mut neighbour = BlockingClient::connect(&place.socket(NAME)).unwrap();
    assert_eq!(neighbour.call_bytes("echo", b"on").unwrap(), b"on");
    let before = server.report();
    let rounds = 3;
    for round in 1..=rounds {
        let mut clients: Vec<_> = (0..3)
            .map(|_| place.start_ready("in flight", &[("calls", "20")]))
            .collect();
        let begun = round * 3 * 21;
        eventually("all calls begin", || server.report()["started"] == begun);
        assert_eq!(server.report()["connections"], 4);
        let killed = clients.iter_mut().map(Process::kill).last().unwrap();
        eventually("their handlers end", || server.report()["dropped"] == begun);
        soon_after(killed, "handlers of three killed clients");
        eventually("their connections end", || {
            server.report()["connections"] == 1
        });
        assert_eq!(neighbour.call_bytes("echo", b"on").unwrap(), b"on");
    }
    // A thread may be at it still: what a client may have left something in is not closed in place.
    eventually("all descriptors are closed", || {
        let (now, then) = (server.report()["descriptors"], before["descriptors"]);
        // On Windows a thread pool may have had something open then that it has closed since.
        now == then || (cfg!(windows) && now < then)
    });
}

fn connecting_and_leaving_leaks_no_descriptor_on_either_side() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    // Warm, for a thread pool may keep the threads that it needed, or not.
    let clients = place.start_ready("many", &[("count", "50"), ("warm", "")]);
    eventually("the first connections are closed", || {
        server.report()["connections"] == 0
    });
    let before = server.report()["descriptors"];
    clients.tell("go");
    clients.expect("done");
    assert!(server.report()["descriptors"] > before);
    // All that the runtime had is gone with it.
    let kept: i64 = clients.ask("close").parse().unwrap();
    assert!(kept <= 0, "the client keeps {kept} descriptors");
    eventually("the server's descriptors are closed", || {
        server.report()["descriptors"] <= before
    });
}

fn a_stopped_client_does_not_disturb_others() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "1")]);
    let greedy = [("kind", "async"), ("calls", "1000000"), ("len", "3000")];
    let greedy = place.start_ready("echoes", &greedy);
    let streaming = place.start_ready("in flight", &[("calls", "5")]);
    greedy.stop();
    streaming.stop();
    let name = place.socket(NAME);
    within(PATIENCE, "others", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        for n in 0..2000u64 {
            let method = ["echo_into", "echo_later"][n as usize % 2];
            let request = n.to_le_bytes();
            assert_eq!(client.call_bytes(method, &request).unwrap(), request);
        }
    });
    let resting = server.cpu_times();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let used = server.cpu_time_since(&resting);
    eprintln!("server beside two stopped clients: {used:?} of processor time in 300 ms");
    assert!(
        used.as_millis() < 100,
        "the server spins for stopped clients: {used:?}"
    );
    greedy.go_on();
    drop(greedy);
    eventually("its connection ends", || {
        server.report()["connections"] <= 2
    });
}

fn a_server_that_stands_still_does_not_hold_a_connecting_client_for_ever() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    server.stop();
    let name = place.socket(NAME);
    within(PATIENCE, "connecting to a stopped server", move || {
        let timeout = std::time::Duration::from_millis(300);
        let begun = Instant::now();
        let error = nearwire::ClientBuilder::new()
            .timeout(timeout)
            .connect_blocking(&name)
            .unwrap_err();
        assert!(begun.elapsed() >= timeout);
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("does not answer"), "{error}");
    });
    server.go_on();
    let mut client = BlockingClient::connect(&place.socket(NAME)).unwrap();
    assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
}

/// Clients give up in each `round`, of which there are two. What is there after the second time was there after
/// the first: a thread pool may keep its threads, but neither side keeps anything of a client.
fn nothing_is_kept(server: &Process, clients: &Process, round: impl Fn()) {
    let all = || -> (u64, u64) {
        let here = clients.ask("count").parse().unwrap();
        (here, server.report()["descriptors"])
    };
    round();
    let mut once = all();
    let mut same = 0;
    eventually("it is quiet", || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = all();
        same = if now == once { same + 1 } else { 0 };
        once = now;
        same >= 20
    });
    round();
    eventually("all descriptors are closed", || {
        let now = all();
        now.0 <= once.0 && now.1 <= once.1
    });
}

fn a_client_that_gives_up_on_a_stopped_server_keeps_nothing() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let clients = place.start_ready("give up", &[("count", "3"), ("time", "300")]);
    eventually("the first connection is closed", || {
        server.report()["connections"] == 0
    });
    nothing_is_kept(&server, &clients, || {
        server.stop();
        clients.tell("go");
        clients.expect("gave up");
        server.go_on();
    });
}

fn a_client_that_gives_up_in_the_middle_of_a_handshake_keeps_nothing() {
    let place = Place::new();
    let server = place.start_ready("server", &[("slow policy", "500")]);
    let clients = place.start_ready("give up", &[("count", "4"), ("time", "200")]);
    eventually("the first connection is closed", || {
        server.report()["connections"] == 0
    });
    nothing_is_kept(&server, &clients, || {
        clients.tell("go");
        clients.expect("gave up");
    });
}

fn a_policy_that_panics_refuses_and_nothing_else() {
    let place = Place::new();
    let _server = place.start_ready("server", &[("panicking policy", "")]);
    for _ in 0..3 {
        let error = BlockingClient::connect(&place.socket(NAME)).unwrap_err();
        let (code, _) = rejected(error);
        assert_eq!(code, nearwire::proto::handshake::RejectCode::Credentials);
    }
}

crate::over_all_transports!(
    a_panicking_handler_costs_its_caller_one_error,
    a_blocking_call_learns_that_the_server_was_killed,
    a_pipeline_learns_that_the_server_was_killed,
    sending_a_request_larger_than_the_ring_learns_that_the_server_was_killed,
    async_calls_and_streams_learn_that_the_server_was_killed,
    an_idle_async_client_learns_of_it_with_its_next_call,
    killed_clients_leave_nothing_at_the_server,
    connecting_and_leaving_leaks_no_descriptor_on_either_side,
    a_stopped_client_does_not_disturb_others,
    a_server_that_stands_still_does_not_hold_a_connecting_client_for_ever,
    a_client_that_gives_up_on_a_stopped_server_keeps_nothing,
    a_client_that_gives_up_in_the_middle_of_a_handshake_keeps_nothing,
    a_policy_that_panics_refuses_and_nothing_else,
);

crate::over_both_transports_and!(across_threads:
    a_panicking_handler_costs_its_caller_one_error,
    a_policy_that_panics_refuses_and_nothing_else,
);
