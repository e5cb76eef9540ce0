//! Runs: one peer after the other, again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nearwire_cli::comparison::{
    Bracket, Budget, Child, Distance, Latency, Measured, Probe, Run, Throughput, UNDISTURBED,
    cpu_time, monotonic, resident, run_on, two_cpus,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::peer::{Ability, CrowdTime, Setup, Tally};
use crate::peers::Entry;
use crate::roles::{CLIENT, Opened, Order, Part, SERVER, Single, Timed, Told};

/// Calls in flight, where there are several on one connection.
pub const WINDOW: usize = 64;

/// Bytes of a message, where only one size is measured.
pub const SIZE: usize = 64;

/// Connections after which memory is looked at.
pub const MEMORY_AT: usize = 128;

/// Client processes that share the connections of a crowd.
const CROWD_PROCESSES: usize = 4;

/// Time that client processes take to hear of a run.
const TIME_TO_BEGIN: Duration = Duration::from_millis(5);

/// How long a process may take to answer. Some open 512 connections first, and not quickly.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// One call after the other on one connection.
    RoundTrips {
        /// Bytes of a request and of its reply.
        size: usize,
    },
    /// Many calls in flight on one connection.
    Pipelined {
        /// How many.
        window: usize,
    },
    /// From nothing to the first answer.
    Connect,
    /// Many connections with a call in flight on each.
    Crowd {
        /// How many.
        connections: usize,
    },
}

impl What {
    /// What a peer must be able to do for it.
    pub fn ability(self) -> Ability {
        match self {
            Self::RoundTrips { .. } => Ability::RoundTrips,
            Self::Pipelined { .. } => Ability::Pipelined,
            Self::Connect => Ability::Connect,
            Self::Crowd { .. } => Ability::Crowd,
        }
    }
}

/// All that is measured, in order.
pub fn plan(quick: bool) -> Vec<What> {
    let mut plan = Vec::new();
    plan.extend([64, 1 << 10, 64 << 10, 1 << 20].map(|size| What::RoundTrips { size }));
    plan.push(What::Pipelined { window: WINDOW });
    plan.push(What::Connect);
    let crowds: &[usize] = if quick { &[32, 128] } else { &[32, 128, 512] };
    plan.extend(
        crowds
            .iter()
            .map(|&connections| What::Crowd { connections }),
    );
    plan
}

/// How long to measure.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lengths {
    /// How often each peer runs, for each thing that is measured on one connection.
    pub rounds: u32,
    /// The same for many connections, which take long to open.
    pub crowd_rounds: u32,
    /// A run on one connection.
    pub single: Duration,
    /// A run on many.
    pub crowd: Duration,
}

/// One run of one peer.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Time or rate, and what the probe said around it.
    pub run: Run,
    /// CPU time of all processes of the peer, per call, in nanoseconds.
    pub cpu_ns_per_call: Option<f64>,
    /// Memory that an idle connection has added.
    pub memory: Option<Memory>,
}

/// Resident bytes per connection; of pages that processes share, each has its part.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// The server's.
    pub server: f64,
    /// All processes'.
    pub both: f64,
}

/// All runs of one peer, for one thing that is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The peer.
    pub peer: &'static str,
    /// Round by round; nothing where the run failed.
    pub points: Vec<Option<Point>>,
    /// Why the last failed, or why it was not run.
    pub why_not: Option<String>,
    /// Runs that failed though the peer should have been able to.
    pub failures: usize,
}

/// Everything about one thing that is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What.
    pub what: What,
    /// The peers', in the order of the table of peers.
    pub outcomes: Vec<Outcome>,
}

/// Measures. Progress goes to standard error; a peer that fails is told of in the results.
///
/// # Errors
/// If the probe cannot be started.
pub fn measure(entries: &[Entry], plan: &[What], lengths: Lengths) -> Result<Vec<Measurement>> {
    let cpus = two_cpus().ok();
    let mut probe = Probe::start(cpus.map(|(_, there)| there))?;
    let mut results = Vec::new();
    for (number, &what) in plan.iter().enumerate() {
        eprintln!("measuring {} of {}: {what:?} …", number + 1, plan.len());
        results.push(rounds(entries, what, lengths, &mut probe));
    }
    Ok(results)
}

