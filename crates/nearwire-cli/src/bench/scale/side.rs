//! A server and its clients, as processes.

use std::time::Duration;

use anyhow::Result;
use nearwire::RateLimit;

use super::client::{ClientProcess, Opening, Task};
use super::figures::{Counts, Run};
use super::schedule::Pace;
use super::usage::{self, Ticks};
use super::{MOST_CONNECTIONS, Shape};
use crate::baseline::crowd::CROWD_ROLE;
#[cfg(target_os = "linux")]
use crate::baseline::slots::{self, SLOTS_ROLE};
use crate::bench::calls::Transport;
use crate::measure::{Budget, monotonic};
use crate::private::PrivateServer;
use crate::serve::{Settings, start_privately};

/// Time that a client process, and each of its threads, takes to be ready for a run.
const TIME_TO_BEGIN: Duration = Duration::from_micros(100);

/// What a server and its clients are like.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) transport: Transport,
    pub(super) shape: Shape,
    pub(super) connections: usize,
    /// Client processes, which share the connections.
    pub(super) processes: usize,
    pub(super) workers: Option<u16>,
    pub(super) spin: Option<u64>,
    pub(super) ring: Option<usize>,
    /// Bytes of the longest request, for the floor.
    #[cfg(target_os = "linux")]
    pub(super) longest: usize,
    pub(super) limits: Limits,
    /// The CPUs of the clients and of the server, if they are pinned.
    pub(super) cpus: (Option<usize>, Option<usize>),
}

/// What the Nearwire server lets a connection and a process do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) messages: Option<RateLimit>,
    pub(super) connects: Option<RateLimit>,
}

/// What the clients do in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) size: usize,
    pub(super) window: usize,
    /// Calls per second of all together, at fixed times; without, as many as there can be.
    pub(super) rate: Option<f64>,
    pub(super) budget: Budget,
}

/// A server and its clients, which are connected.
pub(super) struct Side {
    setup: Setup,
    server: PrivateServer,
    clients: Vec<ClientProcess>,
    /// What all of them had in memory before they were connected, in bytes.
    resident_before: u64,
}

impl Setup {
    /// What a client process with so many connections, counted from `first` on, opens.
    pub(super) fn opening(&self, server: &str, first: usize, connections: usize) -> Opening {
        Opening {
            transport: self.transport,
            shape: self.shape,
            server: server.to_owned(),
            connections,
            first,
            spin: self.spin,
            ring: self.ring,
            greet: false,
        }
    }

    /// Starts a server for the clients.
    pub(super) fn start_server(&self) -> Result<PrivateServer> {
        let (_, there) = self.cpus;
        match self.transport {
            Transport::Nearwire => start_privately(
                &Settings {
                    workers: self.workers,
                    spin: self.spin,
                    max_connections: MOST_CONNECTIONS as u32,
                    max_message_rate: self.limits.messages,
                    max_connect_rate: self.limits.connects,
                    ..Settings::default()
                },
                there,
            ),
            Transport::Unix => PrivateServer::start(CROWD_ROLE, &(), there),
            #[cfg(target_os = "linux")]
            Transport::Floor => {
                let settings = slots::Settings {
                    slots: self.connections,
                    longest: self.longest,
                };
                PrivateServer::start(SLOTS_ROLE, &settings, there)
            }
        }
    }

    /// How many connections each process has, evenly but for a remainder: the first one's number,
    /// and how many.
    fn shares(&self) -> impl Iterator<Item = (usize, usize)> {
        let processes = self.processes.min(self.connections);
        let start = move |number: usize| self.connections * number / processes;
        (0..processes).map(move |number| (start(number), start(number + 1) - start(number)))
    }
}

impl Side {
    /// Starts the processes and connects them.
    pub(super) fn open(setup: Setup) -> Result<Self> {
        let server = setup.start_server()?;
        let (here, _) = setup.cpus;
        let clients = setup
            .shares()
            .map(|_| ClientProcess::start(here))
            .collect::<Result<Vec<_>>>()?;
        let mut side = Self {
            setup,
            server,
            clients,
            resident_before: 0,
        };
        side.resident_before = side.resident()?;
        for (client, (first, count)) in side.clients.iter().zip(side.setup.shares()) {
            client.connect(&side.setup.opening(side.server.name(), first, count))?;
        }
        Ok(side)
    }

    pub(super) fn transport(&self) -> Transport {
        self.setup.transport
    }

    /// How many connections the clients have.
    pub(super) fn connections(&self) -> usize {
        self.setup.connections
    }

    pub(super) fn server(&self) -> &PrivateServer {
        &self.server
    }

    /// The client processes' ids.
    pub(super) fn clients(&self) -> impl Iterator<Item = u32> {
        self.clients.iter().map(ClientProcess::id)
    }

    /// Where the two sides really run, in words.
    pub(super) fn placement(&self) -> String {
        let clients = self
            .clients
            .first()
            .map_or_else(String::new, |client| client.placement().to_string());
        format!(
            "the clients {clients}, the server {}",
            self.server.process().placement()
        )
    }

    /// Has all clients call.
    pub(super) fn run(&self, load: &Load) -> Result<Run> {
        let server = self.server.process().id();
        let (before, ticks) = (usage::cpu_time(server)?, Ticks::now());
        let threads = match self.setup.shape {
            Shape::Threads => self.setup.connections,
            Shape::Sweep | Shape::Tasks | Shape::Processes => self.clients.len(),
        };
        let start = monotonic() + TIME_TO_BEGIN * threads as u32;
        for (client, (first, count)) in self.clients.iter().zip(self.setup.shares()) {
            client.begin(&Task {
                size: load.size,
                window: load.window as u64,
                pace: load
                    .rate
                    .map(|rate| Pace::of(rate).share(first, count, self.setup.connections)),
                start,
                budget: load.budget,
            })?;
        }
        let counts = self.clients.iter().map(ClientProcess::counts);
        let counts = Counts::merge(counts.collect::<Result<Vec<_>>>()?);
        Ok(Run {
            counts,
            server_cpu: usage::cpu_time(server)?.saturating_sub(before),
            machine_busy: Ticks::now()
                .zip(ticks)
                .map(|(now, before)| now.busy_since(before)),
            due_per_second: load.rate,
        })
    }

    fn resident(&self) -> Result<u64> {
        self.clients()
            .chain([self.server.process().id()])
            .map(usage::resident)
            .sum()
    }

    /// Resident memory that a connection has added so far, in bytes.
    pub(super) fn bytes_per_connection(&self) -> Result<u64> {
        let added = self.resident()?.saturating_sub(self.resident_before);
        Ok(added / self.setup.connections as u64)
    }

    /// Ends all processes.
    pub(super) fn finish(self) -> Result<()> {
        for client in self.clients {
            client.finish()?;
        }
        self.server.finish()
    }
}
