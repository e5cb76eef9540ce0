//! A client process: many connections, and calls over them as it is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearwire::{BlockingClient, Client, ClientBuilder};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::figures::{Counts, Times};
use super::lanes::{Lane, NearwireLane, SocketLane};
use super::requests::Requests;
use super::schedule::Pace;
use super::threads::NearwireCaller;
#[cfg(target_os = "linux")]
use super::threads::{Caller as _, SlotCaller};
use super::{Shape, sweep, tasks, threads};
use crate::baseline::blocking::SocketClient;
use crate::baseline::coalesced;
#[cfg(target_os = "linux")]
use crate::baseline::slots;
use crate::baseline::socket::{self, AsyncStream};
use crate::bench::calls::{Transport, check};
use crate::measure::{Budget, instant_of};
use crate::process::{Child, Parent, Placement};
use crate::serve::spin;

/// The role of a client process.
pub const SCALE_CLIENT_ROLE: &str = "scale-client";

/// What a client process opens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opening {
    pub(super) transport: Transport,
    pub(super) shape: Shape,
    pub(super) server: String,
    pub(super) connections: usize,
    /// The number of its first connection among those of all processes.
    pub(super) first: usize,
    pub(super) spin: Option<u64>,
    pub(super) ring: Option<usize>,
    /// Make a call on each connection as soon as it is there.
    pub(super) greet: bool,
}

/// What it is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) size: usize,
    pub(super) window: u64,
    /// When the calls of this process are due, if there is a schedule.
    pub(super) pace: Option<Pace>,
    /// When to begin, on the clock that all processes share.
    pub(super) start: Duration,
    pub(super) budget: Budget,
}

/// How long each of its connections took, one after the other: connecting and shaking hands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) connects: Times,
}

/// A client process, as its parent sees it.
pub(super) struct ClientProcess(Child);

