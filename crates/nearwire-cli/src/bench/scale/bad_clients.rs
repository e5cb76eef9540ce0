//! What one client that behaves badly does to all others.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nearwire::RateLimit;
use serde::Serialize;

use super::figures::Run;
use super::offender::{Offence, Offender};
use super::report::{Heading, shape_name};
use super::side::{Limits, Load, Side};
use super::{Figures, Rate, Scale, Shape};
use crate::arguments::human_size;
use crate::bench::calls::Transport;
use crate::measure::{
    RatioFigures, Unit, Verdict, human, median, plain_table, right_align, verdict_lines,
};
use crate::output::{print_json, print_text};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_secs(1);

/// Clients that behave well, unless told otherwise, and the calls per second of all together.
const CLIENTS: usize = 511;
const CALLS: f64 = 10_000.0;

/// The most that the others' p99 may be with a bad client, as a multiple of that without.
const MOST: f64 = 2.0;

/// What the limited server lets a connection and a process do, unless told otherwise: hundreds of times
/// what one that behaves well does here.
const MESSAGES: RateLimit = RateLimit {
    per_second: 10_000,
    burst: 1_000,
};
const CONNECTS: RateLimit = RateLimit::per_second(100);

/// How long bad clients are at it before they are measured, so that what they may do at once is behind
/// them.
const TIME_FOR_BURST: Duration = Duration::from_millis(300);

/// Above this part of all CPUs the machine is called saturated.
const SATURATED: f64 = 0.9;

/// The comparisons, one after the other in each round.
fn plans() -> Vec<Plan> {
    let ones = Offence::ALL.iter().map(|offence| Plan {
        name: offence.name(),
        offences: std::slice::from_ref(offence),
        place: Where::Here,
    });
    let mut plans: Vec<Plan> = ones.collect();
    let (all, all_limited) = match plans.len() {
        4 => ("all four at once", "all four at once, limited"),
        _ => ("all three at once", "all three at once, limited"),
    };
    let more: [(_, &[Offence], _); 6] = [
        (all, Offence::ALL, Where::Here),
        ("one floods, limited", &[Offence::Floods], Where::Limited),
        (
            "one connects and leaves, limited",
            &[Offence::Reconnects],
            Where::Limited,
        ),
        (all_limited, Offence::ALL, Where::Limited),
        (
            "one connects to another server",
            &[Offence::Reconnects],
            Where::Elsewhere,
        ),
        (
            "one floods another server",
            &[Offence::Floods],
            Where::Elsewhere,
        ),
    ];
    plans.extend(more.map(|(name, offences, place)| Plan {
        name,
        offences,
        place,
    }));
    plans
}

/// Which server bad clients have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Where {
    /// The others'.
    Here,
    /// The others', which is another one that limits rates.
    Limited,
    /// One of their own: what they take from the others then is the machine, and nothing that this
    /// server could share out.
    Elsewhere,
}

/// Who is there beside those that behave well.
struct Plan {
    name: &'static str,
    offences: &'static [Offence],
    place: Where,
}

/// What bad clients do to the others.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    heading: Heading,
    /// Those that behave well.
    clients: usize,
    shape: Shape,
    bytes: usize,
    /// Their calls per second, all together.
    rate: f64,
    kinds: Vec<Kind>,
    verdicts: Vec<Verdict>,
}

/// The well-behaved clients' calls, without and with one kind of bad client.
#[derive(Debug, Serialize)]
struct Kind {
    name: &'static str,
    offences: &'static [Offence],
    place: Where,
    without: Figures,
    with: Figures,
    /// The part of the time in which the machine's CPUs were busy, if the system tells.
    busy_without: Option<f64>,
    busy_with: Option<f64>,
    /// The p99 with, as a multiple of that without, pair by pair.
    times_the_p99: RatioFigures,
}

