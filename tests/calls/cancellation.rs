//! Calls that are given up: by dropping, by a deadline, in the middle of a request.

use crate::server::NAME;
use crate::support::{
    PATIENCE, Place, eventually, eventually_async, multi_thread, pattern, within, within_async,
};
use nearwire::{BlockingClient, Client, ClientBuilder, Error};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Long enough for a request to be under way, and short for a test.
const A_MOMENT: Duration = Duration::from_millis(60);

fn dropping_a_call_drops_the_handlers_future() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "dropped calls", async move {
        let client = Client::connect(&name).await.unwrap();
        let calls = (0..10).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("hang", b"").await })
        });
        let calls: Vec<_> = calls.collect();
        eventually_async("they begin", || server.report()["started"] == 10).await;
        assert_eq!(client.in_flight(), 10);
        assert_eq!(server.report()["dropped"], 0);
        calls.iter().for_each(|call| call.abort());
        eventually_async("they end", || server.report()["dropped"] == 10).await;
        assert_eq!(client.in_flight(), 0);
        assert_eq!(client.call_bytes("echo", b"on").await.unwrap(), b"on");
    });
}

fn a_deadline_ends_a_call_on_both_sides() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "deadlines, async", async move {
        let client = Client::connect(&name).await.unwrap();
        let begun = Instant::now();
        let call = client.call_bytes("hang", b"").deadline(A_MOMENT);
        let error = call.await.unwrap_err();
        // Whichever side's clock is first.
        assert!(is_late(&error), "{error}");
        assert!(begun.elapsed() >= A_MOMENT);
        eventually_async("it ends", || server.report()["dropped"] == 1).await;
        // A deadline that is not reached changes nothing.
        let long = Duration::from_secs(3600);
        let reply = client.call_bytes("echo_later", b"in time").deadline(long);
        assert_eq!(reply.await.unwrap(), b"in time");
        let never = client
            .call_bytes("echo", b"in time")
            .deadline(Duration::MAX);
        assert_eq!(never.await.unwrap(), b"in time");
        let at_once = client
            .call_bytes("echo_later", b"")
            .deadline(Duration::ZERO);
        assert!(is_late(&at_once.await.unwrap_err()));
        assert_eq!(client.in_flight(), 0);
    });
    let server = place.start_ready("server", &[("name", "blocking")]);
    let name = place.socket("blocking");
    within(PATIENCE, "deadlines, blocking", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        let begun = Instant::now();
        let error = client.call_bytes_timeout("hang", b"", A_MOMENT);
        assert!(is_late(&error.unwrap_err()));
        assert!(begun.elapsed() >= A_MOMENT);
        eventually("it ends", || server.report()["dropped"] == 1);
        let reply = client.call_bytes_timeout("echo_later", b"in time", Duration::MAX);
        assert_eq!(reply.unwrap(), b"in time");
        let error = client.call_bytes_timeout("echo_later", b"", Duration::ZERO);
        assert!(is_late(&error.unwrap_err()));
    });
}

/// Whether a call that should have been too late was not, because this process did not run for a
/// while.
fn late_or_done(result: nearwire::Result<Vec<u8>>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) if is_late(&error) => false,
        Err(error) => panic!("{error}"),
    }
}

fn is_late(error: &Error) -> bool {
    match error {
        Error::DeadlineExceeded => true,
        Error::Status(status) => status.code == nearwire::Code::DEADLINE_EXCEEDED,
        _ => false,
    }
}

fn the_server_keeps_the_deadline_of_a_client_that_stands_still() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let client = place.start_ready("deadline", &[("time", "500")]);
    client.tell("call");
    client.expect("calling");
    eventually("the call begins", || server.report()["started"] == 1);
    client.stop();
    eventually("the server ends it", || server.report()["dropped"] == 1);
    client.go_on();
    let ended = client.hear();
    assert!(
        ended.contains("DeadlineExceeded") || ended.contains("DEADLINE_EXCEEDED"),
        "{ended}"
    );
}

fn a_late_reply_is_not_taken_for_another_calls() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "late replies", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        for n in 0..5u8 {
            // Sync handlers cannot be stopped: the reply comes, but late.
            let block = [100];
            late_or_done(client.call_bytes_timeout("block_ms", &block, A_MOMENT / 2));
            assert_eq!(client.call_bytes("echo", &[n]).unwrap(), [n]);
        }
    });
    let name = place.socket(NAME);
    within_async(PATIENCE, "late replies, async", async move {
        let client = Client::connect(&name).await.unwrap();
        for n in 0..5u8 {
            let call = client.call_bytes("block_ms", &[100]).deadline(A_MOMENT / 2);
            late_or_done(call.await);
            assert_eq!(client.call_bytes("echo", &[n]).await.unwrap(), [n]);
        }
    });
}