fn rounds(entries: &[Entry], what: What, lengths: Lengths, probe: &mut Probe) -> Measurement {
    let mut outcomes: Vec<Outcome> = entries
        .iter()
        .map(|entry| Outcome {
            peer: entry.about.name,
            points: Vec::new(),
            why_not: entry.about.why_not(what.ability()).map(str::to_owned),
            failures: 0,
        })
        .collect();
    // Runs that were spoilt are repeated, but not more often in all than there are rounds.
    let rounds = match what {
        What::Crowd { .. } => lengths.crowd_rounds,
        _ => lengths.rounds,
    };
    let mut repeats = rounds;
    let order: Vec<usize> = (0..entries.len()).collect();
    for round in 0..rounds {
        // There and back again: who runs early in one round runs late in the next.
        let order: Box<dyn Iterator<Item = &usize>> = if round % 2 == 0 {
            Box::new(order.iter())
        } else {
            Box::new(order.iter().rev())
        };
        for &at in order {
            let (entry, outcome) = (&entries[at], &mut outcomes[at]);
            if entry.about.why_not(what.ability()).is_some() {
                continue;
            }
            // What has failed twice will fail again, and each time may take a minute.
            if outcome.failures >= 2 {
                outcome.points.push(None);
                continue;
            }
            let point = loop {
                let point = run(entry, what, lengths, probe);
                let spoilt = point.as_ref().is_ok_and(|point| {
                    point.run.probe.is_some_and(|bracket| {
                        matches!(bracket.distance, Distance::Moved | Distance::Crowded)
                    })
                });
                if !spoilt || repeats == 0 {
                    break point;
                }
                repeats -= 1;
            };
            match point {
                Ok(point) => outcome.points.push(Some(point)),
                Err(error) => {
                    eprintln!("{}: {error:#}", entry.about.name);
                    outcome.why_not = Some(format!("failed: {error:#}"));
                    outcome.failures += 1;
                    outcome.points.push(None);
                }
            }
        }
    }
    Measurement { what, outcomes }
}

fn run(entry: &Entry, what: What, lengths: Lengths, probe: &mut Probe) -> Result<Point> {
    let connections = match what {
        What::Crowd { connections } => connections,
        _ => 1,
    };
    let (longest, window) = match what {
        What::RoundTrips { size } => (size, 1),
        What::Pipelined { window } => (SIZE, window),
        What::Connect | What::Crowd { .. } => (SIZE, 1),
    };
    let processes = if connections > 1 { CROWD_PROCESSES } else { 1 };
    let mut side = Side::start(entry, connections, processes, longest, window)?;
    let budget = Budget::of(lengths.single);
    let point = match what {
        What::RoundTrips { size } => side.single(Order::RoundTrips { size, budget }, probe),
        What::Pipelined { window } => {
            let size = SIZE;
            let order = Order::Pipelined {
                size,
                window,
                budget,
            };
            side.single(order, probe)
        }
        What::Connect => side.connects(budget),
        What::Crowd { .. } => side.crowd(Budget::of(lengths.crowd), probe),
    };
    let point = point?;
    side.finish()?;
    Ok(point)
}

/// The processes of a peer.
struct Side {
    spins: bool,
    server: Child,
    clients: Vec<Child>,
    setups: Vec<Setup>,
    helpers: Vec<u32>,
    /// Where the server is found. Declared last: it goes when nobody uses it any more.
    _place: Place,
}