impl Scale {
    /// Measures what bad clients do to the others.
    pub(super) fn measure_bad_clients(&self) -> Result<Report> {
        let shape = self.shapes(&[Shape::Threads])[0];
        if shape == Shape::Tasks {
            bail!("tasks have no schedule: use --shape threads, processes or sweep");
        }
        let connections = self.connections(&[CLIENTS])[0];
        let rate = match self.rate {
            None => CALLS,
            Some(Rate::PerSecond(calls)) => f64::from(calls),
            Some(Rate::OfPeak(_)) => bail!(
                "with --bad-clients, --rate is a number of calls per second: a part of the peak \
                 would keep the machine busy by itself"
            ),
        };
        let window = self.windows(&[1])[0];
        ensure!(
            window == 1 || !shape.is_single(),
            "threads and processes have one call in flight: use --window 1"
        );
        self.prepare()?;
        let load = Load {
            size: self.sizes(&[64])[0],
            window,
            rate: Some(rate),
            budget: self.budget(USUAL),
        };
        eprintln!("measuring: {connections} clients, {} …", shape_name(shape));
        let mut setup = self.setup(Transport::Nearwire, shape, connections)?;
        let limits = Limits {
            messages: setup.limits.messages.or(Some(MESSAGES)),
            connects: setup.limits.connects.or(Some(CONNECTS)),
        };
        let mut limited = setup.clone();
        limited.limits = limits;
        setup.limits = Limits {
            messages: None,
            connects: None,
        };
        let other = setup.start_server()?;
        let side = Side::open(setup)?;
        eprintln!("measuring: as many of a server that limits rates …");
        let limited = Side::open(limited)?;
        // What comes once: pages that are touched, threads that are started.
        side.run(&load)?;
        limited.run(&load)?;
        let plans = plans();
        let mut runs: Vec<(Vec<Run>, Vec<Run>)> =
            plans.iter().map(|_| Default::default()).collect();
        for round in 0..self.rounds() {
            eprintln!("measuring: round {} of {} …", round + 1, self.rounds());
            for (plan, (without, with)) in plans.iter().zip(&mut runs) {
                let (side, server) = match plan.place {
                    Where::Here => (&side, side.server()),
                    Where::Limited => (&limited, limited.server()),
                    Where::Elsewhere => (&side, &other),
                };
                without.push(side.run(&load)?);
                let name = server.name();
                let offenders = plan
                    .offences
                    .iter()
                    .map(|offence| Offender::start(*offence, name))
                    .collect::<Result<Vec<_>>>()?;
                if plan.place == Where::Limited {
                    std::thread::sleep(TIME_FOR_BURST);
                }
                with.push(side.run(&load)?);
                offenders.iter().try_for_each(Offender::is_at_it)?;
                offenders.into_iter().try_for_each(Offender::end)?;
            }
        }
        let mut report = Report {
            heading: Heading::new(
                "What one bad client does to the others",
                vec![
                    self.describe(load.budget),
                    format!(
                        "{connections} clients ({}; client processes: {}) make {rate} calls of {} a \
                         second in all, at fixed times, {window} at a time each.",
                        shape_name(shape),
                        side.clients().count(),
                        human_size(load.size),
                    ),
                    format!("Where: {}; bad clients anywhere.", side.placement()),
                    format!(
                        "Limited: a server that takes {} messages of a connection and {} connections of \
                         a process (per second, and at once if that is another number); bad clients \
                         are measured when they have had their burst.",
                        limits.messages.unwrap_or(MESSAGES),
                        limits.connects.unwrap_or(CONNECTS)
                    ),
                ],
            ),
            clients: connections,
            shape,
            bytes: load.size,
            rate,
            kinds: Vec::new(),
            verdicts: Vec::new(),
        };
        if !Offence::ALL.contains(&Offence::Stopped) {
            let settings = &mut report.heading.settings;
            settings.push("No client is stopped: this system has no signal for it.".into());
        }
        let memory = side.bytes_per_connection()?;
        side.finish()?;
        limited.finish()?;
        other.finish()?;
        for (plan, (without, with)) in plans.iter().zip(&runs) {
            report.kinds.push(Kind::of(plan, without, with, memory)?);
        }
        report.conclude();
        Ok(report)
    }
}

