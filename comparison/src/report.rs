//! What was found, as tables. Each marks the best, whoever it is.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{Table, presets};
use nearwire_cli::comparison::{
    Distance, Machine, Measured, Ratio, RatioFigures, Run, Series, Unit, human, median,
    plain_table, right_align,
};
use serde::Serialize;

use crate::measure::{
    Lengths, MEMORY_AT, Measurement, Outcome, SIZE, WINDOW, What, by_peer, figures,
};
use crate::peers::{self, Entry, REFERENCE, YARDSTICK};
use crate::versions;

/// Stands beside the best.
const BEST: &str = "BEST";

/// How tables look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Without lines, for a terminal.
    Plain,
    /// For a document.
    Markdown,
}

impl Look {
    fn heading(self, title: &str) -> String {
        match self {
            Self::Plain => format!("{title}\n"),
            Self::Markdown => format!("### {title}\n\n"),
        }
    }

    fn section(self, title: &str, mut table: Table) -> String {
        if self == Self::Markdown {
            table.load_style(presets::ASCII_MARKDOWN);
        }
        format!("{}{table}\n\n", self.heading(title))
    }
}

/// Everything that there is to say.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// How long.
    pub lengths: Lengths,
    /// The whole run, in seconds.
    pub seconds: f64,
    /// Who took part.
    pub peers: Vec<PeerFacts>,
    /// Who did not, and why.
    pub not_run: Vec<NotRun>,
    /// The races.
    pub races: Vec<Race>,
    /// Every run.
    pub measurements: Vec<Measurement>,
}

/// A peer that took part.
#[derive(Debug, Serialize)]
pub struct PeerFacts {
    pub name: &'static str,
    pub title: &'static str,
    pub versions: String,
    pub configuration: String,
}

/// A peer that did not.
#[derive(Debug, Serialize)]
pub struct NotRun {
    pub title: String,
    pub why: String,
}

/// One thing that was measured, of all peers.
#[derive(Debug, Serialize)]
pub struct Race {
    pub what: What,
    pub title: String,
    pub unit: Unit,
    pub entrants: Vec<Entrant>,
}

/// A peer in a race.
#[derive(Debug, Serialize)]
pub struct Entrant {
    pub peer: &'static str,
    pub title: &'static str,
    pub figures: Option<Figures>,
    /// How many times Nearwire's figure its own is, within the same round.
    pub ratio: Option<Ratio>,
    /// Nobody is better, as far as that can be said.
    pub is_best: bool,
    /// Why there is nothing, or less than there could be.
    pub why_not: Option<String>,
}

/// A peer's figures over the rounds.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Where the cores lay, if both sides spin.
    pub cores: Option<String>,
}

impl Report {
    /// Sums up.
    pub fn new(
        machine: Machine,
        lengths: Lengths,
        entries: &[Entry],
        measurements: Vec<Measurement>,
        took: Duration,
    ) -> Self {
        let mut not_run: Vec<NotRun> = peers::left_out()
            .into_iter()
            .map(|(_, title, why)| NotRun {
                title: title.to_owned(),
                why,
            })
            .collect();
        for entry in entries {
            let outcomes = measurements
                .iter()
                .flat_map(|measurement| &measurement.outcomes)
                .filter(|outcome| outcome.peer == entry.about.name);
            let mut without = outcomes.filter(|outcome| outcome.points.iter().all(Option::is_none));
            let nothing = !measurements.iter().any(|measurement| {
                let outcomes = by_peer(measurement);
                let outcome = outcomes.get(entry.about.name);
                outcome.is_some_and(|outcome| outcome.points.iter().any(Option::is_some))
            });
            if nothing && let Some(outcome) = without.find(|outcome| outcome.failures > 0) {
                not_run.push(NotRun {
                    title: entry.about.title.to_owned(),
                    why: outcome.why_not.clone().unwrap_or_default(),
                });
            }
        }
        Self {
            machine,
            lengths,
            seconds: took.as_secs_f64(),
            peers: entries.iter().map(facts).collect(),
            not_run,
            races: measurements
                .iter()
                .map(|measurement| race(entries, measurement))
                .collect(),
            measurements,
        }
    }

