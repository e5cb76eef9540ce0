//! A thread for each connection, one call at a time.

use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nearwire::BlockingClient;

use super::figures::{Counter, Counts};
use super::requests::Requests;
use super::schedule::Pace;
use crate::baseline::blocking::SocketClient;
use crate::bench::calls::check;
use crate::measure::Budget;

/// Bytes of a thread's stack: there may be thousands.
pub(super) const STACK: usize = 256 << 10;

/// A connection for one call at a time.
pub(super) trait Caller: Send {
    /// Sends `request`, waits for the reply and compares it.
    fn call(&mut self, request: &[u8]) -> Result<()>;
}

/// A connection of Nearwire's.
pub(super) struct NearwireCaller<'a> {
    client: &'a mut BlockingClient,
    echo: nearwire::Method,
    reply: Vec<u8>,
}

impl<'a> NearwireCaller<'a> {
    pub(super) fn new(client: &'a mut BlockingClient) -> Result<Self> {
        let echo = client.method("echo")?;
        Ok(Self {
            client,
            echo,
            reply: Vec::new(),
        })
    }
}

impl Caller for NearwireCaller<'_> {
    #[inline]
    fn call(&mut self, request: &[u8]) -> Result<()> {
        self.client.call_into(self.echo, request, &mut self.reply)?;
        check(&self.reply, request)
    }
}

/// A slot of the floor's.
#[cfg(target_os = "linux")]
pub(super) struct SlotCaller {
    caller: nearwire_floor::slots::Caller,
    reply: Vec<u8>,
}

#[cfg(target_os = "linux")]
impl SlotCaller {
    pub(super) fn new(caller: nearwire_floor::slots::Caller) -> Self {
        Self {
            caller,
            reply: Vec::new(),
        }
    }
}

#[cfg(target_os = "linux")]
impl Caller for SlotCaller {
    #[inline]
    fn call(&mut self, request: &[u8]) -> Result<()> {
        self.reply.resize(request.len(), 0);
        self.caller.call(request, &mut self.reply)?;
        check(&self.reply, request)
    }
}

impl Caller for SocketClient {
    fn call(&mut self, request: &[u8]) -> Result<()> {
        self.round_trip(request)
    }
}

/// Calls from a thread for each connection: as many as there can be, or at fixed times.
pub(super) fn call_all<C: Caller>(
    callers: &mut [C],
    pace: Option<Pace>,
    requests: &Requests,
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    let count = callers.len();
    let outcomes: Vec<Result<Counts>> = std::thread::scope(|scope| {
        let threads: Vec<_> = callers
            .iter_mut()
            .enumerate()
            .map(|(number, caller)| {
                let requests = requests.clone();
                let pace = pace.map(|pace| pace.share(number, 1, count));
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || {
                        call_one(caller, number, pace, requests, start, budget)
                    })
                    .context("cannot start a thread")
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread?
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
            .collect()
    });
    Ok(Counts::merge(
        outcomes.into_iter().collect::<Result<Vec<_>>>()?,
    ))
}

fn call_one(
    caller: &mut impl Caller,
    number: usize,
    pace: Option<Pace>,
    mut requests: Requests,
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    std::thread::sleep(start.saturating_duration_since(Instant::now()));
    let mut counter = Counter::new(1, start, budget)?;
    let mut now = counter.now();
    for call in 0.. {
        let due = match pace {
            Some(pace) => pace.due(call),
            None => now,
        };
        let over = match pace {
            // What was due is made, however late.
            Some(_) => !counter.belongs(due),
            None => counter.is_ending(),
        };
        if over {
            break;
        }
        if pace.is_some() {
            std::thread::sleep(due.saturating_sub(now));
        }
        caller.call(requests.of(number, call))?;
        now = counter.now();
        match pace {
            Some(_) => {
                counter.answered_late(0, 1);
                counter.was_due(due, now);
            }
            None => counter.answered(0, 1, due, now),
        }
    }
    Ok(counter.finish())
}
