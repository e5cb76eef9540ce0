//! What is told about a server at scale.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use super::usage::{CPU_TIME_STEPS, SHARED_PAGES};
use super::{Figures, Shape};
use crate::arguments::human_size;
use crate::baseline::socket;
use crate::measure::{
    Distance, Machine, Options, RatioFigures, Unit, Verdict, clock_cost, human, plain_table,
    right_align, verdict_lines,
};
use crate::output::{print_json, print_text};

/// With more connections, or fewer, throughput must stay above this part of its best.
const CLIFF: f64 = 0.5;

/// The most that one call in a hundred may take at a part of the peak rate, in nanoseconds.
const MOST_P99_NS: f64 = 1e6;

/// What the floor is called.
const FLOOR: &str = "bare slots";

/// What stands at the top of a report.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Heading {
    title: &'static str,
    machine: Machine,
    clock_ns: f64,
    pub(super) settings: Vec<String>,
}

impl Heading {
    pub(super) fn new(title: &'static str, settings: Vec<String>) -> Self {
        Self {
            title,
            machine: Machine::here(),
            clock_ns: clock_cost(),
            settings,
        }
    }

    /// As text, with a line break at the end.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.title, self.machine);
        for setting in &self.settings {
            text += setting;
            text.push('\n');
        }
        text
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub(super) heading: Heading,
    /// The figures.
    pub points: Vec<Point>,
    /// What they say about goals that depend on no machine.
    pub verdicts: Vec<Verdict>,
}

/// Runs of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Connections.
    pub connections: usize,
    /// How the client processes called.
    pub shape: Shape,
    /// Bytes of a request, and of its reply.
    pub bytes: usize,
    /// Calls in flight on each connection, at most.
    pub window: usize,
    /// Calls per second that were due, if there was such a schedule.
    pub rate: Option<u64>,
    /// The part of each side's peak that was due, if there was such a schedule.
    pub part_of_peak: Option<f64>,
    /// All runs.
    #[serde(flatten)]
    pub found: Found,
    /// The same, by how far apart the cores were that the probe found before and after each run.
    pub placed: Vec<Placed>,
}

/// What runs gave.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Found {
    /// Over Nearwire.
    pub nearwire: Option<Figures>,
    /// Over Unix sockets; on Windows over named pipes.
    pub unix_socket: Option<Figures>,
    /// Over bare slots (Linux).
    pub floor: Option<Figures>,
    /// Calls per second over Nearwire, as a multiple of those over the sockets.
    pub times_the_calls: Option<RatioFigures>,
    /// The same, as a multiple of those over bare slots.
    pub times_the_floor: Option<RatioFigures>,
}

/// What runs gave while the cores were so far apart.
#[derive(Debug, Clone, Serialize)]
pub struct Placed {
    /// How far.
    pub cores: Distance,
    /// What they gave.
    #[serde(flatten)]
    pub found: Found,
}

impl Found {
    pub(super) fn sides(&self) -> impl Iterator<Item = (&'static str, &Figures)> {
        let sides = [
            ("Nearwire", &self.nearwire),
            (socket::NAME, &self.unix_socket),
            (FLOOR, &self.floor),
        ];
        sides
            .into_iter()
            .filter_map(|(over, figures)| Some((over, figures.as_ref()?)))
    }
}

impl Point {
    /// The runs with the cores so far apart.
    pub fn at(&self, cores: Distance) -> Option<&Found> {
        let placed = self.placed.iter().find(|placed| placed.cores == cores);
        placed.map(|placed| &placed.found)
    }

    fn has_schedule(&self) -> bool {
        self.rate.is_some() || self.part_of_peak.is_some()
    }

    /// The kind of its calls, whatever the number of connections.
    fn kind(&self) -> String {
        format!(
            "{}, {}, window {}",
            shape_name(self.shape),
            human_size(self.bytes),
            self.window
        )
    }
}

/// What a shape is called.
pub(super) fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Sweep => "swept by a thread",
        Shape::Tasks => "async tasks",
        Shape::Threads => "a thread for each",
        Shape::Processes => "a process for each",
    }
}