    /// How many runs failed, if any did.
    pub fn failed(&self) -> Option<usize> {
        let outcomes = self.measurements.iter().flat_map(|it| &it.outcomes);
        let failures = outcomes.map(|outcome| outcome.failures).sum();
        (failures > 0).then_some(failures)
    }

    /// All tables.
    pub fn text(&self, look: Look) -> String {
        let mut text = format!(
            "Nearwire beside others. {}. Medians of {} rounds (with many clients {}) in which each \
             peer ran once, in alternating order; runs of {:.2} s, with many clients {:.2} s. Every \
             peer's server and clients are processes of their own; every reply is checked. On one \
             connection, sides that spin have a CPU each; all others are left to the scheduler. In \
             all {:.0} s.\n\n",
            self.machine,
            self.lengths.rounds,
            self.lengths.crowd_rounds,
            self.lengths.single.as_secs_f64(),
            self.lengths.crowd.as_secs_f64(),
            self.seconds,
        );
        let _ = writeln!(
            text,
            "`/ Nearwire`: how many times the figure of `Nearwire, blocking` it is, within the same \
             round; where both sides spin, only of runs between cores that lay alike, as a \
             cache-line ping-pong before and after says. {BEST}: the best of all but the floor.\n"
        );
        if !self.races.is_empty() {
            text += &look.section("Who wins", self.winners());
        }
        for race in &self.races {
            text += &look.section(&race.title, race.table());
            let missing: Vec<String> = race.missing().collect();
            if !missing.is_empty() {
                let _ = writeln!(text, "Without: {}.\n", missing.join("; "));
            }
        }
        let titles = |peer: &str| {
            let mut peers = self.peers.iter();
            peers.find(|it| it.name == peer).map_or("", |it| it.title)
        };
        if let Some(table) = cpu_table(&self.measurements, titles) {
            let title =
                format!("CPU time per million calls of {SIZE} B, of all processes of a peer");
            text += &look.section(&title, table);
        }
        if let Some(table) = memory_table(&self.measurements, titles) {
            let title = format!("Memory per idle connection, at {MEMORY_AT} connections");
            text += &look.section(&title, table);
        }
        text += &look.heading("Who took part");
        for NotRun { title, why } in &self.not_run {
            let _ = writeln!(text, "- not run: {title}: {why}");
        }
        for peer in &self.peers {
            let PeerFacts {
                name,
                title,
                versions,
                configuration,
            } = peer;
            let versions = if versions.is_empty() {
                String::new()
            } else {
                format!("; {versions}")
            };
            let _ = writeln!(text, "- {title} (`{name}`{versions}): {configuration}");
        }
        text
    }

    fn winners(&self) -> Table {
        let mut table = plain_table(&[
            "measurement",
            "best",
            "figure",
            "Nearwire's best",
            "figure",
            "times",
        ]);
        for race in &self.races {
            let best = race.entrants.iter().find(|entrant| entrant.is_best);
            let nearwire = race.best_of(|entrant| entrant.peer.starts_with(REFERENCE));
            let named = |entrant: Option<&Entrant>| {
                let figures = entrant.and_then(|entrant| entrant.figures.as_ref());
                [
                    entrant.map_or("none", |entrant| entrant.title).to_owned(),
                    figures.map_or_else(String::new, |it| human(it.median, race.unit)),
                ]
            };
            let times = best
                .zip(nearwire)
                .and_then(|(best, nearwire)| Some(race.score(nearwire)? / race.score(best)?))
                .map_or_else(String::new, |times| format!("{times:.2}x"));
            let mut row = vec![race.title.clone()];
            row.extend(named(best));
            row.extend(named(nearwire));
            row.push(times);
            table.add_row(row);
        }
        right_align(&mut table);
        table
    }
}