impl Kind {
    fn of(plan: &Plan, without: &[Run], with: &[Run], memory: u64) -> Result<Self> {
        let p99 = |run: &Run| anyhow::Ok(run.counts.times.histogram()?.value_at_quantile(0.99));
        let ratios = without
            .iter()
            .zip(with)
            .map(|(without, with)| Ok(p99(with)? as f64 / p99(without)?.max(1) as f64))
            .collect::<Result<Vec<f64>>>()?;
        let busy = |runs: &[Run]| middle(runs.iter().map(|run| run.machine_busy));
        Ok(Self {
            name: plan.name,
            offences: plan.offences,
            place: plan.place,
            busy_without: busy(without),
            busy_with: busy(with),
            without: Figures::of(without.iter(), memory)?,
            with: Figures::of(with.iter(), memory)?,
            times_the_p99: RatioFigures::of(ratios.into_iter()),
        })
    }
}

/// The median of what was told each time.
fn middle(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let figures: Option<Vec<f64>> = figures.collect();
    Some(median(figures?))
}

impl Report {
    fn conclude(&mut self) {
        for kind in &self.kinds {
            if kind.place == Where::Elsewhere {
                continue;
            }
            let ratio = kind.times_the_p99;
            self.verdicts.push(Verdict {
                goal: format!(
                    "{}: the p99 of {} others grows by less than {MOST}x",
                    kind.name, self.clients
                ),
                found: format!(
                    "{:.2}x (median of the pairs; {:.2}x to {:.2}x)",
                    ratio.median, ratio.min, ratio.max
                ),
                met: ratio.median < MOST,
            });
        }
    }

    /// Whether the machine had something to spare while all behaved well, in words.
    fn spare(&self) -> String {
        let Some(busy) = middle(self.kinds.iter().map(|kind| kind.busy_without)) else {
            return "This system does not tell how busy the CPUs are: whether the machine is \
                    saturated, so that the figures say little, is not known."
                .into();
        };
        let verdict = if busy > SATURATED {
            "it is saturated, and the figures say little: lower --rate"
        } else {
            "it is not saturated"
        };
        format!(
            "The machine's CPUs are busy for {:.0} % of the time without bad clients: {verdict}.",
            busy * 100.0
        )
    }

    /// Prints to standard output, as JSON or as a table.
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let mut header = vec!["bad client", "", "p50", "p99", "p99.9", "answered"];
        // Either always or never, in practice.
        let is_busy_told = self.kinds.iter().any(|kind| kind.busy_with.is_some());
        if is_busy_told {
            header.push("busy");
        }
        header.push("p99 ratio");
        let mut table = plain_table(&header);
        for kind in &self.kinds {
            let sides = [
                ("without", &kind.without, kind.busy_without),
                ("with", &kind.with, kind.busy_with),
            ];
            for (word, figures, busy) in sides {
                let time = |nanoseconds: u64| human(nanoseconds as f64, Unit::Nanoseconds);
                let answered = figures.answered_of_due.unwrap_or(f64::NAN);
                let mut row = vec![
                    kind.name.to_owned(),
                    word.to_owned(),
                    time(figures.p50_ns),
                    time(figures.p99_ns),
                    time(figures.p999_ns),
                    format!("{:.0} %", answered * 100.0),
                ];
                if is_busy_told {
                    let percent = |busy| format!("{:.0} %", busy * 100.0);
                    row.push(busy.map_or_else(String::new, percent));
                }
                row.push(match word {
                    "with" => format!("{:.2}x", kind.times_the_p99.median),
                    _ => String::new(),
                });
                table.add_row(row);
            }
        }
        right_align(&mut table);
        let mut text = self.heading.text();
        writeln!(text, "{}", self.spare())?;
        writeln!(text, "\n{table}\n")?;
        writeln!(
            text,
            "Times of the well-behaved clients' calls, from when they were due; over all runs, the \
             ratio pair by pair. Those of another server are no bad clients of this one: they show \
             what is lost to the machine's CPUs being busy."
        )?;
        writeln!(text, "\n{}", verdict_lines(&self.verdicts).trim_end())?;
        print_text(&text)
    }
}
