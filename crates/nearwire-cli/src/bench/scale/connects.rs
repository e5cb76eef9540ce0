//! How long connecting takes, for one and for many at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nearwire::{BlockingClient, ClientBuilder};
use serde::{Deserialize, Serialize};

use super::figures::Times;
use super::report::Heading;
use super::threads::STACK;
use super::{Scale, Shape};
use crate::bench::calls::{Transport, check};
use crate::measure::{
    RatioFigures, Unit, Verdict, human, instant_of, monotonic, plain_table, right_align,
    verdict_lines,
};
use crate::output::{print_json, print_text};
use crate::process::{Child, Parent};
use crate::serve::spin;

/// The role of a process that connects.
pub const CONNECTOR_ROLE: &str = "scale-connector";

/// Time that each thread takes to be ready.
const TIME_TO_BEGIN: Duration = Duration::from_micros(200);

/// The most that half of the connects may take, one after the other, in nanoseconds.
const MOST_P50_NS: u64 = 300_000;

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    server: String,
    count: usize,
    /// When all are to connect, on the clock that all processes share; without, one connects after
    /// the other, and leaves before the next one comes.
    at: Option<Duration>,
    spin: Option<u64>,
    ring: Option<usize>,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    times: Times,
    /// From the start to the last connect that succeeded.
    last: Duration,
    succeeded: usize,
    /// How often what went wrong.
    failures: BTreeMap<String, usize>,
}

/// How long connecting takes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    heading: Heading,
    one_after_the_other: Figures,
    at_once: Figures,
    /// Milliseconds until the last of those at once was connected, run by run.
    all_connected_ms: RatioFigures,
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct Figures {
    /// Connects in all runs, and those of them that succeeded.
    tried: usize,
    succeeded: usize,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    failures: BTreeMap<String, usize>,
}

impl Figures {
    fn of(tried: usize, outcomes: Vec<Outcome>) -> Result<Self> {
        let succeeded = outcomes.iter().map(|outcome| outcome.succeeded).sum();
        let mut failures = BTreeMap::new();
        for (why, count) in outcomes.iter().flat_map(|outcome| &outcome.failures) {
            *failures.entry(why.clone()).or_default() += count;
        }
        let times = outcomes.into_iter().map(|outcome| outcome.times);
        let times = Times::merge(times).histogram()?;
        Ok(Self {
            tried,
            succeeded,
            p50_ns: times.value_at_quantile(0.5),
            p99_ns: times.value_at_quantile(0.99),
            max_ns: times.max(),
            failures,
        })
    }
}

impl Scale {
    /// Measures connecting.
    pub(super) fn measure_connects(&self, count: usize) -> Result<Report> {
        self.prepare()?;
        eprintln!("measuring: {count} connects …");
        let setup = self.setup(Transport::Nearwire, Shape::Threads, count)?;
        let server = setup.start_server()?;
        let (here, _) = setup.cpus;
        let connectors = (0..setup.processes.min(count))
            .map(|_| Child::start(CONNECTOR_ROLE, here))
            .collect::<Result<Vec<_>>>()?;
        let errand = |count, at| Errand {
            server: server.name().to_owned(),
            count,
            at,
            spin: self.spin,
            ring: self.ring,
        };
        let answer = |connector: &Child| {
            let failed = "a process that connects failed";
            connector.channel().receive::<Outcome>().context(failed)
        };
        let (mut single, mut together, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds() {
            eprintln!("measuring: round {} of {} …", round + 1, self.rounds());
            let one = &connectors[0];
            one.channel().send(&errand(count, None))?;
            single.push(answer(one)?);
            let at = monotonic() + TIME_TO_BEGIN * count as u32;
            let processes = connectors.len();
            for (number, connector) in connectors.iter().enumerate() {
                let part = count * (number + 1) / processes - count * number / processes;
                connector.channel().send(&errand(part, Some(at)))?;
            }
            let outcomes = connectors.iter().map(answer).collect::<Result<Vec<_>>>()?;
            let slowest = outcomes.iter().map(|outcome| outcome.last).max();
            last.push(slowest.unwrap_or_default().as_secs_f64() * 1e3);
            together.extend(outcomes);
        }
        let where_it_ran = format!(
            "Where: the clients {}, the server {}.",
            connectors[0].placement(),
            server.process().placement()
        );
        for connector in connectors {
            connector.finish()?;
        }
        server.finish()?;
        let tried = count * self.rounds() as usize;
        let mut report = Report {
            heading: Heading::new(
                "Connecting",
                vec![
                    format!(
                        "{} rounds. Each: {count} clients connect one after the other, each leaves \
                         before the next one comes; then {count} threads connect at the same time \
                         (client processes: {}). Each client makes a call, whose reply is compared \
                         with the request.",
                        self.rounds(),
                        setup.processes.min(count)
                    ),
                    where_it_ran,
                ],
            ),
            one_after_the_other: Figures::of(tried, single)?,
            at_once: Figures::of(tried, together)?,
            all_connected_ms: RatioFigures::of(last.into_iter()),
            verdicts: Vec::new(),
        };
        report.conclude(count);
        Ok(report)
    }
}

impl Report {
    fn conclude(&mut self, count: usize) {
        let (one, all) = (&self.one_after_the_other, &self.at_once);
        self.verdicts.push(Verdict {
            goal: "connecting, handshake included, takes less than 300 µs (p50)".into(),
            found: human(one.p50_ns as f64, Unit::Nanoseconds),
            met: one.p50_ns < MOST_P50_NS,
        });
        self.verdicts.push(Verdict {
            goal: format!("all of {count} connects at once succeed"),
            found: format!("{} of {}", all.succeeded, all.tried),
            met: all.succeeded == all.tried,
        });
    }