impl ClientProcess {
    pub(super) fn start(cpu: Option<usize>) -> Result<Self> {
        Child::start(SCALE_CLIENT_ROLE, cpu).map(Self)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Where it runs.
    pub(super) fn placement(&self) -> &Placement {
        self.0.placement()
    }

    pub(super) fn connect(&self, opening: &Opening) -> Result<Opened> {
        self.0.channel().send(opening)?;
        self.answer()
    }

    pub(super) fn begin(&self, task: &Task) -> Result<()> {
        self.0.channel().send(task)
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        self.answer()
    }

    fn answer<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let failed = "a client process failed";
        self.0.channel().receive().context(failed)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// The role of a client process.
///
/// # Errors
/// If the server is gone, or a reply differs from its request.
pub fn be_scale_client(parent: Parent) -> Result<()> {
    let opening: Opening = parent.channel().receive()?;
    let mut connects = Times::default();
    let mut connections = Connections::open(&opening, &mut connects)?;
    if opening.greet {
        connections.greet()?;
    }
    parent.channel().send(&Opened { connects })?;
    while let Some((task, _)) = parent.channel().next::<Task>()? {
        let counts = connections.run(&opening, &task)?;
        parent.channel().send(&counts)?;
    }
    Ok(())
}

/// All connections of a process.
enum Connections {
    Blocking(Vec<BlockingClient>),
    Async(Runtime, Vec<Client>),
    Sockets(Vec<SocketClient>),
    SweptSockets(Vec<SocketLane>),
    AsyncSockets(Runtime, Vec<Arc<AsyncStream>>),
    #[cfg(target_os = "linux")]
    Slots(Vec<SlotCaller>),
}

impl Connections {
    fn open(opening: &Opening, connects: &mut Times) -> Result<Self> {
        let numbers = 0..opening.connections;
        Ok(match (opening.transport, opening.shape) {
            (Transport::Unix, Shape::Sweep) => {
                let driver = socket::Driver::new()?;
                let lanes = numbers
                    .map(|_| {
                        let connect = || socket::Polled::connect(&opening.server, &driver);
                        Ok(SocketLane::new(connects.time(connect)?))
                    })
                    .collect::<Result<_>>()?;
                Self::SweptSockets(lanes)
            }
            (Transport::Unix, Shape::Tasks) => {
                let runtime = runtime()?;
                let context = runtime.enter();
                let sockets = numbers
                    .map(|_| {
                        let connect = || socket::connect_async(&opening.server);
                        Ok(Arc::new(connects.time(connect)?))
                    })
                    .collect::<Result<_>>()?;
                drop(context);
                Self::AsyncSockets(runtime, sockets)
            }
            (Transport::Unix, Shape::Threads | Shape::Processes) => Self::Sockets(
                numbers
                    .map(|_| {
                        let connect = || socket::connect(&opening.server);
                        Ok(SocketClient::new(connects.time(connect)?))
                    })
                    .collect::<Result<_>>()?,
            ),
            (Transport::Nearwire, Shape::Tasks) => {
                let runtime = runtime()?;
                let clients = numbers
                    .map(|_| {
                        let connect = async { builder(opening).connect(&opening.server).await };
                        connects.time(|| runtime.block_on(connect))
                    })
                    .collect::<Result<_, _>>()?;
                Self::Async(runtime, clients)
            }
            #[cfg(target_os = "linux")]
            (Transport::Floor, _) => {
                let slots = connects.time(|| slots::open(&opening.server))?;
                let numbers = numbers.map(|number| slots.caller(opening.first + number));
                Self::Slots(numbers.map(SlotCaller::new).collect())
            }
            (Transport::Nearwire, _) => Self::Blocking(
                numbers
                    .map(|_| connects.time(|| builder(opening).connect_blocking(&opening.server)))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// A call on each connection, so that it is one that was used.
    fn greet(&mut self) -> Result<()> {
        let request = [7; 64];
        match self {
            Self::Blocking(clients) => {
                for client in clients {
                    check(&client.call_bytes("echo", &request)?, &request)?;
                }
            }
            Self::Async(runtime, clients) => {
                for client in clients {
                    let reply = runtime.block_on(client.call_bytes("echo", &request));
                    check(&reply?, &request)?;
                }
            }
            Self::Sockets(clients) => {
                for client in clients {
                    client.round_trip(&request)?;
                }
            }
            #[cfg(target_os = "linux")]
            Self::Slots(callers) => {
                for caller in callers {
                    caller.call(&request)?;
                }
            }
            Self::SweptSockets(lanes) => {
                for mut lane in lanes {
                    lane.submit(&request)?;
                    lane.flush()?;
                    lane.wait(|reply| check(reply, &request))?;
                }
            }
            Self::AsyncSockets(runtime, sockets) => {
                for socket in sockets {
                    let mut client = coalesced::Client::new(Arc::clone(socket), request.len(), 1)?;
                    runtime.block_on(async {
                        client.calls(1).await?;
                        client.drain().await
                    })?;
                }
            }
        }
        Ok(())
    }

    fn run(&mut self, opening: &Opening, task: &Task) -> Result<Counts> {
        let requests = Requests::new(task.size, opening.first);
        let start = instant_of(task.start);
        let Task { window, budget, .. } = *task;
        match (self, opening.shape) {
            (Self::Blocking(clients), Shape::Sweep) => {
                let lanes = clients
                    .iter_mut()
                    .map(|client| {
                        let echo = client.method("echo")?;
                        let pipeline = client.pipeline();
                        Ok(NearwireLane { pipeline, echo })
                    })
                    .collect::<Result<Vec<_>>>()?;
                sweep_over(lanes, task, requests, start)
            }
            (Self::SweptSockets(lanes), _) => {
                sweep_over(lanes.iter_mut().collect(), task, requests, start)
            }
            (Self::Blocking(clients), _) => {
                let mut callers = clients
                    .iter_mut()
                    .map(NearwireCaller::new)
                    .collect::<Result<Vec<_>>>()?;
                threads::call_all(&mut callers, task.pace, &requests, start, budget)
            }
            (Self::Sockets(clients), _) => {
                threads::call_all(clients, task.pace, &requests, start, budget)
            }
            #[cfg(target_os = "linux")]
            (Self::Slots(callers), _) => {
                threads::call_all(callers, task.pace, &requests, start, budget)
            }
            (Self::Async(runtime, clients), _) => {
                runtime.block_on(tasks::nearwire(clients, window, &requests, start, budget))
            }
            (Self::AsyncSockets(runtime, sockets), _) => {
                runtime.block_on(tasks::sockets(sockets, window, task.size, start, budget))
            }
        }
    }
}

fn sweep_over<L: Lane>(
    lanes: Vec<L>,
    task: &Task,
    requests: Requests,
    start: Instant,
) -> Result<Counts> {
    let Task { window, budget, .. } = *task;
    match task.pace {
        None => sweep::as_fast_as_possible(lanes, window, requests, start, budget),
        Some(pace) => sweep::on_schedule(lanes, window, pace, requests, start, budget),
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn builder(opening: &Opening) -> ClientBuilder {
    let builder = ClientBuilder::new()
        .label("nearwire bench")
        .spin(spin(opening.spin));
    match opening.ring {
        Some(bytes) => builder.ring(bytes),
        None => builder,
    }
}
