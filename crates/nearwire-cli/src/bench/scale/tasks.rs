//! Tasks of one thread's runtime, as many as there are calls in flight.

use std::cell::RefCell;
use std::sync::Arc;
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

thread_local! {
    /// The tasks' counter: all of them run on this thread. A lock's four locked instructions a call
    /// took a tenth of the time.
    static COUNTER: RefCell<Option<Counter>> = const { RefCell::new(None) };
}

/// Does something with the counter of this thread's tasks.
#[inline]
fn with_counter<T>(act: impl FnOnce(&mut Counter) -> T) -> Result<T> {
    COUNTER.with_borrow_mut(|counter| {
        let counter = counter.as_mut().context("no counter on this thread")?;
        Ok(act(counter))
    })
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
    COUNTER.set(Some(Counter::new(clients.len(), start, budget)?));
    let mut tasks = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        for task in 0..window {
            let caller = Caller {
                client: client.clone(),
                number,
                requests: requests.clone(),
                first: task << CALLS_SHIFT,
            };
            tasks.spawn(caller.call());
        }
    }
    finish(tasks).await
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
    // A block, for an `async fn` would keep what it is given twice.
    #[expect(clippy::manual_async_fn)]
    fn call(mut self) -> impl Future<Output = Result<()>> {
        async move {
            let echo = self.client.method("echo")?;
            for nth in self.first.. {
                let start = with_counter(|counter| {
                    let timed = counter.total().is_multiple_of(CALLS_PER_TIME);
                    timed.then(|| counter.now())
                })?;
                let request = self.requests.of(self.number, nth);
                check(&self.client.call_method(echo, request).await?, request)?;
                let is_ending = with_counter(|counter| {
                    match start {
                        Some(start) => {
                            let now = counter.now();
                            counter.answered(self.number, 1, start, now);
                        }
                        None => counter.answered_untimed(self.number, 1),
                    }
                    counter.is_ending()
                })?;
                if is_ending {
                    break;
                }
            }
            Ok(())
        }
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
    COUNTER.set(Some(Counter::new(sockets.len(), start, budget)?));
    let mut tasks = JoinSet::new();
    for (number, socket) in sockets.iter().enumerate() {
        let mut client = coalesced::Client::new(Arc::clone(socket), size, window as usize)?;
        tasks.spawn(async move {
            loop {
                let start = with_counter(Counter::now)?;
                client.calls(window).await?;
                client.drain().await?;
                let is_ending = with_counter(|counter| {
                    let now = counter.now();
                    counter.answered(number, window, start, now);
                    counter.is_ending()
                })?;
                if is_ending {
                    return Ok(());
                }
            }
        });
    }
    finish(tasks).await
}

async fn finish(mut tasks: JoinSet<Result<()>>) -> Result<Counts> {
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let counter = COUNTER.take().context("no counter on this thread")?;
    Ok(counter.finish())
}