fn facts(entry: &Entry) -> PeerFacts {
    let versions = match (entry.about.name, entry.about.packages) {
        ("node", _) => crate::peers::node_version().map(|version| format!("node {version}")),
        (_, []) => None,
        (_, packages) => Some(versions::line(packages)),
    };
    PeerFacts {
        name: entry.about.name,
        title: entry.about.title,
        versions: versions.unwrap_or_default(),
        configuration: entry.about.configuration.to_owned(),
    }
}

/// What was measured, in words.
fn title(what: What) -> String {
    match what {
        What::RoundTrips { size } => format!("Round trip, {}", bytes(size as f64)),
        What::Pipelined { window } => {
            format!("Calls of {SIZE} B per second, {window} in flight on one connection")
        }
        What::Connect => "From connecting to the first answer".to_owned(),
        What::Crowd { connections } => {
            format!("Calls of {SIZE} B per second, {connections} clients with one in flight each")
        }
    }
}

fn race(entries: &[Entry], measurement: &Measurement) -> Race {
    let outcomes = by_peer(measurement);
    let reference = outcomes.get(REFERENCE).copied();
    let entrants: Vec<Entrant> = entries
        .iter()
        .filter_map(|entry| {
            let outcome = outcomes.get(entry.about.name)?;
            let runs: Vec<Run> = runs(outcome).collect();
            Some(Entrant {
                peer: entry.about.name,
                title: entry.about.title,
                figures: summed_up(entry.about.title, runs),
                ratio: reference.and_then(|reference| ratio(outcome, reference)),
                is_best: false,
                why_not: outcome.why_not.clone(),
            })
        })
        .collect();
    let unit = match measurement.what {
        What::RoundTrips { .. } | What::Connect => Unit::Nanoseconds,
        What::Pipelined { .. } | What::Crowd { .. } => Unit::PerSecond,
    };
    let mut race = Race {
        what: measurement.what,
        title: title(measurement.what),
        unit,
        entrants,
    };
    let best = race
        .best_of(|entrant| entrant.peer != YARDSTICK)
        .map(|entrant| entrant.peer);
    for entrant in &mut race.entrants {
        entrant.is_best = Some(entrant.peer) == best;
    }
    race
}

fn runs(outcome: &Outcome) -> impl Iterator<Item = Run> {
    outcome
        .points
        .iter()
        .flatten()
        .map(|point| point.run.clone())
}

fn summed_up(title: &str, runs: Vec<Run>) -> Option<Figures> {
    let series = Series::new(title.to_owned(), runs).ok()?;
    let percentile = |of: fn(&nearwire_cli::comparison::Latency) -> u64| {
        let values: Vec<f64> = series
            .runs
            .iter()
            .filter_map(|run| match &run.measured {
                Measured::Latency(latency) => Some(of(latency) as f64),
                _ => None,
            })
            .collect();
        (!values.is_empty()).then(|| median(values))
    };
    Some(Figures {
        median: series.median,
        min: series.min,
        max: series.max,
        p50: percentile(|latency| latency.p50_ns),
        p99: percentile(|latency| latency.p99_ns),
        cores: cores(&series),
    })
}

