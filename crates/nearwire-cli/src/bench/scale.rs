//! `nearwire bench scale`: one server, hundreds of connections.

mod bad_clients;
mod client;
mod connects;
mod figures;
mod idle;
mod lanes;
mod offender;
mod picture;
mod report;
mod requests;
mod schedule;
mod side;
mod sweep;
mod tasks;
mod threads;
pub mod usage;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nearwire::RateLimit;
use serde::{Deserialize, Serialize};

use super::calls::Transport;
use crate::arguments;
use crate::measure::{Bracket, Budget, Distance, Options, Probe, RatioFigures, Thoroughness};
use crate::process::{end_with_children, raise_descriptor_limit};

pub use client::{SCALE_CLIENT_ROLE, be_scale_client};
pub use connects::{CONNECTOR_ROLE, be_connector};
pub use figures::Figures;
use figures::Run;
pub use offender::{OFFENDER_ROLE, be_offender};
pub use report::{Found, Placed, Point, Report};
use side::{Limits, Load, Setup, Side};

/// What each of the calls in flight adds to the time that is not measured: until all have been made once or
/// twice, their tasks are being created and their memory is touched for the first time.
const FIRST_CALL: Duration = Duration::from_micros(2);

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(400);

/// Bytes of requests, unless told otherwise.
const USUAL_SIZES: [usize; 2] = [64, 1 << 10];

/// Connections that one server may have, and descriptors for each of them, on either side.
const MOST_CONNECTIONS: usize = 100_000;

/// How one server fares with many connections, over Nearwire and over Unix sockets (Windows: named
/// pipes) served by Tokio, in turn.
///
/// The server is one process, its clients are others. Every reply is compared with its request.
/// With --idle, --bad-clients or --connects, something else is measured, over Nearwire only.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("instead").conflicts_with("plot"))]
#[command(after_help = "\
Examples:
  nearwire bench scale --quick
  nearwire bench scale --connections 1000 --size 64 --shape sweep
  nearwire bench scale --rate 100000 --shape threads --plot scale.svg
  nearwire bench scale --idle 1000
  nearwire bench scale --bad-clients")]
pub struct Scale {
    /// Measure what so many connected, idle clients cost: the throughput of active ones with and
    /// without them, the server's CPU time when nobody calls, memory and descriptors.
    #[arg(long, value_name = "COUNT", group = "instead",
          value_parser = clap::value_parser!(u32).range(1..=MOST_CONNECTIONS as i64))]
    idle: Option<u32>,
    /// With --idle: for how many seconds the server is watched while nobody calls.
    #[arg(long, value_name = "S", default_value_t = 10.0, requires = "idle")]
    rest: f64,
    /// Measure what one bad client does to the others' times: one that never reads, one that
    /// floods, one that is stopped (not on Windows), one that connects and leaves all the time, and
    /// all at once.
    #[arg(long, group = "instead")]
    bad_clients: bool,
    /// Measure connecting: one after the other, and so many at once.
    #[arg(long, value_name = "COUNT", group = "instead",
          value_parser = clap::value_parser!(u32).range(1..=MOST_CONNECTIONS as i64))]
    connects: Option<u32>,
    /// Connections; several numbers with commas in between [default: 32,128,512; with --idle 32;
    /// with --bad-clients 511].
    #[arg(long, value_delimiter = ',', value_name = "COUNT", conflicts_with = "connects",
          value_parser = clap::value_parser!(u32).range(1..=MOST_CONNECTIONS as i64))]
    connections: Vec<u32>,
    /// Bytes of a request, and of its reply, at least 8; several with commas in between [default:
    /// 64,1KiB; 64 with --idle or --bad-clients].
    #[arg(long, value_delimiter = ',', value_name = "SIZE", value_parser = numbered)]
    size: Vec<usize>,
    /// Calls in flight on each connection; several numbers with commas in between [default: 1,64;
    /// 1 with --bad-clients].
    #[arg(long, value_delimiter = ',', value_name = "CALLS",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: Vec<u32>,
    /// How a client process calls [default: sweep,tasks,threads; with --rate sweep,threads; with
    /// --idle sweep; with --bad-clients threads].
    #[arg(long, value_enum, value_delimiter = ',')]
    shape: Vec<Shape>,
    /// What to call over.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Transport::Nearwire, Transport::Unix])]
    transport: Vec<Transport>,
    /// Client processes, which share the connections [default: one for every two CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    processes: Option<u16>,
    /// Calls per second, over all connections, at fixed times: a call that has to wait for its turn
    /// was due all the same. Or a part of what each side makes at most, such as 70%, which is found
    /// out right before each run [default: as many as there can be; with --bad-clients 10000].
    #[arg(long, value_name = "CALLS|PERCENT%")]
    rate: Option<Rate>,
    /// Worker threads of the Nearwire server [default: one per four CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Microseconds that either side may spin before it sleeps; 0: never [default: 50].
    #[arg(long, value_name = "MICROS")]
    spin: Option<u64>,
    /// Wish for rings of this size per direction, a power of two [default: 128 KiB].
    #[arg(long, value_name = "SIZE", value_parser = arguments::bytes)]
    ring: Option<usize>,
    /// Messages that the Nearwire server takes from one connection, per second and at once [default: as
    /// many as come; with --bad-clients 10000:1000 in the rows that say so].
    #[arg(long, value_name = "RATE[:BURST]")]
    max_message_rate: Option<RateLimit>,
    /// Connections that one process may open, per second and at once [default: as many as it can;
    /// with --bad-clients 100 in the rows that say so].
    #[arg(long, value_name = "RATE[:BURST]")]
    max_connect_rate: Option<RateLimit>,
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

