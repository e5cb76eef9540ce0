//! What clients cost that are connected and do nothing.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nearwire::Observer;
use nearwire::metrics::Gauge;
use serde::Serialize;

use super::client::{ClientProcess, Opening};
use super::figures::{Run, Times};
use super::report::{Heading, shape_name};
use super::side::{Load, Side};
use super::usage::{self, DESCRIPTORS, SHARED_PAGES, STRAY_DESCRIPTORS};
use super::{Figures, Scale, Shape};
use crate::arguments::human_size;
use crate::bench::calls::Transport;
use crate::measure::{RatioFigures, Unit, Verdict, human, plain_table, right_align, verdict_lines};
use crate::output::{print_json, print_text};
use crate::process::two_cpus;

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(800);

/// Idle connections that one process holds at most, if it may have the descriptors.
const MOST_PER_HOLDER: usize = 5_000;

/// Descriptors and mappings that a process needs for other things.
const SPARE: usize = 200;

/// How long all are left alone before it counts as rest.
const SETTLE: Duration = Duration::from_millis(300);

/// How long the server may take to notice that idle clients have left.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that idle clients may take of the active ones' throughput, in per cent.
const MOST_CHANGE: f64 = 5.0;

/// The most CPU time that a server may use when nobody calls, in per cent of a core.
const MOST_AT_REST: f64 = 1.0;

/// The most resident memory of an idle connection, in both processes, in bytes.
const MOST_MEMORY: u64 = 24 << 10;

/// What idle clients cost.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    heading: Heading,
    /// Clients that are connected and do nothing.
    idle: usize,
    /// The active ones' calls.
    points: Vec<Point>,
    /// The server's CPU time while nobody called, in per cent of a core, and for how many seconds.
    server_percent_at_rest: f64,
    rest_seconds: f64,
    /// Resident memory of an idle connection in both processes, shared pages counted once on Linux
    /// and in each process elsewhere: the largest of all rounds.
    bytes_per_idle_connection: u64,
    /// Descriptors (handles, on Windows) of a connection in the server's process and in the client's,
    /// if the system tells.
    server_descriptors: Option<f64>,
    client_descriptors: Option<f64>,
    /// How long connecting took, one after the other.
    connect_p50_ns: u64,
    connect_p99_ns: u64,
    verdicts: Vec<Verdict>,
}

/// Calls of the active clients, without and with idle ones.
#[derive(Debug, Serialize)]
struct Point {
    connections: usize,
    shape: Shape,
    bytes: usize,
    window: usize,
    without: Figures,
    with: Figures,
    /// By how much idle clients change the calls per second, pair by pair, in per cent.
    change_percent: RatioFigures,
}

/// What a connection takes in a process, as far as the system tells.
#[derive(Debug, Clone, Copy)]
struct PerConnection {
    descriptors: Option<f64>,
    mappings: Option<f64>,
}

/// What a process has, as far as the system tells.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: Option<usize>,
    mappings: Option<usize>,
}

impl Holdings {
    fn of(process: u32) -> Result<Self> {
        Ok(Self {
            descriptors: usage::descriptors(process)?,
            mappings: usage::mappings(process)?,
        })
    }

    /// What a process may have.
    fn most() -> Self {
        Self {
            descriptors: usage::most_descriptors(),
            mappings: usage::most_mappings(),
        }
    }

    fn per_connection(self, before: Self, connections: usize) -> PerConnection {
        let part = |now: Option<usize>, before: Option<usize>| {
            Some(now?.saturating_sub(before?) as f64 / connections as f64)
        };
        PerConnection {
            descriptors: part(self.descriptors, before.descriptors),
            mappings: part(self.mappings, before.mappings),
        }
    }
}

impl PerConnection {
    /// How many connections a process may have, and what keeps it from more.
    fn most(self, used: Holdings, limits: Holdings) -> (usize, String) {
        let mut most = (usize::MAX, "this system tells of no limit".into());
        if let (Some(limit), Some(used), Some(each)) =
            (limits.descriptors, used.descriptors, self.descriptors)
        {
            let what = format!(
                "{each} {DESCRIPTORS} each, and a limit of {limit}; raise the hard limit, as with \
                 `ulimit -Hn`"
            );
            most = (fitting(limit, used, each), what);
        }
        if let (Some(limit), Some(used), Some(each)) =
            (limits.mappings, used.mappings, self.mappings)
        {
            let by_mappings = fitting(limit, used, each);
            if by_mappings < most.0 {
                let what = format!("{each} mappings each; sysctl vm.max_map_count is too low");
                most = (by_mappings, what);
            }
        }
        most
    }
}

