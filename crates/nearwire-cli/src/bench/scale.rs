//! `nearwire bench scale`: one server, hundreds of connections.

mod client;
mod figures;
mod lanes;
mod picture;
mod report;
mod requests;
mod sweep;
mod tasks;
mod threads;
mod usage;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::calls::Transport;
use crate::arguments;
use crate::baseline::crowd::CROWD_ROLE;
use crate::measure::{Budget, Machine, Options, RatioFigures, Thoroughness};
use crate::private::PrivateServer;
use crate::process::{end_with_children, raise_descriptor_limit};
use crate::serve::{Settings, start_privately};

use client::{ClientProcess, Opening, Task};
pub use client::{SCALE_CLIENT_ROLE, be_scale_client};
pub use figures::Figures;
use figures::{Counts, Run};
pub use report::{Point, Report};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(400);

/// Connections that one server may have, and descriptors for each of them, on either side.
const MOST_CONNECTIONS: usize = 100_000;

/// How one server fares with many connections, over Nearwire and over Unix sockets served by
/// Tokio, in turn.
///
/// The server is one process, its clients are others. Every reply is compared with its request.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench scale --quick
  nearwire bench scale --connections 1000 --size 64 --shape sweep
  nearwire bench scale --rate 100000 --shape threads --plot scale.svg")]
pub struct Scale {
    /// Connections; several numbers with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "COUNT", default_value = "32,128,512",
          value_parser = clap::value_parser!(u32).range(1..=MOST_CONNECTIONS as i64))]
    connections: Vec<u32>,
    /// Bytes of a request, and of its reply, at least 8; several with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "SIZE", value_parser = numbered,
          default_value = "64,1KiB")]
    size: Vec<usize>,
    /// Calls in flight on each connection; several numbers with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "CALLS", default_value = "1,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: Vec<u32>,
    /// How a client process calls.
    #[arg(long, value_enum, value_delimiter = ',',
          default_values_t = [Shape::Sweep, Shape::Tasks, Shape::Threads])]
    shape: Vec<Shape>,
    /// What to call over.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Transport::Nearwire, Transport::Unix])]
    transport: Vec<Transport>,
    /// Client processes, which share the connections [default: one for every two CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    processes: Option<u16>,
    /// Calls per second, over all connections, at fixed times: a call that has to wait for its turn
    /// was due all the same [default: as many as there can be].
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Worker threads of the Nearwire server [default: one per four CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Microseconds that either side may spin before it sleeps; 0: never [default: 50].
    #[arg(long, value_name = "MICROS")]
    spin: Option<u64>,
    /// Wish for rings of this size per direction, a power of two [default: 64 KiB].
    #[arg(long, value_name = "SIZE", value_parser = arguments::bytes)]
    ring: Option<usize>,
    #[command(flatten)]
    options: Options,
}

/// Reads the size of requests that are numbered.
fn numbered(text: &str) -> Result<usize, String> {
    match arguments::bytes(text)? {
        0..8 => Err("at least 8 bytes: requests are numbered".into()),
        bytes => Ok(bytes),
    }
}

/// How a client process calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One thread goes round all connections: blocking clients with calls in flight on each.
    Sweep,
    /// One thread with a task for each call in flight: async clients on Tokio.
    Tasks,
    /// A thread for each connection, with one call at a time: blocking clients.
    Threads,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// Bytes of a request, and of its reply.
    pub sizes: Vec<usize>,
    /// Calls in flight on each connection.
    pub windows: Vec<usize>,
    /// How the client processes call.
    pub shapes: Vec<Shape>,
    /// Whether to call over Unix sockets too.
    pub unix: bool,
    /// How often each run is repeated.
    pub rounds: u32,
    /// The time of one run.
    pub run: Duration,
}

impl Plan {
    /// Measures. Progress goes to standard error.
    ///
    /// # Errors
    /// If the processes cannot be started, or a reply is wrong.
    pub fn measure(&self) -> Result<Report> {
        let number = |number: &usize| Ok(u32::try_from(*number)?);
        let scale = Scale {
            connections: self.connections.iter().map(number).collect::<Result<_>>()?,
            size: self.sizes.clone(),
            window: self.windows.iter().map(number).collect::<Result<_>>()?,
            shape: self.shapes.clone(),
            transport: if self.unix {
                vec![Transport::Nearwire, Transport::Unix]
            } else {
                vec![Transport::Nearwire]
            },
            processes: None,
            rate: None,
            workers: None,
            spin: None,
            ring: None,
            options: Options {
                json: false,
                pin: false,
                plot: None,
                thoroughness: Thoroughness {
                    quick: false,
                    seconds_per: Some(self.run.as_secs_f64()),
                    rounds: self.rounds,
                },
            },
        };
        scale.measure()
    }
}

impl Scale {
    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, or a reply is wrong.
    pub fn run(&self) -> Result<()> {
        self.measure()?.publish(&self.options)
    }

    fn processes(&self) -> usize {
        match self.processes {
            Some(count) => count.into(),
            None => (crate::process::allowed_cpus().len() / 2).max(1),
        }
    }

