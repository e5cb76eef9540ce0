//! A client process: many connections, and calls over them as it is told.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearwire::{BlockingClient, Client, ClientBuilder};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::figures::{Counts, Times};
use super::lanes::{NearwireLane, UnixLane};
use super::requests::Requests;
use super::schedule::Pace;
use super::threads::NearwireCaller;
use super::{Shape, sweep, tasks, threads};
use crate::baseline::blocking::UnixClient;
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
    Unix(Vec<UnixStream>),
}

impl Connections {
    fn open(opening: &Opening, connects: &mut Times) -> Result<Self> {
        let numbers = 0..opening.connections;
        Ok(match (opening.transport, opening.shape) {
            (Transport::Unix, _) => Self::Unix(
                numbers
                    .map(|_| connects.time(|| UnixStream::connect(&opening.server)))
                    .collect::<Result<_, _>>()
                    .context("cannot connect to the server on a Unix socket")?,
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
            Self::Unix(sockets) => {
                for socket in clones(sockets)? {
                    UnixClient::new(socket).round_trip(&request)?;
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
            (Self::Unix(sockets), Shape::Sweep) => {
                let lanes = clones(sockets)?.into_iter().map(UnixLane::new);
                sweep_over(lanes.collect::<Result<Vec<_>>>()?, task, requests, start)
            }
            (Self::Blocking(clients), Shape::Threads | Shape::Processes) => {
                let mut callers = clients
                    .iter_mut()
                    .map(NearwireCaller::new)
                    .collect::<Result<Vec<_>>>()?;
                threads::call_all(&mut callers, task.pace, &requests, start, budget)
            }
            (Self::Unix(sockets), Shape::Threads | Shape::Processes) => {
                let callers = clones(sockets)?.into_iter().map(UnixClient::new);
                let mut callers: Vec<_> = callers.collect();
                threads::call_all(&mut callers, task.pace, &requests, start, budget)
            }
            (Self::Async(runtime, clients), _) => {
                runtime.block_on(tasks::nearwire(clients, window, &requests, start, budget))
            }
            (Self::Unix(sockets), Shape::Tasks) => runtime()?.block_on(async {
                let sockets = clones(sockets)?.into_iter().map(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(tokio::net::UnixStream::from_std(socket)?)
                });
                let sockets = sockets.collect::<Result<_>>()?;
                tasks::unix(sockets, window, task.size, start, budget).await
            }),
            (Self::Blocking(_), Shape::Tasks) => bail!("tasks need async clients"),
        }
    }
}

fn sweep_over<L: super::lanes::Lane>(
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

fn clones(sockets: &[UnixStream]) -> Result<Vec<UnixStream>> {
    let clones = sockets.iter().map(UnixStream::try_clone);
    clones
        .collect::<Result<_, _>>()
        .context("cannot copy a descriptor")
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