impl Report {
    pub(super) fn new(settings: Vec<String>) -> Self {
        Self {
            heading: Heading::new("A server and many connections", settings),
            points: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Judges what was measured over Nearwire.
    pub(super) fn conclude(&mut self) {
        self.verdicts = cliffs(&self.points);
        self.verdicts.extend(self.points.iter().filter_map(tail));
    }

    /// What stands above the figures: a title, and on what and how they were measured.
    pub(super) fn heading(&self) -> (String, Vec<String>) {
        let heading = &self.heading;
        let mut notes = vec![heading.machine.to_string()];
        notes.extend(heading.settings.iter().cloned());
        (heading.title.to_owned(), notes)
    }

    /// Draws the picture, if one was asked for, and prints.
    ///
    /// # Errors
    /// If the picture cannot be written, or the output.
    pub(super) fn publish(&self, options: &Options) -> Result<()> {
        // Whatever becomes of the picture: it took long to measure.
        let drawn = match &options.plot {
            Some(path) => self.picture().write(path),
            None => Ok(()),
        };
        self.print(options.json)?;
        drawn
    }

    /// Prints to standard output, as JSON or as tables.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let mut text = self.heading.text();
        writeln!(text, "\n{}", self.table())?;
        writeln!(
            text,
            "\nA call's time counts from when it was due. CPU: seconds of the server's for a million \
             calls{CPU_TIME_STEPS}. Fair: calls of the slowest connection over those of the fastest. Memory: resident, \
             of server and clients together, for each connection, {SHARED_PAGES}, without the kernel's \
             buffers."
        )?;
        if self.points.iter().any(|point| point.found.floor.is_some()) {
            writeln!(
                text,
                "Bare slots: one word to look at and one to sleep on for each caller, nothing checked, framed, \
                 queued or limited. The ratio beside them is Nearwire's calls over theirs."
            )?;
        }
        if self.points.iter().any(Point::has_schedule) {
            text += "Answered: of the calls that were due, how many were answered in the time.\n";
        }
        if !self.verdicts.is_empty() {
            writeln!(text, "\n{}", verdict_lines(&self.verdicts).trim_end())?;
        }
        print_text(&text)
    }

    fn table(&self) -> Table {
        let scheduled = self.points.iter().any(Point::has_schedule);
        let mut header = vec!["connections", "size", "window", "over", "cores", "calls"];
        if scheduled {
            header.extend(["peak", "answered"]);
        }
        header.extend(["p50", "p99", "p99.9", "CPU", "fair", "memory", "ratio"]);
        let mut table = plain_table(&header);
        for point in &self.points {
            for placed in &point.placed {
                for (over, figures) in placed.found.sides() {
                    table.add_row(row(point, placed, over, figures, scheduled));
                }
            }
        }
        right_align(&mut table);
        table
    }
}

fn row(
    point: &Point,
    placed: &Placed,
    over: &str,
    figures: &Figures,
    scheduled: bool,
) -> Vec<String> {
    let time = |nanoseconds: u64| human(nanoseconds as f64, Unit::Nanoseconds);
    let mut row = vec![
        format!("{}, {}", point.connections, shape_name(point.shape)),
        human_size(point.bytes),
        point.window.to_string(),
        over.to_owned(),
        format!("{} {}", figures.runs, placed.cores),
        human(figures.calls_per_second.median, Unit::PerSecond),
    ];
    if scheduled {
        let peak = figures.peak_calls_per_second;
        row.push(peak.map_or_else(String::new, |peak| human(peak.median, Unit::PerSecond)));
        let answered = figures.answered_of_due;
        row.push(answered.map_or_else(String::new, |part| format!("{:.0} %", part * 100.0)));
    }
    row.extend([
        time(figures.p50_ns),
        time(figures.p99_ns),
        time(figures.p999_ns),
        format!("{:.3} s", figures.server_cpu_per_million),
        format!("{:.2}", figures.slowest_over_fastest),
        human_size(figures.bytes_per_connection as usize),
        match (
            over,
            placed.found.times_the_calls,
            placed.found.times_the_floor,
        ) {
            ("Nearwire", Some(ratio), _) => format!("{:.1}x", ratio.median),
            (FLOOR, _, Some(ratio)) => format!("{:.2}x", ratio.median),
            _ => String::new(),
        },
    ]);
    row
}

/// Whether throughput falls off a cliff between the fewest and the most connections, for each kind
/// of call that was made over different numbers of them.
fn cliffs(points: &[Point]) -> Vec<Verdict> {
    let mut kinds: Vec<(String, Vec<&Point>)> = Vec::new();
    for point in points.iter().filter(|point| !point.has_schedule()) {
        let kind = point.kind();
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, all)) => all.push(point),
            None => kinds.push((kind, vec![point])),
        }
    }
    let several = kinds.into_iter().filter(|(_, all)| all.len() > 1);
    several
        .filter_map(|(kind, all)| {
            let calls = |cores: Option<Distance>| {
                let calls = all.iter().map(|point| {
                    let figures = judged(point, cores)?;
                    Some((point.connections, figures.calls_per_second.median))
                });
                calls.collect::<Option<Vec<_>>>()
            };
            let (cores, calls) = ALIKE
                .iter()
                .find_map(|&cores| Some((cores, calls(cores)?)))?;
            cliff(&kind, cores, &calls)
        })
        .collect()
}