/// How many calls are due.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    /// In a second.
    PerSecond(u32),
    /// As a part of the most that there can be.
    OfPeak(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse() {
                Ok(percent) if (1.0..=100.0).contains(&percent) => {
                    Ok(Self::OfPeak(percent / 100.0))
                }
                _ => Err("a part of the peak is 1% to 100%".into()),
            };
        }
        match text.parse() {
            Ok(calls @ 1..=100_000_000) => Ok(Self::PerSecond(calls)),
            _ => Err("1 to 100000000 calls a second, or a part of the peak such as 70%".into()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerSecond(calls) => write!(formatter, "{calls} calls/s"),
            Self::OfPeak(part) => write!(formatter, "{} % of the peak", part * 100.0),
        }
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
    /// A process for each connection, with one call at a time: blocking clients.
    Processes,
}

impl Shape {
    /// Whether a connection has one call in flight at most.
    fn is_single(self) -> bool {
        matches!(self, Self::Threads | Self::Processes)
    }
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
    /// Whether to call over Unix sockets (Windows: named pipes) too.
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
            idle: None,
            rest: 0.0,
            bad_clients: false,
            connects: None,
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
            max_message_rate: None,
            max_connect_rate: None,
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
        let json = self.options.json;
        if let Some(count) = self.idle {
            return self.measure_idle(count as usize)?.print(json);
        }
        if let Some(count) = self.connects {
            return self.measure_connects(count as usize)?.print(json);
        }
        if self.bad_clients {
            return self.measure_bad_clients()?.print(json);
        }
        self.measure()?.publish(&self.options)
    }

    fn connections(&self, usual: &[usize]) -> Vec<usize> {
        if self.connections.is_empty() {
            return usual.to_vec();
        }
        let connections = self.connections.iter();
        connections.map(|count| *count as usize).collect()
    }

    fn sizes(&self, usual: &[usize]) -> Vec<usize> {
        if self.size.is_empty() {
            return usual.to_vec();
        }
        self.size.clone()
    }

    fn windows(&self, usual: &[usize]) -> Vec<usize> {
        if self.window.is_empty() {
            return usual.to_vec();
        }
        self.window.iter().map(|calls| *calls as usize).collect()
    }

    fn shapes(&self, usual: &[Shape]) -> Vec<Shape> {
        if self.shape.is_empty() {
            return usual.to_vec();
        }
        self.shape.clone()
    }

    /// Processes that share so many connections.
    fn processes(&self, shape: Shape, connections: usize) -> usize {
        match (shape, self.processes) {
            (Shape::Processes, _) => connections,
            (_, Some(count)) => count.into(),
            (_, None) => (crate::process::allowed_cpus().len() / 2).max(1),
        }
    }

    fn setup(&self, transport: Transport, shape: Shape, connections: usize) -> Result<Setup> {
        Ok(Setup {
            transport,
            shape,
            connections,
            processes: self.processes(shape, connections),
            workers: self.workers,
            spin: self.spin,
            ring: self.ring,
            #[cfg(target_os = "linux")]
            longest: self.sizes(&USUAL_SIZES).into_iter().max().unwrap_or(0),
            limits: Limits {
                messages: self.max_message_rate,
                connects: self.max_connect_rate,
            },
            cpus: self.options.cpus()?,
        })
    }

    fn budget(&self, usual: Duration) -> Budget {
        self.options.thoroughness.budget(usual)
    }

    fn rounds(&self) -> u32 {
        self.options.thoroughness.rounds
    }

    /// Before the first process is started.
    fn prepare(&self) -> Result<()> {
        end_with_children()?;
        // The children inherit it.
        raise_descriptor_limit();
        Ok(())
    }

    /// What is said of all runs.
    fn describe(&self, budget: Budget) -> String {
        format!(
            "{} alternating runs of {:.3} s each; every reply compared with its request.",
            self.rounds(),
            budget.run.as_secs_f64()
        )
    }

    fn measure(&self) -> Result<Report> {
        let shapes = match self.rate {
            None => self.shapes(&[Shape::Sweep, Shape::Tasks, Shape::Threads]),
            Some(_) => self.shapes(&[Shape::Sweep, Shape::Threads]),
        };
        if self.rate.is_some() && shapes.contains(&Shape::Tasks) {
            bail!("tasks have no schedule: use --rate with --shape sweep,threads,processes");
        }
        #[cfg(target_os = "linux")]
        ensure!(
            !self.transport.contains(&Transport::Floor)
                || shapes.iter().all(|shape| shape.is_single()),
            "the floor has one call in flight on a connection: use it with --shape threads,processes"
        );
        let windows = self.windows(&[1, 64]);
        ensure!(
            windows.contains(&1) || !shapes.iter().all(|shape| shape.is_single()),
            "threads and processes have one call in flight: use --window 1, or another --shape"
        );
        self.prepare()?;
        let budget = self.budget(USUAL);
        let mut report = Report::new(vec![self.describe(budget)]);
        report.heading.settings.push(format!(
            "Client processes that share the connections: {}; as many as there are connections \
             where each has a process of its own.",
            self.processes(Shape::Sweep, MOST_CONNECTIONS)
        ));
        if let Some(rate) = self.rate {
            report.heading.settings.push(format!(
                "Calls are due at fixed times: {rate}, found out right before each run if it is a \
                 part of the peak."
            ));
        }
        for connections in self.connections(&[32, 128, 512]) {
            for &shape in &shapes {
                let mut windows = windows.clone();
                if shape.is_single() {
                    windows.retain(|&window| window == 1);
                }
                if windows.is_empty() {
                    continue;
                }
                self.measure_points(connections, shape, &windows, budget, &mut report)?;
            }
        }
        report.conclude();
        Ok(report)
    }

    /// All sizes and windows with the same connections.
    fn measure_points(
        &self,
        connections: usize,
        shape: Shape,
        windows: &[usize],
        budget: Budget,
        report: &mut Report,
    ) -> Result<()> {
        let name = report::shape_name(shape);
        let (here, there) = self.options.cpus()?;
        let mut probe = Probe::start_between(here, there)?;
        eprintln!("measuring: {connections} connections, {name} …");
        let sides = self
            .transport
            .iter()
            .map(|&transport| Side::open(self.setup(transport, shape, connections)?))
            .collect::<Result<Vec<Side>>>()?;
        if report.points.is_empty() {
            let placement = sides.first().map_or_else(String::new, Side::placement);
            let settings = &mut report.heading.settings;
            settings.push(format!("Where: {placement}."));
        }
        for size in self.sizes(&USUAL_SIZES) {
            for &window in windows {
                let first_round = FIRST_CALL * (connections * window).try_into()?;
                let load = Load {
                    size,
                    window,
                    rate: None,
                    budget: Budget {
                        warm_up: budget.warm_up.max(first_round),
                        ..budget
                    },
                };
                let mut series: Vec<Series> = sides.iter().map(|_| Series::default()).collect();
                probe.forget();
                // A run during which the cores moved is made again, but not for ever.
                let mut repeats = self.rounds();
                for _ in 0..self.rounds() {
                    for (side, series) in sides.iter().zip(&mut series) {
                        series.measure(side, &load, self.rate, &mut probe, &mut repeats)?;
                    }
                }
                let found = |cores: Option<Distance>| -> Result<Found> {
                    let of = |transport| {
                        let mut pairs = sides.iter().zip(&series);
                        pairs.find_map(|(side, series)| {
                            (side.transport() == transport).then_some(series)
                        })
                    };
                    let nearwire = of(Transport::Nearwire);
                    let mut found = Found {
                        times_the_calls: times_the_calls(nearwire, of(Transport::Unix), cores),
                        ..Found::default()
                    };
                    #[cfg(target_os = "linux")]
                    {
                        found.times_the_floor =
                            times_the_calls(nearwire, of(Transport::Floor), cores);
                    }
                    for (side, series) in sides.iter().zip(&series) {
                        let figures = series.figures(cores, side.bytes_per_connection()?)?;
                        match side.transport() {
                            Transport::Nearwire => found.nearwire = figures,
                            Transport::Unix => found.unix_socket = figures,
                            #[cfg(target_os = "linux")]
                            Transport::Floor => found.floor = figures,
                        }
                    }
                    Ok(found)
                };
                let everywhere = series.iter().flat_map(Series::placements);
                let everywhere: BTreeSet<Distance> = everywhere.collect();
                let placed = everywhere.into_iter().map(|cores| {
                    let found = found(Some(cores))?;
                    Ok(Placed { cores, found })
                });
                report.points.push(Point {
                    connections,
                    shape,
                    bytes: size,
                    window,
                    rate: match self.rate {
                        Some(Rate::PerSecond(calls)) => Some(calls.into()),
                        _ => None,
                    },
                    part_of_peak: match self.rate {
                        Some(Rate::OfPeak(part)) => Some(part),
                        _ => None,
                    },
                    placed: placed.collect::<Result<_>>()?,
                    found: found(None)?,
                });
            }
        }
        for side in sides {
            side.finish()?;
        }
        Ok(())
    }
}