/// Where the cores lay, run by run.
fn cores(series: &Series) -> Option<String> {
    let brackets: Vec<_> = series.runs.iter().filter_map(|run| run.probe).collect();
    let mut words = Vec::new();
    for (distance, name) in [
        (Distance::Near, "near"),
        (Distance::Far, "far"),
        (Distance::Moved, "moved"),
        (Distance::Crowded, "crowded"),
    ] {
        let is_there = brackets.iter().filter(|it| it.distance == distance);
        match is_there.count() {
            0 => {}
            count if count == brackets.len() => words.push(name.to_owned()),
            count => words.push(format!("{count} {name}")),
        }
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// A peer's figures over the reference's, of rounds that have both.
fn ratio(outcome: &Outcome, reference: &Outcome) -> Option<Ratio> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for pair in outcome.points.iter().zip(&reference.points) {
        if let (Some(one), Some(other)) = pair {
            above.push(one.run.clone());
            below.push(other.run.clone());
        }
    }
    let above = Series::new(outcome.peer.to_owned(), above).ok()?;
    let below = Series::new(reference.peer.to_owned(), below).ok()?;
    Some(Ratio::of(outcome.peer, &above, &below))
}

impl Race {
    /// How good an entrant is; less is better. By the ratio, which compares like with like; without a
    /// reference by the median.
    pub fn score(&self, entrant: &Entrant) -> Option<f64> {
        let value = match &entrant.ratio {
            Some(ratio) => ratio.figures?.median,
            None => entrant.figures.as_ref()?.median,
        };
        Some(match self.unit {
            Unit::Nanoseconds => value,
            _ => 1.0 / value,
        })
    }

    /// The best of some.
    fn best_of(&self, are: impl Fn(&Entrant) -> bool) -> Option<&Entrant> {
        let scored = self
            .entrants
            .iter()
            .filter(|entrant| are(entrant))
            .filter_map(|entrant| Some((self.score(entrant)?, entrant)));
        let best = scored.min_by(|(one, _), (other, _)| one.total_cmp(other));
        best.map(|(_, entrant)| entrant)
    }

    /// Who gave no figures, and why.
    fn missing(&self) -> impl Iterator<Item = String> {
        let entrants = self.entrants.iter();
        entrants
            .filter(|entrant| entrant.figures.is_none())
            .map(|entrant| {
                let why = entrant.why_not.as_deref().unwrap_or("nothing");
                format!("{} ({})", entrant.title, short(why))
            })
    }

    fn table(&self) -> Table {
        let times = self.unit == Unit::Nanoseconds;
        let mut header = vec!["peer", "median", "min", "max"];
        if times {
            header.extend(["p50", "p99"]);
        }
        header.extend(["/ Nearwire", "min", "max", "rounds", "cores", ""]);
        let mut table = plain_table(&header);
        for entrant in &self.entrants {
            let Some(figures) = &entrant.figures else {
                continue;
            };
            let figure = |value: f64| human(value, self.unit);
            let mut row = vec![
                entrant.title.to_owned(),
                figure(figures.median),
                figure(figures.min),
                figure(figures.max),
            ];
            if times {
                row.extend(
                    [figures.p50, figures.p99].map(|it| it.map_or_else(String::new, figure)),
                );
            }
            row.extend(ratio_cells(entrant.ratio.as_ref()));
            row.push(figures.cores.clone().unwrap_or_default());
            let mark = if entrant.is_best { BEST } else { "" };
            row.push(mark.to_owned());
            table.add_row(row);
        }
        right_align(&mut table);
        table
    }
}

/// The first words of a reason: a table is no place for the rest.
fn short(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    line.chars().take(100).collect()
}

fn ratio_cells(ratio: Option<&Ratio>) -> [String; 4] {
    let Some(ratio) = ratio else {
        return Default::default();
    };
    let rounds = format!("{} of {}", ratio.comparable, ratio.pairs);
    let Some(RatioFigures { median, min, max }) = ratio.figures else {
        return ["none".to_owned(), String::new(), String::new(), rounds];
    };
    let times = |value: f64| {
        let digits = match value {
            100.0.. => 0,
            10.0.. => 1,
            0.1.. => 2,
            _ => 4,
        };
        format!("{value:.digits$}x")
    };
    [times(median), times(min), times(max), rounds]
}

/// CPU time, per kind of call.
fn cpu_table<'a>(measurements: &[Measurement], title: impl Fn(&str) -> &'a str) -> Option<Table> {
    let find = |what: What| measurements.iter().find(|it| it.what == what);
    let columns: Vec<(&str, &Measurement)> = [
        ("one at a time", find(What::RoundTrips { size: SIZE })),
        ("64 in flight", find(What::Pipelined { window: WINDOW })),
        ("128 clients", find(What::Crowd { connections: 128 })),
    ]
    .into_iter()
    .filter_map(|(name, found)| Some((name, found?)))
    .collect();
    let mut header = vec!["peer"];
    for (name, _) in &columns {
        header.extend([name, "min", "max", ""]);
    }
    let (_, first) = columns.first()?;
    let mut table = plain_table(&header);
    let cpu = |measurement: &Measurement, peer: &str| {
        let outcomes = by_peer(measurement);
        let values = figures(outcomes.get(peer)?, |point| point.cpu_ns_per_call);
        (!values.is_empty()).then(|| RatioFigures::of(values.into_iter()))
    };
    let best: Vec<Option<&str>> = columns
        .iter()
        .map(|(_, measurement)| {
            let outcomes = measurement.outcomes.iter();
            outcomes
                .filter(|outcome| outcome.peer != YARDSTICK)
                .filter_map(|outcome| Some((cpu(measurement, outcome.peer)?.median, outcome.peer)))
                .min_by(|(one, _), (other, _)| one.total_cmp(other))
                .map(|(_, peer)| peer)
        })
        .collect();
    for outcome in &first.outcomes {
        let mut row = vec![title(outcome.peer).to_owned()];
        for ((_, measurement), best) in columns.iter().zip(&best) {
            // Nanoseconds per call are milliseconds per million calls.
            let seconds = |ns: f64| format!("{:.2} s", ns / 1e3);
            match cpu(measurement, outcome.peer) {
                Some(RatioFigures { median, min, max }) => {
                    row.extend([median, min, max].map(seconds));
                }
                None => row.extend(["", "", ""].map(str::to_owned)),
            }
            let is_best = *best == Some(outcome.peer);
            row.push(if is_best { BEST } else { "" }.to_owned());
        }
        table.add_row(row);
    }
    right_align(&mut table);
    Some(table)
}