impl Side {
    fn start(
        entry: &Entry,
        connections: usize,
        processes: usize,
        longest: usize,
        window: usize,
    ) -> Result<Self> {
        let place = Place::new()?;
        let first = |process: usize| connections * process / processes;
        let setups: Vec<Setup> = (0..processes)
            .map(|process| Setup {
                place: place.directory.path().to_owned(),
                connections,
                processes,
                process,
                own: first(process + 1) - first(process),
                first: first(process),
                longest,
                window,
            })
            .collect();
        let part = |setup: &Setup| Part {
            peer: entry.about.name.to_owned(),
            setup: setup.clone(),
        };
        // Two sides that spin must not share a core. Those that sleep are left to the scheduler, which
        // puts them on one, where waking is cheap; so are many clients.
        let (here, there) = match two_cpus() {
            Ok((here, there)) if entry.about.spins && connections == 1 => (Some(here), Some(there)),
            _ => (None, None),
        };
        let server = start(SERVER, &part(&setups[0]), there)?;
        ask::<()>(&server, "the server")?;
        let clients: Vec<Child> = setups
            .iter()
            .map(|setup| start(CLIENT, &part(setup), here))
            .collect::<Result<_>>()?;
        Ok(Self {
            spins: entry.about.spins,
            server,
            clients,
            setups,
            helpers: Vec::new(),
            _place: place,
        })
    }

    /// Opens the connections of all client processes, one process after the other.
    fn open(&mut self) -> Result<()> {
        for client in &self.clients {
            client.channel().send(&Order::Open)?;
            let Opened { helpers } = ask(client, "connecting")?;
            self.helpers.extend(helpers);
        }
        Ok(())
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        let own = self.clients.iter().chain([&self.server]).map(Child::id);
        own.chain(self.helpers.iter().copied())
    }

    fn cpu(&self) -> Result<Duration> {
        self.processes().map(cpu_time).sum()
    }

    /// What the probe says, while the server stands still: one that spins would be in its way.
    fn probe(&self, probe: &mut Probe) -> Result<f64> {
        let server = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw);
        let server = server.context("a process id")?;
        kill_process(server, Signal::STOP)?;
        let reading = match two_cpus() {
            Ok((here, _)) => run_on(here, || probe.read()),
            Err(_) => probe.read(),
        };
        kill_process(server, Signal::CONT)?;
        reading
    }

    /// Runs with the probe around it, if the peer spins.
    fn bracketed<T>(
        &self,
        probe: &mut Probe,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Option<Bracket>)> {
        if !self.spins {
            return Ok((run()?, None));
        }
        let before_ns = self.probe(probe)?;
        let outcome = run()?;
        let after_ns = self.probe(probe)?;
        let bracket = Bracket {
            before_ns,
            after_ns,
            distance: Distance::between(before_ns, after_ns),
        };
        Ok((outcome, Some(bracket)))
    }

    fn single(&mut self, order: Order, probe: &mut Probe) -> Result<Point> {
        self.open()?;
        let client = &self.clients[0];
        client.channel().send(&order)?;
        ask::<()>(client, "warming up")?;
        let ((single, cpu), bracket) = self.bracketed(probe, || {
            let before = self.cpu()?;
            client.channel().send(&Order::Go)?;
            let single: Single = ask(client, "a run")?;
            Ok((single, self.cpu()?.saturating_sub(before)))
        })?;
        let (measured, calls) = match single.timed {
            Timed::Latency(latency) => {
                // One more is its warm-up.
                let calls = latency.operations + 1;
                (Measured::Latency(latency), calls)
            }
            Timed::Throughput(throughput) => {
                let calls = throughput.operations;
                (Measured::Throughput(throughput), calls)
            }
        };
        // A side that was kept waiting is no harm if the time in between was undisturbed.
        let crowded = single.waited_for_core && measured.disturbance() < UNDISTURBED;
        let bracket = bracket.map(|bracket| Bracket {
            distance: if crowded {
                Distance::Crowded
            } else {
                bracket.distance
            },
            ..bracket
        });
        Ok(Point {
            run: Run {
                measured,
                probe: bracket,
            },
            cpu_ns_per_call: Some(cpu.as_nanos() as f64 / calls.max(1) as f64),
            memory: None,
        })
    }

    fn connects(&mut self, budget: Budget) -> Result<Point> {
        let client = &self.clients[0];
        client.channel().send(&Order::Connects { budget })?;
        let measured: Latency = ask(client, "connecting")?;
        Ok(Point {
            run: Run {
                measured: Measured::Latency(measured),
                probe: None,
            },
            cpu_ns_per_call: None,
            memory: None,
        })
    }

    fn crowd(&mut self, budget: Budget, probe: &mut Probe) -> Result<Point> {
        let memory = |side: &Self| -> Result<(u64, u64)> {
            let all: u64 = side.processes().map(resident).sum::<Result<u64>>()?;
            Ok((resident(side.server.id())?, all))
        };
        let before = memory(self)?;
        self.open()?;
        let after = memory(self)?;
        let connections = self.setups[0].connections as f64;
        let per_connection =
            |before: u64, after: u64| after.saturating_sub(before) as f64 / connections;
        let ((tallies, cpu), bracket) = self.bracketed(probe, || {
            let before = self.cpu()?;
            let start = monotonic() + TIME_TO_BEGIN;
            let time = CrowdTime {
                start,
                count_from: start + budget.warm_up,
                end: start + budget.warm_up + budget.run,
            };
            for client in &self.clients {
                client.channel().send(&Order::Crowd { size: SIZE, time })?;
            }
            let tallies: Vec<Tally> = self
                .clients
                .iter()
                .map(|client| ask(client, "many clients"))
                .collect::<Result<_>>()?;
            Ok((tallies, self.cpu()?.saturating_sub(before)))
        })?;
        let calls: u64 = tallies.iter().map(|tally| tally.calls).sum();
        if tallies.iter().any(|tally| tally.calls == 0) {
            return Err(anyhow!("a client process got no answer in time"));
        }
        let per_second = tallies
            .iter()
            .map(|tally| tally.calls as f64 / tally.seconds)
            .sum();
        // The warm-up's calls are not counted, but its CPU time is.
        let counted = budget.run.as_secs_f64() / (budget.run + budget.warm_up).as_secs_f64();
        Ok(Point {
            run: Run {
                measured: Measured::Throughput(Throughput {
                    operations: calls,
                    seconds: budget.run.as_secs_f64(),
                    mean_per_second: per_second,
                    typical_per_second: per_second,
                    bytes_each: SIZE,
                }),
                probe: bracket,
            },
            cpu_ns_per_call: Some(cpu.as_nanos() as f64 * counted / calls as f64),
            memory: Some(Memory {
                server: per_connection(before.0, after.0),
                both: per_connection(before.1, after.1),
            }),
        })
    }

    fn finish(self) -> Result<()> {
        for client in self.clients {
            client.finish()?;
        }
        self.server.finish()
    }
}