/// The runs of one side.
#[derive(Default)]
struct Series {
    runs: Vec<Bracketed>,
}

/// A run, and where the cores were meanwhile.
struct Bracketed {
    run: Run,
    /// The most calls per second that there could be, right before it, if its rate is a part of them.
    peak: Option<f64>,
    probe: Bracket,
}

impl Bracketed {
    fn is_at(&self, cores: Option<Distance>) -> bool {
        cores.is_none_or(|cores| cores == self.probe.distance)
    }
}

impl Series {
    fn measure(
        &mut self,
        side: &Side,
        load: &Load,
        rate: Option<Rate>,
        probe: &mut Probe,
        repeats: &mut u32,
    ) -> Result<()> {
        loop {
            let ((run, peak), bracket) = probe.bracket(|| {
                let peak = match rate {
                    Some(Rate::OfPeak(_)) => Some(side.run(load)?.counts.per_second()),
                    _ => None,
                };
                let rate = match rate {
                    None => None,
                    Some(Rate::PerSecond(calls)) => Some(f64::from(calls)),
                    Some(Rate::OfPeak(part)) => peak.map(|peak| part * peak),
                };
                Ok((side.run(&Load { rate, ..*load })?, peak))
            })?;
            if bracket.distance != Distance::Moved || *repeats == 0 {
                self.runs.push(Bracketed {
                    run,
                    peak,
                    probe: bracket,
                });
                return Ok(());
            }
            *repeats -= 1;
        }
    }

