//! A pool under schedules at random, with its supervisor, clients, drivers and servers:
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib schedules`.

use super::supervisor::{Connecting, supervise};
use super::{Backoff, Pool};
use crate::client::schedules::{World, check};
use crate::error::Error;
use shuttle::future::block_on;
use shuttle::thread;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

const CALLERS: usize = 3;

/// A pool of up to two connections, with the time limits that a schedule cannot have left out.
fn builder() -> super::PoolBuilder {
    let soon = Duration::from_nanos(1);
    Pool::builder()
        .max_size(2)
        .grow_at(1)
        .idle_timeout(None)
        .acquire_timeout(Duration::MAX)
        .retries(u32::MAX)
        .backoff(Backoff {
            first: soon,
            max_absent: soon,
            max_refused: soon,
        })
}

/// Each server is gone after three answers. Whatever the calls were doing then, each is answered in the
/// end, and by its own answer.
fn calls_outlive_their_servers() {
    let world = World::new();
    let (pool, supervised) = builder().assemble("text").unwrap();
    let connector = world.connector(3);
    let inside = world.runtime();
    let supervisor = thread::spawn(move || {
        let connect = move || -> Connecting { Box::pin(std::future::ready(Ok(connector()))) };
        let mut supervising = pin!(supervise(supervised, connect));
        // Its timers are the reactor's.
        block_on(poll_fn(|cx| {
            let _inside = inside.enter();
            supervising.as_mut().poll(cx)
        }));
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let pool = pool.clone();
            thread::spawn(move || {
                for round in 0..2 {
                    let request = [number as u8, round];
                    let call = pool.call_bytes("echo", &request).idempotent();
                    assert_eq!(block_on(call).unwrap(), request);
                }
            })
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.in_flight), (0, 0), "{stats:?}");
    assert!(stats.open <= 2, "{stats:?}");
    drop(pool);
    supervisor.join().unwrap();
    world.end();
}

/// No server is ever there, and the supervisor's runtime ends. Nobody waits on.
fn who_waits_learns_that_the_supervisor_is_gone() {
    let (pool, supervised) = builder().assemble("text").unwrap();
    let supervisor = thread::spawn(move || {
        let mut supervising = Box::pin(supervise(supervised, || -> Connecting {
            Box::pin(pending())
        }));
        block_on(poll_fn(|cx| {
            assert!(supervising.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        }));
        drop(supervising);
    });
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                let ended = block_on(pool.call_bytes("echo", b"anyone?"));
                assert!(
                    matches!(ended, Err(Error::NoConnection { .. })),
                    "{ended:?}"
                );
            })
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    assert_eq!(pool.stats().waiting, 0);
    supervisor.join().unwrap();
}

#[test]
fn every_call_of_a_pool_is_answered_though_servers_go() {
    check(calls_outlive_their_servers);
}

#[test]
fn every_waiting_call_learns_of_the_end() {
    check(who_waits_learns_that_the_supervisor_is_gone);
}