fn giving_up_in_the_middle_of_a_request_does_not_break_the_connection() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let large = pattern(1, 1 << 20);
    // Of many lengths, so that the ring is sometimes full to the last byte.
    let lengths = [1usize, 8, 100, 640, 900, 1016];
    const BLOCKED: Duration = Duration::from_millis(100);
    // Given up after all, but so late that the server may have read on and got all of it.
    let too_late = Arc::new(AtomicU64::new(0));
    let note = |too_late: &AtomicU64, begun: Instant| {
        too_late.fetch_add(u64::from(begun.elapsed() >= BLOCKED), Relaxed);
    };
    let late = too_late.clone();
    let (name, request) = (place.socket(NAME), large.clone());
    let done = within(PATIENCE, "given up midway, blocking", move || {
        let mut done = 0;
        for ring in [4096, 64 << 10] {
            let builder = ClientBuilder::new().ring(ring);
            let mut client = builder.connect_blocking(&name).unwrap();
            for len in lengths {
                let block = client.method("block_ms").unwrap();
                let echo = client.method("echo_into").unwrap();
                // The server reads nothing for a while.
                let begun = Instant::now();
                let mut pipeline = client.pipeline();
                pipeline.submit(block, &[100]).unwrap();
                pipeline.submit(echo, &request[..len]).unwrap();
                drop(pipeline);
                let cut_off = client.call_bytes_timeout("echo", &request, A_MOMENT / 2);
                match late_or_done(cut_off) {
                    true => done += 1,
                    false => note(&late, begun),
                }
                done += 1;
                assert!(client.call_bytes("echo", &request).unwrap() == request);
            }
        }
        done
    });
    let name = place.socket(NAME);
    let late = too_late.clone();
    let done = within_async(PATIENCE, "given up midway, async", async move {
        let mut done = done;
        for ring in [4096, 64 << 10] {
            let client = ClientBuilder::new()
                .ring(ring)
                .connect(&name)
                .await
                .unwrap();
            for len in lengths {
                let begun = Instant::now();
                let block = client.clone();
                let block =
                    tokio::spawn(async move { block.call::<u64>("block_ms", &100u64).await });
                tokio::time::sleep(Duration::from_millis(5)).await;
                let cut_off = client.call_bytes("echo", &large);
                match tokio::time::timeout(A_MOMENT / 2, cut_off).await {
                    // The server is free again: this thread was kept from its processor meanwhile.
                    Ok(reply) => {
                        assert!(begun.elapsed() >= BLOCKED && reply.unwrap() == large);
                        done += 1;
                    }
                    Err(_) => note(&late, begun),
                }
                let behind = client
                    .call_bytes("echo", &large)
                    .deadline(Duration::from_millis(10));
                match late_or_done(behind.await) {
                    true => done += 1,
                    false => note(&late, begun),
                }
                done += 2;
                let small = client.call_bytes("echo", &large[..len]).await.unwrap();
                assert!(small == large[..len]);
                assert!(client.call_bytes("echo", &large).await.unwrap() == large);
                assert_eq!(block.await.unwrap().unwrap(), 100);
            }
            assert_eq!(client.in_flight(), 0);
        }
        done
    });
    let echoed = server.report()["echoed"];
    let too_late = too_late.load(Relaxed);
    assert!(
        echoed >= done && echoed <= done + too_late,
        "{echoed} executed, {done} were to be, {too_late} may have been: one was that was given up half sent"
    );
}

fn a_cancellation_that_finds_the_ring_full_is_sent_later() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "cancelled, ring full", async move {
        let client = ClientBuilder::new()
            .ring(4096)
            .connect(&name)
            .await
            .unwrap();
        let block = client.clone();
        let block = tokio::spawn(async move { block.call::<u64>("block_ms", &150u64).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let calls = (0..100).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("hang", &[0; 100]).await })
        });
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        block.abort();
        calls.iter().for_each(|call| call.abort());
        for call in calls {
            assert!(call.await.unwrap_err().is_cancelled());
        }
        assert_eq!(client.in_flight(), 0);
        // Nobody calls any more, and the server learns of it all the same.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let settled = || {
            let report = server.report();
            report["started"] == report["dropped"]
        };
        eventually_async("all that began has ended", settled).await;
        assert!(
            server.report()["started"] > 10,
            "the ring took next to nothing"
        );
    });
}

