//! A client process: many connections, and calls over them as it is told.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearwire::{BlockingClient, Client, ClientBuilder};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::figures::Counts;
use super::lanes::{NearwireLane, UnixLane};
use super::requests::Requests;
use super::threads::NearwireCaller;
use super::{Shape, sweep, tasks, threads};
use crate::baseline::blocking::UnixClient;
use crate::bench::calls::Transport;
use crate::measure::Budget;
use crate::process::{Child, Parent};
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
}

/// What it is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) size: usize,
    pub(super) window: u64,
    /// Time between the calls of this process, if there is a schedule.
    pub(super) interval: Option<Duration>,
    pub(super) budget: Budget,
}

/// How long its connections took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) mean_connect: Duration,
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
    let start = Instant::now();
    let mut connections = Connections::open(&opening)?;
    let mean_connect = start.elapsed() / opening.connections as u32;
    parent.channel().send(&Opened { mean_connect })?;
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
    fn open(opening: &Opening) -> Result<Self> {
        let numbers = 0..opening.connections;
        Ok(match (opening.transport, opening.shape) {
            (Transport::Unix, _) => Self::Unix(
                numbers
                    .map(|_| UnixStream::connect(&opening.server))
                    .collect::<Result<_, _>>()
                    .context("cannot connect to the server on a Unix socket")?,
            ),
            (Transport::Nearwire, Shape::Tasks) => {
                let runtime = runtime()?;
                let connect = async {
                    let mut clients = Vec::new();
                    for _ in numbers {
                        clients.push(builder(opening).connect(&opening.server).await?);
                    }
                    anyhow::Ok(clients)
                };
                let clients = runtime.block_on(connect)?;
                Self::Async(runtime, clients)
            }
            (Transport::Nearwire, _) => Self::Blocking(
                numbers
                    .map(|_| builder(opening).connect_blocking(&opening.server))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    fn run(&mut self, opening: &Opening, task: &Task) -> Result<Counts> {
        let requests = Requests::new(task.size, opening.first);
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
                sweep_over(lanes, task, requests)
            }
            (Self::Unix(sockets), Shape::Sweep) => {
                let lanes = clones(sockets)?.into_iter().map(UnixLane::new);
                sweep_over(lanes.collect::<Result<Vec<_>>>()?, task, requests)
            }
            (Self::Blocking(clients), Shape::Threads) => {
                let mut callers = clients
                    .iter_mut()
                    .map(NearwireCaller::new)
                    .collect::<Result<Vec<_>>>()?;
                let interval = per_connection(task, callers.len());
                threads::call_all(&mut callers, interval, &requests, budget)
            }
            (Self::Unix(sockets), Shape::Threads) => {
                let callers = clones(sockets)?.into_iter().map(UnixClient::new);
                let mut callers: Vec<_> = callers.collect();
                let interval = per_connection(task, callers.len());
                threads::call_all(&mut callers, interval, &requests, budget)
            }
            (Self::Async(runtime, clients), _) => {
                runtime.block_on(tasks::nearwire(clients, window, &requests, budget))
            }
            (Self::Unix(sockets), Shape::Tasks) => runtime()?.block_on(async {
                let sockets = clones(sockets)?.into_iter().map(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(tokio::net::UnixStream::from_std(socket)?)
                });
                let sockets = sockets.collect::<Result<_>>()?;
                tasks::unix(sockets, window, task.size, budget).await
            }),
            (Self::Blocking(_), Shape::Tasks) => bail!("tasks need async clients"),
        }
    }
}

fn sweep_over<L: super::lanes::Lane>(
    lanes: Vec<L>,
    task: &Task,
    requests: Requests,
) -> Result<Counts> {
    match task.interval {
        None => sweep::as_fast_as_possible(lanes, task.window, requests, task.budget),
        Some(interval) => sweep::on_schedule(lanes, task.window, interval, requests, task.budget),
    }
}

/// Time between the calls of each connection, if there is a schedule.
fn per_connection(task: &Task, connections: usize) -> Option<Duration> {
    task.interval.map(|interval| interval * connections as u32)
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