/// Memory, per connection.
fn memory_table<'a>(
    measurements: &[Measurement],
    title: impl Fn(&str) -> &'a str,
) -> Option<Table> {
    let crowd = What::Crowd {
        connections: MEMORY_AT,
    };
    let measurement = measurements.iter().find(|it| it.what == crowd)?;
    let mut rows = Vec::new();
    for outcome in &measurement.outcomes {
        let both = figures(outcome, |point| Some(point.memory?.both));
        let server = figures(outcome, |point| Some(point.memory?.server));
        if !both.is_empty() {
            let both = RatioFigures::of(both.into_iter());
            rows.push((outcome.peer, both, median(server)));
        }
    }
    let best = rows
        .iter()
        .min_by(|(_, one, _), (_, other, _)| one.median.total_cmp(&other.median))
        .map(|(peer, _, _)| *peer);
    let mut table = plain_table(&["peer", "all processes", "min", "max", "the server", ""]);
    for (peer, both, server) in rows {
        let mark = if best == Some(peer) { BEST } else { "" };
        table.add_row([
            title(peer).to_owned(),
            bytes(both.median),
            bytes(both.min),
            bytes(both.max),
            bytes(server),
            mark.to_owned(),
        ]);
    }
    right_align(&mut table);
    Some(table)
}

/// A number of bytes, for people.
fn bytes(bytes: f64) -> String {
    const KIB: f64 = 1024.0;
    let (value, unit) = if bytes >= KIB * KIB {
        (bytes / KIB / KIB, "MiB")
    } else if bytes >= KIB {
        (bytes / KIB, "KiB")
    } else {
        (bytes, "B")
    };
    let digits = usize::from(value.fract() > 0.05 && value < 99.0);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let sizes = [64.0, 1024.0, 65_536.0, 1_048_576.0, 140_000.0];
        assert_eq!(
            sizes.map(bytes),
            ["64 B", "1 KiB", "64 KiB", "1 MiB", "137 KiB"]
        );
    }
}
