//! Clients of a hostile server.

use super::{BlockingClient, Client};
use crate::fuzzing::{Input, Patience, Peer, link, link_over_socket};
use crate::link::Link;
use crate::settings::Spin;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the fuzzed client");
}

/// The async client: calls of all shapes come and go while the server does what `input` says; then
/// it is gone.
///
/// # Panics
/// If the client does, or if a call does not end.
pub fn async_client(input: &[u8]) {
    let Some((link, peer)) = link() else {
        return;
    };
    RUNTIME.with(|runtime| runtime.block_on(run(link, peer, Input::new(input))));
}

/// As [`async_client`], over the socket.
///
/// # Panics
/// As it does.
pub fn async_client_over_socket(input: &[u8]) {
    let mut input = Input::new(input);
    let Some((link, peer)) = link_over_socket(&mut input) else {
        return;
    };
    RUNTIME.with(|runtime| runtime.block_on(run(link, peer, input)));
}

async fn run(link: Link, mut peer: impl Peer, mut input: Input<'_>) {
    let Ok(client) = Client::new(link, Spin::NEVER, 1) else {
        return;
    };
    let mut calls = JoinSet::new();
    let mut aborts = Vec::new();
    while !input.is_empty() {
        match input.byte() % 8 {
            0..=3 => peer.act(&mut input),
            4 if calls.len() < 12 => {
                let (shape, len) = (input.byte(), usize::from(input.byte()) * 32);
                aborts.push(calls.spawn(call(client.clone(), shape, vec![shape; len])));
            }
            5 if !aborts.is_empty() => {
                let which = usize::from(input.byte()) % aborts.len();
                aborts.swap_remove(which).abort();
            }
            _ => {}
        }
        for _ in 0..input.byte() % 8 {
            yield_now().await;
        }
    }
    peer.die();
    let mut patience = Patience::new();
    while !calls.is_empty() {
        assert!(!patience.is_over(), "a call does not end");
        while calls.try_join_next().is_some() {}
        yield_now().await;
    }
    assert_eq!(client.in_flight(), 0);
}

async fn call(client: Client, shape: u8, request: Vec<u8>) {
    match shape % 6 {
        0 => drop(client.call_bytes("0", &request).await),
        1 => drop(client.notify_bytes("1", &request).await),
        2 => {
            let mut items = client.stream_bytes("2", &request);
            while let Some(Ok(_)) = items.next().await {}
        }
        3 => {
            let mut upload = client.client_stream_bytes("3", &request);
            for _ in 0..8 {
                if upload.send(request.clone()).await.is_err() {
                    break;
                }
            }
            drop(upload.finish().await);
        }
        4 => {
            let (mut sink, mut items) = client.bidirectional_bytes("4", &request);
            while sink.send(request.clone()).await.is_ok() {
                if !matches!(items.next().await, Some(Ok(_))) {
                    break;
                }
            }
        }
        _ => drop(client.ping().await),
    }
}

/// The blocking client: the server does what `input` says between calls that have no time to wait for
/// it, and is gone before those that have.
///
/// # Panics
/// If the client does. A call that does not end hangs.
pub fn blocking_client(input: &[u8]) {
    let Some((link, mut peer)) = link() else {
        return;
    };
    let mut input = Input::new(input);
    let mut client = BlockingClient::new(link, Spin::NEVER, 1);
    let (calls, len) = (input.byte() % 4, usize::from(input.byte()) * 32);
    while !input.is_empty() {
        peer.act(&mut input);
        let what = input.byte() % 16;
        if what == 0 {
            let time = Duration::from_micros(input.byte().into());
            let _ = client.call_bytes_timeout("0", &vec![3; len], time);
        }
        // These would wait for space, which nobody makes meanwhile.
        let has_space = client.link.tx.is_ready(512);
        match what {
            1 if has_space => drop(client.notify_bytes("1", b"by the way")),
            2 if has_space => pipeline(&mut client, calls, len, false),
            _ => {}
        }
    }
    peer.die();
    for _ in 0..=calls {
        let _ = client.call_bytes("0", &vec![1; len]);
    }
    pipeline(&mut client, calls, len, true);
}

fn pipeline(client: &mut BlockingClient, calls: u8, len: usize, waits: bool) {
    let Ok(method) = client.method("1") else {
        return;
    };
    let mut pipeline = client.pipeline();
    for _ in 0..calls {
        // Who may not wait sends what fits.
        let _ = pipeline.submit(method, &vec![2; if waits { len } else { len % 64 }]);
    }
    if waits {
        while let Ok(Some(_)) = pipeline.next(|_, reply| reply.is_ok()) {}
    } else {
        while let Ok(Some(_)) = pipeline.try_next(|_, reply| reply.is_ok()) {}
    }
}
