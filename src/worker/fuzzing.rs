//! A worker with one hostile client, driven in one thread.

use super::{Mail, RunningLimit, Worker, WorkerSettings};
use crate::error::Status;
use crate::fuzzing::{Input, MAX_MESSAGE, Patience, Peer, link, link_over_socket};
use crate::link::Link;
use crate::metrics::CountersPage;
use crate::proto::handshake::CallShape;
use crate::proto::status::Code;
use crate::server::methods::{Handler, Methods, Streams};
use crate::settings::Spin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the fuzzed worker");
}

/// A server's side of calls: a client does what `input` says, then is gone.
///
/// # Panics
/// If the worker does, or does not let go of the connection at the end.
pub fn server(input: &[u8]) {
    RUNTIME.with(|runtime| {
        let _inside = runtime.enter();
        if let Some((link, peer)) = link() {
            run(runtime, link, peer, Input::new(input));
        }
    });
}

/// As [`server`], over the socket.
///
/// # Panics
/// As it does.
pub fn server_over_socket(input: &[u8]) {
    RUNTIME.with(|runtime| {
        let (_inside, mut input) = (runtime.enter(), Input::new(input));
        if let Some((link, peer)) = link_over_socket(&mut input) {
            run(runtime, link, peer, input);
        }
    });
}

fn run(runtime: &Runtime, link: Link, mut peer: impl Peer, mut input: Input<'_>) {
    let page = CountersPage::create(1, 1, 1, "fuzzed");
    let settings = WorkerSettings {
        spin: Spin::NEVER,
        max_message: MAX_MESSAGE,
        max_in_flight: 4,
        max_message_rate: None,
        pin_to: None,
        page: Arc::new(page),
        #[cfg(feature = "mpmc_transport")]
        requests: None,
        running: RunningLimit::new(6),
        runtime: Some(runtime.handle().clone()),
    };
    let Ok(mut worker) = Worker::new(0, Arc::new(methods()), settings) else {
        return;
    };
    let load = worker.load.clone();
    load.store(1, super::Relaxed);
    worker.adopt(link);
    while !input.is_empty() {
        peer.act(&mut input);
        step(&mut worker, runtime);
        if input.byte() % 4 == 0 {
            park(&mut worker);
        }
    }
    peer.die();
    let mut patience = Patience::new();
    while load.load(super::Relaxed) > 0 {
        assert!(!patience.is_over(), "the connection stays");
        step(&mut worker, runtime);
        park(&mut worker);
    }
}

fn step(worker: &mut Worker, runtime: &Runtime) {
    worker.sweep();
    runtime.block_on(async {
        for _ in 0..3 {
            yield_now().await;
        }
    });
    let mut mail = Vec::new();
    worker.mailbox.collect(&mut mail);
    mail.drain(..).for_each(|mail: Mail| worker.take_mail(mail));
}

/// As a worker that has nothing to do, but for the sleep.
fn park(worker: &mut Worker) {
    // Who has found something in its turn has another one first, in which it sees its end.
    if worker.sweep() == 0 {
        std::mem::swap(&mut worker.active, &mut worker.parking);
        worker.park();
    }
    worker.listen(Some(Duration::ZERO));
}

/// What [`methods`](crate::fuzzing::methods) tells of.
fn methods() -> Methods {
    let mut methods = Methods::default();
    methods.add(
        "0",
        Handler::Sync(Box::new(|_, request, reply| {
            reply.extend_from_slice(request);
            match request.first() {
                Some(0xee) => Err(Status::new(Code::INTERNAL, "as asked for")),
                Some(0xef) => {
                    reply.resize(MAX_MESSAGE, 7);
                    Ok(())
                }
                _ => Ok(()),
            }
        })),
    );
    for (name, shape) in [
        ("1", CallShape::Unary),
        ("2", CallShape::ServerStream),
        ("3", CallShape::ClientStream),
        ("4", CallShape::Bidirectional),
    ] {
        let start = Box::new(|_, request, streams| {
            Box::pin(handle(request, streams)) as crate::server::methods::HandlerFuture
        });
        methods.add(name, Handler::Async { shape, start });
    }
    methods
}

/// Yields as often as the request says; sends back what it was sent.
async fn handle(request: Vec<u8>, streams: Streams) -> Result<Vec<u8>, Status> {
    for _ in 0..request.first().copied().unwrap_or(0) % 4 {
        yield_now().await;
    }
    let Streams { receiver, sender } = streams;
    let mut received = Vec::new();
    match (receiver, sender) {
        (None, None) => return Ok(request),
        (Some(mut receiver), None) => {
            while let Some(item) = receiver.next().await {
                received.extend(item?);
            }
        }
        (None, Some(mut sender)) => {
            for _ in 0..request.len() % 16 {
                sender.send(request.clone()).await?;
            }
        }
        (Some(mut receiver), Some(mut sender)) => {
            while let Some(item) = receiver.next().await {
                sender.send(item?).await?;
            }
        }
    }
    Ok(received)
}