/// Which runs are judged, the first of these that there are: those with the cores alike, or else
/// all of them.
const ALIKE: [Option<Distance>; 3] = [Some(Distance::Near), Some(Distance::Far), None];

fn judged(point: &Point, cores: Option<Distance>) -> Option<&Figures> {
    match cores {
        Some(cores) => point.at(cores)?.nearwire.as_ref(),
        None => point.found.nearwire.as_ref(),
    }
}

/// Which runs were judged, in words.
fn cores_name(cores: Option<Distance>) -> String {
    match cores {
        Some(cores) => format!("cores {cores}"),
        None => "wherever the cores were".into(),
    }
}

fn cliff(kind: &str, cores: Option<Distance>, all: &[(usize, f64)]) -> Option<Verdict> {
    let by_rate = |a: &&(usize, f64), b: &&(usize, f64)| a.1.total_cmp(&b.1);
    let (best_at, best) = all.iter().max_by(by_rate)?;
    let (least_at, least) = all.iter().min_by(by_rate)?;
    let part = least / best;
    let fewest = all.iter().map(|(connections, _)| connections).min()?;
    let most = all.iter().map(|(connections, _)| connections).max()?;
    Some(Verdict {
        goal: format!(
            "no cliff from {fewest} to {most} connections ({kind}): calls never below half their best"
        ),
        found: format!(
            "least {} at {least_at}, best {} at {best_at}: {:.0} % ({})",
            human(*least, Unit::PerSecond),
            human(*best, Unit::PerSecond),
            part * 100.0,
            cores_name(cores)
        ),
        met: part >= CLIFF,
    })
}

/// Whether calls at a part of the peak rate are quick.
fn tail(point: &Point) -> Option<Verdict> {
    let part = point.part_of_peak?;
    let mut alike = ALIKE.into_iter();
    let (cores, figures) = alike.find_map(|cores| Some((cores, judged(point, cores)?)))?;
    let p99 = figures.p99_ns_by_run;
    Some(Verdict {
        goal: format!(
            "p99 below 1 ms at {:.0} % of the peak ({} connections, {})",
            part * 100.0,
            point.connections,
            point.kind()
        ),
        found: format!(
            "{} (median of {} runs, {}; {} to {}), {:.0} % answered in time",
            human(p99.median, Unit::Nanoseconds),
            figures.runs,
            cores_name(cores),
            human(p99.min, Unit::Nanoseconds),
            human(p99.max, Unit::Nanoseconds),
            figures.answered_of_due.unwrap_or(f64::NAN) * 100.0
        ),
        met: p99.median < MOST_P99_NS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_best_is_no_cliff() {
        let verdict = |all: &[(usize, f64)]| cliff("kind", None, all).unwrap();
        let good = verdict(&[(32, 10e6), (128, 20e6), (512, 12e6)]);
        assert!(good.met);
        assert!(good.goal.contains("from 32 to 512"), "{good:?}");
        assert!(good.found.contains("10.0 M/s at 32"), "{good:?}");
        let bad = verdict(&[(32, 10e6), (2000, 4.9e6)]);
        assert!(!bad.met);
        assert!(verdict_lines(&[good, bad]).contains("\nMISSED: no cliff"));
    }
}
