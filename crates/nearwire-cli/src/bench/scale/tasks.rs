//! Tasks of one thread's runtime, as many as there are calls in flight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use nearwire::Client;
use tokio::task::JoinSet;

use super::figures::{Counter, Counts};
use super::requests::Requests;
use crate::baseline::coalesced;
use crate::baseline::socket::AsyncStream;
use crate::bench::calls::check;
use crate::measure::Budget;

/// Of so many calls one is timed: the clock costs a part of a call.
const CALLS_PER_TIME: u64 = 8;

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
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    tokio::time::sleep_until(start.into()).await;
    let counter = Counter::new(clients.len(), start, budget)?;
    let counter = Arc::new(Mutex::new(counter));
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        for task in 0..window {
            let caller = Caller {
                client: client.clone(),
                number,
                requests: requests.clone(),
                first: task << CALLS_SHIFT,
            };
            tasks.spawn(caller.call(Arc::clone(&counter)));
        }
    }
    finish(tasks, counter).await
}

/// A task that makes one call after the other.
struct Caller {
    client: Client,
    /// The connection's number.
    number: usize,
    requests: Requests,
    /// The first call's number.
    first: u64,
}

impl Caller {
    async fn call(mut self, counter: SharedCounter) -> Result<()> {
        let echo = self.client.method("echo")?;
        for nth in self.first.. {
            let start = {
                let mut counter = lock(&counter);
                let timed = counter.total().is_multiple_of(CALLS_PER_TIME);
                timed.then(|| counter.now())
            };
            let request = self.requests.of(self.number, nth);
            check(&self.client.call_method(echo, request).await?, request)?;
            let mut counter = lock(&counter);
            match start {
                Some(start) => {
                    let now = counter.now();
                    counter.answered(self.number, 1, start, now);
                }
                None => counter.answered_untimed(self.number, 1),
            }
            if counter.is_ending() {
                break;
            }
        }
        Ok(())
    }
}

/// The same over sockets: a task for each, with a window of frames that are written together.
pub(super) async fn sockets(
    sockets: &[Arc<AsyncStream>],
    window: u64,
    size: usize,
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    tokio::time::sleep_until(start.into()).await;
    let counter = Counter::new(sockets.len(), start, budget)?;
    let counter = Arc::new(Mutex::new(counter));
    let mut tasks = JoinSet::new();
    for (number, socket) in sockets.iter().enumerate() {
        let mut client = coalesced::Client::new(Arc::clone(socket), size, window as usize)?;
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
