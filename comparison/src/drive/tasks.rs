//! Peers with a client that any number of tasks of a Tokio runtime may call at a time.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nearwire_cli::comparison::{Budget, Latency, Meter, Throughput, latency_async};
use tokio::runtime::Runtime;

use super::{Counter, GREETING, sleep_until};
use crate::message::{Requests, check};
use crate::peer::{Clients, CrowdTime, Tally};

/// A task counts so many calls at a time: the count is shared.
const COUNTED_TOGETHER: u64 = 8;

/// A client, cheap to clone.
pub trait Caller: Clone + Send + Sync + 'static {
    /// The bytes of a reply.
    type Reply: AsRef<[u8]> + Send;

    /// Calls, and waits for the reply.
    fn call(&self, request: &[u8]) -> impl Future<Output = Result<Self::Reply>> + Send;
}

/// Clients, and the runtime that they belong to.
pub struct Callers<C> {
    /// Declared first, so that they go before their runtime does.
    callers: Vec<C>,
    runtime: Runtime,
}

impl<C: Caller> Callers<C> {
    /// Connects clients, one after the other, in a runtime of one thread.
    ///
    /// # Errors
    /// The first error of `open`.
    pub fn open<F: Future<Output = Result<C>>>(
        count: usize,
        mut open: impl FnMut() -> F,
    ) -> Result<Self> {
        let runtime = super::runtime()?;
        let callers = runtime.block_on(async {
            let mut callers = Vec::with_capacity(count);
            for _ in 0..count {
                callers.push(open().await?);
            }
            anyhow::Ok(callers)
        })?;
        Ok(Self { callers, runtime })
    }
}

#[inline]
async fn call(caller: &impl Caller, requests: &mut Requests, number: &mut u64) -> Result<()> {
    let request = requests.next();
    let reply = caller.call(request).await?;
    check(reply.as_ref(), request.len(), *number)?;
    *number += 1;
    Ok(())
}

impl<C: Caller> Clients for Callers<C> {
    fn greet(&mut self) -> Result<()> {
        self.runtime.block_on(async {
            for caller in &self.callers {
                call(caller, &mut Requests::new(GREETING, 0), &mut 0).await?;
            }
            Ok(())
        })
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        let caller = &self.callers[0];
        let (mut requests, mut number) = (Requests::new(size, 0), 0);
        self.runtime.block_on(latency_async(budget, async || {
            call(caller, &mut requests, &mut number).await
        }))
    }

    /// As many tasks as the window has calls, each with one call after the other.
    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        let meter = Arc::new(Mutex::new(Meter::start(budget, size)));
        self.runtime.block_on(async {
            let tasks: Vec<_> = (0..window as u64)
                .map(|task| {
                    let (caller, meter) = (self.callers[0].clone(), Arc::clone(&meter));
                    tokio::spawn(async move {
                        // So that no task can be given another's reply.
                        let mut number = task << 32;
                        let mut requests = Requests::new(size, number);
                        loop {
                            for _ in 0..COUNTED_TOGETHER {
                                call(&caller, &mut requests, &mut number).await?;
                            }
                            let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
                            if !meter.count(COUNTED_TOGETHER) {
                                return anyhow::Ok(());
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })?;
        let meter = Arc::into_inner(meter).context("a task still counts")?;
        let meter = meter.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(meter.evaluate())
    }

    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally> {
        let counter = Arc::new(Mutex::new(Counter::new(time)));
        sleep_until(time.start);
        self.runtime.block_on(async {
            let tasks: Vec<_> = self
                .callers
                .iter()
                .map(|caller| {
                    let (caller, counter) = (caller.clone(), Arc::clone(&counter));
                    tokio::spawn(async move {
                        let (mut requests, mut number) = (Requests::new(size, 0), 0);
                        loop {
                            call(&caller, &mut requests, &mut number).await?;
                            let more = counter
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .count(1);
                            if !more {
                                return anyhow::Ok(());
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })?;
        let counter = Arc::into_inner(counter).context("a task still counts")?;
        let counter = counter.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(counter.tally())
    }
}
