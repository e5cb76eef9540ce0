//! A server that shuts down.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, eventually, eventually_async, within, within_async};
use nearwire::{BlockingClient, Client, CloseReason, Code, Error};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn what_is_in_flight_is_finished() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "draining", async move {
        let client = Client::connect(&name).await.unwrap();
        let idle = Client::connect(&name).await.unwrap();
        let call = client.clone();
        let call = tokio::spawn(async move { call.call::<u64>("sleep_ms", &300u64).await });
        let mut items = client.stream::<u64>("count_slowly", &(30u64, 10u64));
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        server.tell("shutdown 20000");
        eventually_async("the name is free", || !Path::new(&name).exists()).await;
        // Whoever comes now is too late, and knows that nothing was done.
        loop {
            match client.call_bytes("echo", b"new").await {
                // Before the worker has heard of it.
                Ok(_) => {}
                Err(Error::Status(status)) => {
                    assert_eq!(status.code, Code::DRAINING);
                    assert!(status.code.not_executed());
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let mut late = client.stream::<u64>("count", &5u64);
        let error = late.next().await.unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Status(ref s) if s.code == Code::DRAINING),
            "{error}"
        );
        for n in 1..30 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        assert!(items.next().await.is_none());
        assert_eq!(call.await.unwrap().unwrap(), 300);
        server.expect("shut down");
        for client in [client, idle] {
            let error = client.call_bytes("echo", b"").await.unwrap_err();
            assert!(is_orderly(&error), "{error:?}");
        }
        let error = Client::connect(&name).await.unwrap_err();
        assert!(
            matches!(error, Error::NoServer { dead: false, .. }),
            "{error}"
        );
    });
}

/// Whether the server said that it ends, as opposed to just being gone.
fn is_orderly(error: &Error) -> bool {
    match error {
        // The client has heard that, and not yet that it is over.
        Error::Status(status) => status.code == Code::DRAINING,
        Error::Closed { reason, .. } => {
            matches!(
                reason,
                CloseReason::Finished | CloseReason::Drained | CloseReason::PeerSays(_)
            )
        }
        _ => false,
    }
}

fn what_takes_too_long_is_cut_off() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "cut off", async move {
        let client = Client::connect(&name).await.unwrap();
        let call = client.clone();
        let call = tokio::spawn(async move { call.call_bytes("hang", b"").await });
        eventually_async("it begins", || server.report()["started"] == 1).await;
        let begun = Instant::now();
        server.tell("shutdown 300");
        let error = call.await.unwrap().unwrap_err();
        assert!(is_orderly(&error), "{error:?}");
        assert!(begun.elapsed() >= Duration::from_millis(290));
        server.expect("shut down");
        eventually_async("its future is dropped", || server.report()["dropped"] == 1).await;
    });
}

fn clients_that_never_stop_calling_do_not_hold_the_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "1")]);
    let name = place.socket(NAME);
    within(PATIENCE, "busy while draining", move || {
        let answered = Arc::new(AtomicU64::new(0));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (name, answered) = (name.clone(), answered.clone());
                std::thread::spawn(move || {
                    let mut client = BlockingClient::connect(&name).unwrap();
                    let echo = client.method("echo_into").unwrap();
                    let mut pipeline = client.pipeline();
                    loop {
                        while pipeline.in_flight() < 64 {
                            match pipeline.submit(echo, &[7; 64]) {
                                Ok(_) => {}
                                Err(error) => return error,
                            }
                        }
                        // Answers that say that the server drains do not stop this client.
                        if let Err(error) = pipeline.next(|_, _| ()) {
                            return error;
                        }
                        answered.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        // One that comes later would be refused.
        eventually("both call", || {
            server.report()["connections"] == 2 && answered.load(Relaxed) > 1000
        });
        let begun = Instant::now();
        server.tell("shutdown 500");
        server.expect("shut down");
        let took = begun.elapsed();
        eprintln!("shutdown with 500 ms of grace beside busy clients: {took:?}");
        assert!(took < Duration::from_secs(10));
        for caller in callers {
            let error = caller.join().unwrap();
            assert!(is_orderly(&error), "{error:?}");
        }
    });
}

fn a_client_that_stands_still_does_not_hold_the_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let client = place.start_ready("in flight", &[("calls", "3")]);
    client.stop();
    within(PATIENCE, "stopped while draining", move || {
        let begun = Instant::now();
        server.tell("shutdown 300");
        server.expect("shut down");
        assert!(begun.elapsed() >= Duration::from_millis(290));
        // The worker lets go of them; the runtime drops them when it comes to it.
        eventually("their handlers end", || {
            let report = server.report();
            report["started"] == report["dropped"]
        });
    });
}

/// Not on Windows: wine 8 does not always come back from closing a handle in a process that is being killed
/// (docs/PLATFORMS.md).
#[cfg(unix)]
fn clients_killed_while_they_connect_do_not_hold_the_server() {
    let place = Place::new();
    for round in 0..10 {
        let server = place.start_ready("server", &[]);
        let mut clients = [(); 2].map(|()| place.start_ready("comes and goes", &[]));
        std::thread::sleep(Duration::from_millis(10 + round));
        for client in &mut clients {
            client.kill();
        }
        let begun = Instant::now();
        server.tell("shutdown 60000");
        server.expect("shut down");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

fn an_idle_server_shuts_down_at_once() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "idle shutdown", move || {
        let _clients: Vec<_> = (0..10)
            .map(|_| BlockingClient::connect(&name).unwrap())
            .collect();
        let begun = Instant::now();
        server.tell("shutdown 60000");
        server.expect("shut down");
        assert!(begun.elapsed() < Duration::from_secs(10));
    });
}

#[cfg(unix)]
mod on_unix {
    use super::clients_killed_while_they_connect_do_not_hold_the_server;

    crate::over_all_transports!(clients_killed_while_they_connect_do_not_hold_the_server);
}

crate::over_all_transports!(
    what_is_in_flight_is_finished,
    what_takes_too_long_is_cut_off,
    clients_that_never_stop_calling_do_not_hold_the_server,
    a_client_that_stands_still_does_not_hold_the_server,
    an_idle_server_shuts_down_at_once,
);

crate::over_both_transports_and!(across_threads:
    what_is_in_flight_is_finished,
    what_takes_too_long_is_cut_off,
    clients_that_never_stop_calling_do_not_hold_the_server,
    an_idle_server_shuts_down_at_once,
);