fn a_call_that_is_kept_but_not_polled_hinders_nobody() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "an unlucky select", move || {
        multi_thread().block_on(async {
            let client = ClientBuilder::new()
                .ring(4096)
                .connect(&name)
                .await
                .unwrap();
            let request = pattern(1, 300);
            let mut kept = pin!(client.call::<u64>("sleep_ms", &20u64));
            let mut kept_echo = pin!(client.call_bytes("echo_later", &request));
            tokio::select! {
                biased;
                _ = &mut kept => panic!("too early"),
                _ = &mut kept_echo => {}
                () = std::future::ready(()) => {}
            }
            let others = (0..8u64).map(|task| {
                let client = client.clone();
                tokio::spawn(async move {
                    for n in 0..50 {
                        let len = [10, 1000, 20_000][n as usize % 3];
                        let request = pattern(task << 32 | n, len);
                        let reply = client.call_bytes("echo_later", &request).await;
                        assert!(reply.unwrap() == request);
                    }
                })
            });
            for task in others.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            // It is still good.
            assert_eq!(kept.await.unwrap(), 20);
        });
    });
}

fn a_large_request_that_is_kept_half_sent_hinders_nobody() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "kept half sent", async move {
        let client = ClientBuilder::new()
            .ring(4096)
            .connect(&name)
            .await
            .unwrap();
        let large = pattern(1, 100_000);
        let mut kept = pin!(client.call_bytes("echo", &large));
        tokio::select! {
            biased;
            _ = &mut kept => panic!("more than the ring holds"),
            () = std::future::ready(()) => {}
        }
        // Small ones, and one that needs several frames itself.
        for len in [10, 1000, 50_000] {
            let request = pattern(2, len);
            let reply = client.call_bytes("echo", &request).await.unwrap();
            assert!(reply == request);
        }
        assert!(kept.await.unwrap() == large);
        assert_eq!(client.in_flight(), 0);
    });
}

fn a_client_whose_runtime_is_gone_reports_it() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "another runtime", move || {
        let first = multi_thread();
        let client = first.block_on(Client::connect(&name)).unwrap();
        drop(first);
        let second = multi_thread();
        let error = second.block_on(client.call_bytes("echo_later", b"x"));
        assert!(matches!(error, Err(Error::Closed { .. })), "{error:?}");
    });
}

/// What waits to go out makes a notice wait. When it is given up, and nothing of it had gone out, it
/// leaves without a trace: the notice must hear of that. (In shared memory; over the socket the
/// notice before may wait as well.)
#[cfg(feature = "spsc_transport")]
#[test]
fn a_notice_goes_on_when_what_it_waited_behind_is_given_up() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "a notice behind a call", async move {
        let client = Client::connect(&name).await.unwrap();
        client.call_bytes("echo", b"").await.unwrap();
        // Nothing leaves the ring.
        server.stop();
        let start = |call: bool| {
            let client = client.clone();
            tokio::spawn(async move {
                match call {
                    true => client.call_bytes("echo", &pattern(5, 4000)).await.map(drop),
                    false => client.notify_bytes("echo", b"small").await,
                }
            })
        };
        let mut calls = Vec::new();
        let notice = loop {
            calls.push(start(true));
            let notice = start(false);
            // Until each was polled.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            if !notice.is_finished() {
                break notice;
            }
        };
        // The one call that found no space.
        calls.pop().unwrap().abort();
        let sent = tokio::time::timeout(PATIENCE / 2, notice).await;
        sent.expect("it hears of it").unwrap().unwrap();
        server.go_on();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
}

crate::over_all_transports!(
    dropping_a_call_drops_the_handlers_future,
    a_deadline_ends_a_call_on_both_sides,
    the_server_keeps_the_deadline_of_a_client_that_stands_still,
    a_late_reply_is_not_taken_for_another_calls,
    giving_up_in_the_middle_of_a_request_does_not_break_the_connection,
    a_cancellation_that_finds_the_ring_full_is_sent_later,
    a_call_that_is_kept_but_not_polled_hinders_nobody,
    a_large_request_that_is_kept_half_sent_hinders_nobody,
    a_client_whose_runtime_is_gone_reports_it,
);

crate::over_both_transports_and!(across_threads:
    dropping_a_call_drops_the_handlers_future,
    a_deadline_ends_a_call_on_both_sides,
    a_late_reply_is_not_taken_for_another_calls,
    giving_up_in_the_middle_of_a_request_does_not_break_the_connection,
    a_cancellation_that_finds_the_ring_full_is_sent_later,
    a_call_that_is_kept_but_not_polled_hinders_nobody,
    a_large_request_that_is_kept_half_sent_hinders_nobody,
    a_client_whose_runtime_is_gone_reports_it,
);