fn fitting(limit: usize, used: usize, each: f64) -> usize {
    let left = limit.saturating_sub(used).saturating_sub(SPARE);
    (left as f64 / each.max(0.01)) as usize
}

/// What a connection takes in both processes, in words.
fn price_in_words(server: PerConnection, client: PerConnection) -> String {
    match (server.descriptors, client.descriptors) {
        (Some(server), Some(client)) => {
            format!("Each has {server} {DESCRIPTORS} in the server, {client} in the client.")
        }
        _ => format!("This system does not tell how many {DESCRIPTORS} each has."),
    }
}

impl Scale {
    /// Measures what so many idle clients cost.
    pub(super) fn measure_idle(&self, idle: usize) -> Result<Report> {
        let shape = self.shapes(&[Shape::Sweep])[0];
        let connections = self.connections(&[32])[0];
        self.prepare()?;
        let budget = self.budget(USUAL);
        eprintln!("measuring: {connections} active connections, and {idle} idle ones …");
        let (crowd, side) = Crowd::prepare(self, shape, connections, idle)?;
        let mut loads: Vec<(Load, Vec<Run>, Vec<Run>)> = Vec::new();
        for size in self.sizes(&[64]) {
            for window in self.windows(&[1, 64]) {
                if window > 1 && shape.is_single() {
                    continue;
                }
                let load = Load {
                    size,
                    window,
                    rate: None,
                    budget,
                };
                loads.push((load, Vec::new(), Vec::new()));
            }
        }
        ensure!(
            !loads.is_empty(),
            "threads and processes have one call in flight: use --window 1"
        );
        let mut holders: Option<Vec<ClientProcess>> = None;
        let (mut connects, mut memory) = (Vec::new(), 0);
        for round in 0..self.rounds() {
            eprintln!("measuring: round {} of {} …", round + 1, self.rounds());
            // Without and with, then with and without: what drifts hits both alike.
            let order = if round % 2 == 0 {
                [false, true]
            } else {
                [true, false]
            };
            for present in order {
                match (present, holders.take()) {
                    (true, None) => {
                        let (come, bytes, times) = crowd.come(&side)?;
                        (holders, memory) = (Some(come), memory.max(bytes));
                        connects.push(times);
                    }
                    (false, Some(come)) => crowd.leave(&side, come)?,
                    (_, as_it_is) => holders = as_it_is,
                }
                for (load, without, with) in &mut loads {
                    let runs = if present { with } else { without };
                    runs.push(side.run(load)?);
                }
            }
        }
        let come = match holders {
            Some(come) => come,
            None => {
                let (come, bytes, times) = crowd.come(&side)?;
                memory = memory.max(bytes);
                connects.push(times);
                come
            }
        };
        eprintln!("measuring: nobody calls for {} s …", self.rest);
        let rest = Duration::from_secs_f64(self.rest);
        let at_rest = cpu_at_rest(side.server().process().id(), rest)?;
        crowd.leave(&side, come)?;
        let connects = Times::merge(connects).histogram()?;
        let mut report = Report {
            heading: Heading::new(
                "What idle clients cost",
                vec![
                    self.describe(budget),
                    format!("Where: {}.", side.placement()),
                    format!(
                        "{idle} idle clients, each of which has made a call, which share {} process(es). {}",
                        crowd.shares.len(),
                        price_in_words(crowd.server, crowd.client)
                    ),
                ],
            ),
            idle,
            points: Vec::new(),
            server_percent_at_rest: at_rest,
            rest_seconds: self.rest,
            bytes_per_idle_connection: memory,
            server_descriptors: crowd.server.descriptors,
            client_descriptors: crowd.client.descriptors,
            connect_p50_ns: connects.value_at_quantile(0.5),
            connect_p99_ns: connects.value_at_quantile(0.99),
            verdicts: Vec::new(),
        };
        for (load, without, with) in &loads {
            let changes = without.iter().zip(with).map(|(without, with)| {
                (with.counts.per_second() / without.counts.per_second() - 1.0) * 100.0
            });
            report.points.push(Point {
                connections,
                shape,
                bytes: load.size,
                window: load.window,
                without: Figures::of(without.iter(), side.bytes_per_connection()?)?,
                with: Figures::of(with.iter(), side.bytes_per_connection()?)?,
                change_percent: RatioFigures::of(changes),
            });
        }
        side.finish()?;
        report.conclude();
        Ok(report)
    }
}

