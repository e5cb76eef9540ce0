//! Peers whose connections belong to a Tokio runtime and answer calls in their order.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nearwire_cli::comparison::{Budget, Latency, Throughput, latency_async, throughput};
use tokio::runtime::Runtime;

use super::{Counter, GREETING, sleep_until};
use crate::message::{Expected, Requests};
use crate::peer::{Clients, CrowdTime, Tally};

/// A connection on which calls are answered in their order.
pub trait Lane: Send + 'static {
    /// Begins a call.
    fn submit(&mut self, request: &[u8]) -> impl Future<Output = Result<()>> + Send;

    /// Lets the server see what was submitted, if it does not already.
    fn flush(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// Waits for the next reply and checks it.
    fn collect(&mut self, expected: &mut Expected) -> impl Future<Output = Result<()>> + Send;
}

/// Connections, and the runtime that they belong to.
pub struct Lanes<L> {
    /// Declared first, so that they go before their runtime does.
    lanes: Vec<L>,
    runtime: Runtime,
    /// Calls in flight on the first connection.
    in_flight: usize,
}

impl<L: Lane> Lanes<L> {
    /// Opens connections, one after the other, in a runtime of one thread.
    ///
    /// # Errors
    /// The first error of `open`.
    pub fn open<F: Future<Output = Result<L>>>(
        count: usize,
        mut open: impl FnMut(usize) -> F,
    ) -> Result<Self> {
        let runtime = super::runtime()?;
        let lanes = runtime.block_on(async {
            let mut lanes = Vec::with_capacity(count);
            for number in 0..count {
                lanes.push(open(number).await?);
            }
            anyhow::Ok(lanes)
        })?;
        Ok(Self {
            lanes,
            runtime,
            in_flight: 0,
        })
    }
}

async fn call(lane: &mut impl Lane, requests: &mut Requests) -> Result<()> {
    let mut expected = requests.expected();
    lane.submit(requests.next()).await?;
    lane.flush().await?;
    lane.collect(&mut expected).await
}

impl<L: Lane> Clients for Lanes<L> {
    fn greet(&mut self) -> Result<()> {
        self.runtime.block_on(async {
            for lane in &mut self.lanes {
                call(lane, &mut Requests::new(GREETING, 0)).await?;
            }
            Ok(())
        })
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        let lane = &mut self.lanes[0];
        let mut requests = Requests::new(size, 0);
        self.runtime.block_on(latency_async(budget, async || {
            call(lane, &mut requests).await
        }))
    }

    /// As [`blocking::pipelined`](super::blocking::pipelined).
    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        let mut requests = Requests::new(size, 0);
        let state = std::cell::RefCell::new((self, requests.expected()));
        throughput(
            budget,
            size,
            |count| {
                let (this, expected) = &mut *state.borrow_mut();
                let Self {
                    lanes,
                    runtime,
                    in_flight,
                } = &mut **this;
                runtime.block_on(async {
                    for _ in 0..count {
                        if *in_flight >= window {
                            take_down_to(&mut lanes[0], in_flight, window / 2, expected).await?;
                        }
                        lanes[0].submit(requests.next()).await?;
                        *in_flight += 1;
                    }
                    Ok(())
                })
            },
            |_| {
                let (this, expected) = &mut *state.borrow_mut();
                let Self {
                    lanes,
                    runtime,
                    in_flight,
                } = &mut **this;
                runtime.block_on(take_down_to(&mut lanes[0], in_flight, 0, expected))
            },
        )
    }

    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally> {
        let counter = Arc::new(Mutex::new(Counter::new(time)));
        sleep_until(time.start);
        self.lanes = self.runtime.block_on(async {
            let tasks: Vec<_> = std::mem::take(&mut self.lanes)
                .into_iter()
                .map(|mut lane| {
                    let counter = Arc::clone(&counter);
                    tokio::spawn(async move {
                        let mut requests = Requests::new(size, 0);
                        loop {
                            call(&mut lane, &mut requests).await?;
                            let more = counter
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .count(1);
                            if !more {
                                return anyhow::Ok(lane);
                            }
                        }
                    })
                })
                .collect();
            let mut lanes = Vec::with_capacity(tasks.len());
            for task in tasks {
                lanes.push(task.await??);
            }
            anyhow::Ok(lanes)
        })?;
        let counter = Arc::into_inner(counter).context("a task still counts")?;
        let counter = counter.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(counter.tally())
    }
}

async fn take_down_to(
    lane: &mut impl Lane,
    in_flight: &mut usize,
    left: usize,
    expected: &mut Expected,
) -> Result<()> {
    lane.flush().await?;
    while *in_flight > left {
        lane.collect(expected).await?;
        *in_flight -= 1;
    }
    Ok(())
}