    fn measure(&self) -> Result<Report> {
        if self.rate.is_some() && self.shape.contains(&Shape::Tasks) {
            bail!("tasks have no schedule: use --rate with --shape sweep,threads");
        }
        end_with_children()?;
        // The children inherit it.
        raise_descriptor_limit();
        let budget = self.options.thoroughness.budget(USUAL);
        let (here, there) = self.options.cpus()?;
        let mut report = Report::new(vec![
            format!(
                "{} alternating runs of {:.3} s each; every reply compared with its request.",
                self.options.thoroughness.rounds,
                budget.run.as_secs_f64()
            ),
            format!(
                "Client processes that share the connections: {}{}.",
                self.processes(),
                match (here, there) {
                    (Some(here), Some(there)) =>
                        format!(", on CPU {here}; the servers are on CPU {there}"),
                    _ => ", nothing is pinned".into(),
                }
            ),
        ]);
        for &connections in &self.connections {
            for &shape in &self.shape {
                let points = self.points(connections as usize, shape, budget, (here, there))?;
                report.points.extend(points);
            }
        }
        ensure!(
            !report.points.is_empty(),
            "threads have one call in flight: use --window 1, or another --shape"
        );
        Ok(report)
    }

    /// All sizes and windows with the same connections.
    fn points(
        &self,
        connections: usize,
        shape: Shape,
        budget: Budget,
        (here, there): (Option<usize>, Option<usize>),
    ) -> Result<Vec<Point>> {
        let windows: Vec<u32> = match shape {
            Shape::Threads => self.window.iter().copied().filter(|&w| w == 1).collect(),
            _ => self.window.clone(),
        };
        if windows.is_empty() {
            return Ok(Vec::new());
        }
        let name = report::shape_name(shape);
        eprintln!("measuring: {connections} connections, {name} …");
        let sides = self
            .transport
            .iter()
            .map(|&transport| self.side(transport, connections, shape, here, there))
            .collect::<Result<Vec<Side>>>()?;
        let mut points = Vec::new();
        for &size in &self.size {
            for &window in &windows {
                let task = Task {
                    size,
                    window: window.into(),
                    interval: self
                        .rate
                        .map(|rate| Duration::from_secs_f64(self.processes() as f64 / rate as f64)),
                    budget,
                };
                let mut runs: Vec<Vec<Run>> = sides.iter().map(|_| Vec::new()).collect();
                for _ in 0..self.options.thoroughness.rounds {
                    for (side, runs) in sides.iter().zip(&mut runs) {
                        runs.push(side.run(&task)?);
                    }
                }
                let mut point = Point {
                    connections,
                    shape,
                    bytes: size,
                    window: window as usize,
                    rate: self.rate,
                    nearwire: None,
                    unix_socket: None,
                    times_the_calls: times_the_calls(&runs),
                };
                for (side, runs) in sides.iter().zip(&runs) {
                    let figures = Figures::of(runs, side.bytes_per_connection()?)?;
                    match side.transport {
                        Transport::Nearwire => point.nearwire = Some(figures),
                        Transport::Unix => point.unix_socket = Some(figures),
                    }
                }
                points.push(point);
            }
        }
        for side in sides {
            side.finish()?;
        }
        Ok(points)
    }

    fn side(
        &self,
        transport: Transport,
        connections: usize,
        shape: Shape,
        here: Option<usize>,
        there: Option<usize>,
    ) -> Result<Side> {
        let server = match transport {
            Transport::Nearwire => start_privately(
                &Settings {
                    workers: self.workers,
                    spin: self.spin,
                    max_connections: MOST_CONNECTIONS as u32,
                    ..Settings::default()
                },
                there,
            )?,
            Transport::Unix => PrivateServer::start(CROWD_ROLE, &(), there)?,
        };
        let count = self.processes().min(connections);
        let clients = (0..count)
            .map(|_| ClientProcess::start(here))
            .collect::<Result<Vec<_>>>()?;
        let mut side = Side {
            transport,
            server,
            clients,
            connections,
            resident_before: 0,
        };
        side.resident_before = side.resident()?;
        // Evenly, but for a remainder.
        let mut first = 0;
        for (number, client) in side.clients.iter().enumerate() {
            let end = connections * (number + 1) / count;
            client.connect(&Opening {
                transport,
                shape,
                server: side.server.name().to_owned(),
                connections: end - first,
                first,
                spin: self.spin,
                ring: self.ring,
            })?;
            first = end;
        }
        Ok(side)
    }
}

/// A server and its clients.
struct Side {
    transport: Transport,
    server: PrivateServer,
    clients: Vec<ClientProcess>,
    connections: usize,
    /// What all of them had in memory before they were connected, in bytes.
    resident_before: u64,
}

impl Side {
    fn run(&self, task: &Task) -> Result<Run> {
        let server = self.server.process().id();
        let before = usage::cpu_time(server)?;
        for client in &self.clients {
            client.begin(task)?;
        }
        let counts = self.clients.iter().map(ClientProcess::counts);
        let counts = Counts::merge(counts.collect::<Result<Vec<_>>>()?);
        Ok(Run {
            counts,
            server_cpu: usage::cpu_time(server)?.saturating_sub(before),
        })
    }

    fn resident(&self) -> Result<u64> {
        let clients = self.clients.iter().map(ClientProcess::id);
        clients
            .chain([self.server.process().id()])
            .map(usage::resident)
            .sum()
    }

    fn bytes_per_connection(&self) -> Result<u64> {
        Ok(self.resident()?.saturating_sub(self.resident_before) / self.connections as u64)
    }

    fn finish(self) -> Result<()> {
        for client in self.clients {
            client.finish()?;
        }
        self.server.finish()
    }
}

/// Calls per second over Nearwire, as a multiple of those over the Unix socket, run by run.
fn times_the_calls(runs: &[Vec<Run>]) -> Option<RatioFigures> {
    let [nearwire, unix] = runs else { return None };
    let pairs = nearwire.iter().zip(unix);
    Some(RatioFigures::of(pairs.map(|(nearwire, unix)| {
        nearwire.counts.per_second() / unix.counts.per_second()
    })))
}