/// Those who are idle.
struct Crowd {
    /// What each process opens.
    shares: Vec<Opening>,
    idle: usize,
    server: PerConnection,
    client: PerConnection,
    /// What the server has without them.
    without: Holdings,
    cpu: Option<usize>,
}

impl Crowd {
    /// Starts a server with active clients, and sees whether so many idle ones can be had.
    fn prepare(
        scale: &Scale,
        shape: Shape,
        connections: usize,
        idle: usize,
    ) -> Result<(Self, Side)> {
        let setup = scale.setup(Transport::Nearwire, shape, connections)?;
        let (server, client) = price(scale, shape)?;
        let side = Side::open(setup.clone())?;
        let without = Holdings::of(side.server().process().id())?;
        let limits = Holdings::most();
        let (most, what) = server.most(without, limits);
        if idle > most {
            bail!(
                "the server cannot have {idle} idle clients more than {connections} active ones, \
                 but {most}: {what}, or use --idle {most}"
            );
        }
        let empty = Holdings {
            descriptors: Some(0),
            mappings: Some(0),
        };
        let (most, what) = client.most(empty, limits);
        ensure!(
            most > 0,
            "a client process cannot have any connection: {what}"
        );
        let holders = idle.div_ceil(most.min(MOST_PER_HOLDER));
        let cpus = two_cpus().ok().filter(|_| scale.options.pin);
        let shares = (0..holders)
            .map(|number| {
                let (first, end) = (idle * number / holders, idle * (number + 1) / holders);
                Opening {
                    greet: true,
                    ..setup.opening(side.server().name(), connections + first, end - first)
                }
            })
            .collect();
        let crowd = Self {
            shares,
            idle,
            server,
            client,
            without,
            cpu: cpus.map(|(here, _)| here),
        };
        Ok((crowd, side))
    }

    /// Connects all of them. Returns what they take in memory, each, and how long connecting took.
    fn come(&self, side: &Side) -> Result<(Vec<ClientProcess>, u64, Times)> {
        let holders = self
            .shares
            .iter()
            .map(|_| ClientProcess::start(self.cpu))
            .collect::<Result<Vec<_>>>()?;
        let server = side.server().process().id();
        let resident = || -> Result<u64> {
            let holders = holders.iter().map(ClientProcess::id);
            holders.chain([server]).map(usage::resident).sum()
        };
        let before = resident()?;
        let mut connects = Vec::new();
        for (holder, share) in holders.iter().zip(&self.shares) {
            connects.push(holder.connect(share)?.connects);
        }
        std::thread::sleep(SETTLE);
        let each = resident()?.saturating_sub(before) / self.idle as u64;
        Ok((holders, each, Times::merge(connects)))
    }