    /// Where the cores were, for each run.
    fn placements(&self) -> impl Iterator<Item = Distance> {
        self.runs.iter().map(|run| run.probe.distance)
    }

    /// Those runs during which the cores were so far apart, or all; `None` if there are none.
    fn figures(
        &self,
        cores: Option<Distance>,
        bytes_per_connection: u64,
    ) -> Result<Option<Figures>> {
        let there = self.runs.iter().filter(|run| run.is_at(cores));
        if there.clone().next().is_none() {
            return Ok(None);
        }
        let runs = there.clone().map(|run| &run.run);
        let mut figures = Figures::of(runs, bytes_per_connection)?;
        let peaks = there.filter_map(|run| run.peak);
        if peaks.clone().next().is_some() {
            figures.peak_calls_per_second = Some(RatioFigures::of(peaks));
        }
        Ok(Some(figures))
    }
}

/// Calls per second of one side, as a multiple of those of the other, round by round: of
/// rounds in which the cores were so far apart for both, or of all.
fn times_the_calls(
    ours: Option<&Series>,
    others: Option<&Series>,
    cores: Option<Distance>,
) -> Option<RatioFigures> {
    let there = |pair: &[&Bracketed; 2]| pair.iter().all(|run| run.is_at(cores));
    let pairs = ours?.runs.iter().zip(&others?.runs);
    let ratios: Vec<f64> = pairs
        .map(|(ours, other)| [ours, other])
        .filter(there)
        .map(|[ours, other]| ours.run.counts.per_second() / other.run.counts.per_second())
        .collect();
    (!ratios.is_empty()).then(|| RatioFigures::of(ratios.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_or_parts_of_the_peak() {
        assert_eq!("2000".parse(), Ok(Rate::PerSecond(2000)));
        assert_eq!("70%".parse(), Ok(Rate::OfPeak(0.7)));
        assert_eq!("12.5 %".parse(), Ok(Rate::OfPeak(0.125)));
        for bad in ["0", "-1", "0%", "101%", "%", "many", "NaN%", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
    }
}