    /// Prints to standard output, as JSON or as a table.
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let mut table = plain_table(&["connects", "tried", "succeeded", "p50", "p99", "max"]);
        for (name, figures) in [
            ("one after the other", &self.one_after_the_other),
            ("all at once", &self.at_once),
        ] {
            let time = |nanoseconds: u64| human(nanoseconds as f64, Unit::Nanoseconds);
            table.add_row([
                name.to_owned(),
                figures.tried.to_string(),
                figures.succeeded.to_string(),
                time(figures.p50_ns),
                time(figures.p99_ns),
                time(figures.max_ns),
            ]);
        }
        right_align(&mut table);
        let mut text = self.heading.text();
        writeln!(text, "\n{table}\n")?;
        writeln!(
            text,
            "Those at once are all connected after {:.0} ms (median; {:.0} to {:.0}).",
            self.all_connected_ms.median, self.all_connected_ms.min, self.all_connected_ms.max
        )?;
        for (why, count) in self
            .one_after_the_other
            .failures
            .iter()
            .chain(&self.at_once.failures)
        {
            writeln!(text, "{count} failed: {why}")?;
        }
        writeln!(text, "\n{}", verdict_lines(&self.verdicts).trim_end())?;
        print_text(&text)
    }
}

/// The role of a process that connects.
///
/// # Errors
/// If a reply is wrong, or the system refuses threads. A connect that fails is a result.
pub fn be_connector(parent: Parent) -> Result<()> {
    while let Some((errand, _)) = parent.channel().next::<Errand>()? {
        let outcome = match errand.at {
            None => one_after_the_other(&errand)?,
            Some(at) => at_once(&errand, instant_of(at))?,
        };
        parent.channel().send(&outcome)?;
    }
    Ok(())
}

fn builder(errand: &Errand) -> ClientBuilder {
    let builder = ClientBuilder::new()
        .label("nearwire bench")
        .spin(spin(errand.spin));
    match errand.ring {
        Some(bytes) => builder.ring(bytes),
        None => builder,
    }
}

/// A call on a connection that is new.
fn greet(client: &mut BlockingClient, number: usize) -> Result<()> {
    let request = (number as u64).to_le_bytes();
    check(&client.call_bytes("echo", &request)?, &request)
}

impl Outcome {
    fn new() -> Self {
        Self {
            times: Times::default(),
            last: Duration::ZERO,
            succeeded: 0,
            failures: BTreeMap::new(),
        }
    }

    fn add(&mut self, connected: Result<Duration, nearwire::Error>) {
        match connected {
            Ok(time) => {
                self.times.push(time);
                self.succeeded += 1;
            }
            Err(error) => *self.failures.entry(error.to_string()).or_default() += 1,
        }
    }
}

fn one_after_the_other(errand: &Errand) -> Result<Outcome> {
    let builder = builder(errand);
    let (mut outcome, begun) = (Outcome::new(), Instant::now());
    for number in 0..errand.count {
        let start = Instant::now();
        let connected = builder.connect_blocking(&errand.server);
        let took = start.elapsed();
        outcome.last = begun.elapsed();
        outcome.add(match connected {
            Ok(mut client) => {
                greet(&mut client, number)?;
                Ok(took)
            }
            Err(error) => Err(error),
        });
    }
    outcome.times = Times::merge([outcome.times]);
    Ok(outcome)
}

/// One that came together with others.
struct Connected {
    /// How long it took.
    took: Result<Duration, nearwire::Error>,
    /// When that was over, after all were to come.
    since: Duration,
    /// Kept until the last one has come.
    client: Option<BlockingClient>,
}

fn at_once(errand: &Errand, at: Instant) -> Result<Outcome> {
    let builder = builder(errand);
    let connect = |number: usize| -> Result<Connected> {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        // When this thread got a core: before that it has not waited for the server.
        let start = Instant::now();
        let connected = builder.connect_blocking(&errand.server);
        let (took, since) = (start.elapsed(), at.elapsed());
        Ok(match connected {
            Ok(mut client) => {
                greet(&mut client, number)?;
                Connected {
                    took: Ok(took),
                    since,
                    client: Some(client),
                }
            }
            Err(error) => Connected {
                took: Err(error),
                since,
                client: None,
            },
        })
    };
    let mut outcome = Outcome::new();
    let mut clients = Vec::with_capacity(errand.count);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..errand.count)
            .map(|number| {
                std::thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || connect(number))
                    .context("cannot start a thread")
            })
            .collect();
        for thread in threads {
            let joined = thread?.join().map_err(|_| anyhow!("a thread panicked"))?;
            let connected = joined?;
            clients.extend(connected.client);
            outcome.last = outcome.last.max(connected.since);
            outcome.add(connected.took);
        }
        anyhow::Ok(())
    })?;
    outcome.times = Times::merge([outcome.times]);
    Ok(outcome)
}