    /// Has them leave, and waits until the server has let go of all.
    fn leave(&self, side: &Side, holders: Vec<ClientProcess>) -> Result<()> {
        for holder in holders {
            holder.finish()?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (more, what) = self.left_behind(side)?;
            if more == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{PATIENCE:?} after idle clients have left, the server has {more} {what} more than before"
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How much the server has more than without them, and of what: descriptors, which nobody can be
    /// wrong about, or else connections, by its own account.
    fn left_behind(&self, side: &Side) -> Result<(usize, &'static str)> {
        let server = side.server();
        let descriptors = usage::descriptors(server.process().id())?;
        if let (Some(now), Some(before)) = (descriptors, self.without.descriptors) {
            let more = now.saturating_sub(before + STRAY_DESCRIPTORS);
            return Ok((more, DESCRIPTORS));
        }
        let snapshot = Observer::connect(server.name())?.snapshot();
        let now = snapshot.gauge(Gauge::Connections) as usize;
        Ok((now.saturating_sub(side.connections()), "connections"))
    }
}

/// What a connection takes in the server's process and in a client's.
fn price(scale: &Scale, shape: Shape) -> Result<(PerConnection, PerConnection)> {
    const SOME: usize = 16;
    let setup = scale.setup(Transport::Nearwire, shape, SOME)?;
    let server = setup.start_server()?;
    // The first connection brings what a process has once.
    let (first, second) = (ClientProcess::start(None)?, ClientProcess::start(None)?);
    first.connect(&setup.opening(server.name(), 0, 1))?;
    let without = Holdings::of(server.process().id())?;
    second.connect(&setup.opening(server.name(), 1, SOME + 1))?;
    let with = Holdings::of(server.process().id())?;
    let (one, many) = (Holdings::of(first.id())?, Holdings::of(second.id())?);
    first.finish()?;
    second.finish()?;
    server.finish()?;
    Ok((
        with.per_connection(without, SOME + 1),
        many.per_connection(one, SOME),
    ))
}

/// The server's CPU time while nobody calls, in per cent of a core.
fn cpu_at_rest(server: u32, rest: Duration) -> Result<f64> {
    std::thread::sleep(SETTLE);
    let (before, start) = (usage::cpu_time(server)?, Instant::now());
    std::thread::sleep(rest);
    let used = usage::cpu_time(server)?.saturating_sub(before);
    Ok(used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
}

impl Report {
    fn conclude(&mut self) {
        for point in &self.points {
            let change = point.change_percent;
            self.verdicts.push(Verdict {
                goal: format!(
                    "{} idle clients change the calls of {} active ones ({}, {}, window {}) by less \
                     than {MOST_CHANGE} %",
                    self.idle,
                    point.connections,
                    shape_name(point.shape),
                    human_size(point.bytes),
                    point.window
                ),
                found: format!(
                    "{:+.1} % (median of the pairs; {:+.1} to {:+.1})",
                    change.median, change.min, change.max
                ),
                // More calls with idle clients than without are noise, and no harm.
                met: change.median > -MOST_CHANGE,
            });
        }
        self.verdicts.push(Verdict {
            goal: format!("a server at rest takes less than {MOST_AT_REST} % of a core"),
            found: format!("{:.2} %", self.server_percent_at_rest),
            met: self.server_percent_at_rest < MOST_AT_REST,
        });
        self.verdicts.push(Verdict {
            goal: format!(
                "an idle connection takes at most {} of memory in both processes",
                human_size(MOST_MEMORY as usize)
            ),
            found: format!(
                "{}, {SHARED_PAGES}",
                human_size(self.bytes_per_idle_connection as usize)
            ),
            met: self.bytes_per_idle_connection <= MOST_MEMORY,
        });
    }

    /// Prints to standard output, as JSON or as a table.
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let mut table = plain_table(&[
            "active", "size", "window", "idle", "calls", "p50", "p99", "p99.9", "change",
        ]);
        for point in &self.points {
            for (idle, figures) in [(0, &point.without), (self.idle, &point.with)] {
                let time = |nanoseconds: u64| human(nanoseconds as f64, Unit::Nanoseconds);
                table.add_row([
                    format!("{}, {}", point.connections, shape_name(point.shape)),
                    human_size(point.bytes),
                    point.window.to_string(),
                    idle.to_string(),
                    human(figures.calls_per_second.median, Unit::PerSecond),
                    time(figures.p50_ns),
                    time(figures.p99_ns),
                    time(figures.p999_ns),
                    match idle {
                        0 => String::new(),
                        _ => format!("{:+.1} %", point.change_percent.median),
                    },
                ]);
            }
        }
        right_align(&mut table);
        let mut text = self.heading.text();
        writeln!(text, "\n{table}\n")?;
        writeln!(
            text,
            "Nobody calls for {} s: the server takes {:.2} % of a core. Memory of an idle connection, \
             resident, in both processes together, {SHARED_PAGES}: {}. Connecting, one after the other: p50 {}, p99 {}.",
            self.rest_seconds,
            self.server_percent_at_rest,
            human_size(self.bytes_per_idle_connection as usize),
            human(self.connect_p50_ns as f64, Unit::Nanoseconds),
            human(self.connect_p99_ns as f64, Unit::Nanoseconds),
        )?;
        writeln!(text, "\n{}", verdict_lines(&self.verdicts).trim_end())?;
        print_text(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_known_before() {
        assert_eq!(fitting(20_000, 300, 3.0), 6_500);
        assert_eq!(fitting(100, 300, 3.0), 0);
        let holdings = |descriptors, mappings| Holdings {
            descriptors,
            mappings,
        };
        let nothing = holdings(Some(0), Some(0));
        let each = |descriptors, mappings| PerConnection {
            descriptors,
            mappings,
        };
        let most = |each: PerConnection, limits| each.most(nothing, limits);
        let limits = holdings(Some(1_200), Some(65_200));
        let (count, what) = most(each(Some(2.0), Some(4.0)), limits);
        assert_eq!(count, 500);
        assert!(what.contains("ulimit"), "{what}");
        let (count, what) = most(each(Some(2.0), Some(650.0)), limits);
        assert_eq!(count, 100);
        assert!(what.contains("max_map_count"), "{what}");
        // Where the system does not tell, nobody is refused.
        for (each, limits) in [
            (each(None, None), limits),
            (each(Some(1e6), Some(1e6)), holdings(None, None)),
        ] {
            assert_eq!(most(each, limits).0, usize::MAX);
        }
    }
}
