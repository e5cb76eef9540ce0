//! Tasks of one thread's runtime, as many as there are calls in flight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearwire::Client;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::figures::{Counter, Counts};
use super::requests::Requests;
use crate::baseline::coalesced;
use crate::bench::calls::check;
use crate::measure::Budget;

/// Of so many calls of a task one is timed, and all are counted with it: the clock and the counter
/// cost a part of a call.
const CALLS_PER_COUNT: u64 = 8;

/// Calls of a connection that share its numbers: each task has its own.
const CALLS_SHIFT: u32 = 28;

type SharedCounter = Arc<Mutex<Counter>>;

fn lock(counter: &SharedCounter) -> MutexGuard<'_, Counter> {
    counter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many calls as there can be, from `window` tasks for each client.
pub(super) async fn nearwire(
    clients: &[Client],
    window: u64,
    requests: &Requests,
    budget: Budget,
) -> Result<Counts> {
    let counter = Counter::new(clients.len(), Instant::now(), budget)?;
    let counter = Arc::new(Mutex::new(counter));
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        for task in 0..window {
            let (client, counter) = (client.clone(), Arc::clone(&counter));
            tasks.spawn(call(client, number, task, requests.clone(), counter));
        }
    }
    finish(tasks, counter).await
}

async fn call(
    client: Client,
    number: usize,
    task: u64,
    mut requests: Requests,
    counter: SharedCounter,
) -> Result<()> {
    let echo = client.method("echo")?;
    let mut calls = task << CALLS_SHIFT;
    loop {
        let mut start = Duration::ZERO;
        for nth in 0..CALLS_PER_COUNT {
            if nth == CALLS_PER_COUNT - 1 {
                start = lock(&counter).now();
            }
            let request = requests.of(number, calls);
            check(&client.call_method(echo, request).await?, request)?;
            calls += 1;
        }
        let mut counter = lock(&counter);
        let now = counter.now();
        counter.answered(number, 1, start, now);
        counter.answered_untimed(number, CALLS_PER_COUNT - 1);
        if counter.is_ending() {
            return Ok(());
        }
    }
}

/// The same over Unix sockets: a task for each, with a window of frames that are written together.
pub(super) async fn unix(
    sockets: Vec<UnixStream>,
    window: u64,
    size: usize,
    budget: Budget,
) -> Result<Counts> {
    let counter = Counter::new(sockets.len(), Instant::now(), budget)?;
    let counter = Arc::new(Mutex::new(counter));
    let mut tasks = JoinSet::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        let mut client = coalesced::Client::new(socket, size, window as usize)?;
        let counter = Arc::clone(&counter);
        tasks.spawn(async move {
            loop {
                let start = lock(&counter).now();
                client.calls(window).await?;
                client.drain().await?;
                let mut counter = lock(&counter);
                let now = counter.now();
                counter.answered(number, window, start, now);
                if counter.is_ending() {
                    return Ok(());
                }
            }
        });
    }
    finish(tasks, counter).await
}

async fn finish(mut tasks: JoinSet<Result<()>>, counter: SharedCounter) -> Result<Counts> {
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let counter = Arc::into_inner(counter).context("a task still counts")?;
    let counter = counter.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(counter.finish())
}