/// Where named memory lies, on Linux.
const MEMORY: &str = "/dev/shm";

/// A directory of one server's own; in memory, where the system has some: peers map files in it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("comparison");
        let directory = if Path::new(MEMORY).is_dir() {
            builder.tempdir_in(MEMORY)
        } else {
            builder.tempdir()
        };
        Ok(Self {
            directory: directory.context("cannot make a directory")?,
        })
    }
}

impl Drop for Place {
    /// Removes what bears its name: processes that were killed may have left named memory.
    fn drop(&mut self) {
        let name = self.directory.path().file_name().unwrap_or_default();
        let entries = std::fs::read_dir(MEMORY).into_iter().flatten().flatten();
        for entry in entries {
            let is_own = entry
                .file_name()
                .to_string_lossy()
                .starts_with(&*name.to_string_lossy());
            if is_own && entry.path().is_file() {
                // Somebody else may have been quicker.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn start(role: &str, part: &Part, cpu: Option<usize>) -> Result<Child> {
    let child = Child::start(role, cpu)?;
    child.channel().send(part)?;
    Ok(child)
}

/// What a process tells next.
fn ask<T: DeserializeOwned>(child: &Child, about: &str) -> Result<T> {
    child.channel().set_timeout(Some(PATIENCE))?;
    let told: Told<T> = child
        .channel()
        .receive()
        .with_context(|| format!("no word about {about}"))?;
    told.map_err(|error| anyhow!("{about}: {error}"))
}

/// The figures of one kind of every round that has them.
pub fn figures(outcome: &Outcome, of: impl Fn(&Point) -> Option<f64>) -> Vec<f64> {
    outcome.points.iter().flatten().filter_map(of).collect()
}

/// What the peers said, by name.
pub fn by_peer(measurement: &Measurement) -> BTreeMap<&str, &Outcome> {
    let outcomes = measurement.outcomes.iter();
    outcomes.map(|outcome| (outcome.peer, outcome)).collect()
}
