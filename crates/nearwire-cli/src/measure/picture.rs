//! What a benchmark draws: the report's figures.

use super::{Measured, Report, Section, Series, Unit, median};
use crate::plot::{Bar, Content, Curve, Panel, Picture};

impl Report {
    /// The report as a picture: percentile curves of what was timed, bars of what was counted.
    pub fn picture(&self) -> Picture {
        let mut notes = vec![self.machine.to_string()];
        notes.extend(self.settings.iter().cloned());
        Picture {
            title: self.title.clone(),
            notes,
            panels: self.sections.iter().flat_map(panels).collect(),
        }
    }
}

/// What stands before the colon of a name such as `64 B: Unix socket`, and what behind it.
fn parts(name: &str) -> (Option<&str>, &str) {
    match name.split_once(": ") {
        Some((group, name)) => (Some(group), name),
        None => (None, name),
    }
}

/// A panel for each group of names and each unit. What belongs to no group is shown beside each
/// of them, for comparison.
fn panels(section: &Section) -> Vec<Panel> {
    let mut panels: Vec<(Option<&str>, Unit, Vec<&Series>)> = Vec::new();
    let (grouped, alone): (Vec<&Series>, Vec<&Series>) = section
        .series
        .iter()
        .partition(|series| parts(&series.name).0.is_some());
    for series in grouped {
        let group = parts(&series.name).0;
        match panels
            .iter_mut()
            .find(|(known, unit, _)| *known == group && *unit == series.unit)
        {
            Some((_, _, members)) => members.push(series),
            None => panels.push((group, series.unit, vec![series])),
        }
    }
    for series in alone {
        let mut shown = false;
        for (_, _, members) in panels.iter_mut().filter(|panel| panel.1 == series.unit) {
            members.push(series);
            shown = true;
        }
        if !shown {
            panels.push((None, series.unit, vec![series]));
        }
    }
    panels
        .into_iter()
        .map(|(group, unit, members)| Panel {
            title: match group {
                Some(group) => format!("{}, {group}", section.title),
                None => section.title.clone(),
            },
            content: match unit {
                Unit::Nanoseconds => {
                    Content::Curves(members.iter().map(|series| curve(series)).collect())
                }
                unit => Content::Bars(unit, members.iter().map(|series| bar(series)).collect()),
            },
        })
        .collect()
}

fn bar(series: &Series) -> Bar {
    let name = parts(&series.name).1.to_owned();
    Bar {
        kind: name.clone(),
        name,
        median: series.median,
        min: series.min,
        max: series.max,
    }
}

/// At each percentile the median over the runs, as in the table.
fn curve(series: &Series) -> Curve {
    let runs: Vec<&super::Latency> = series
        .runs
        .iter()
        .filter_map(|run| match &run.measured {
            Measured::Latency(latency) => Some(latency),
            _ => None,
        })
        .collect();
    let shortest = runs.iter().map(|run| run.curve.len()).min().unwrap_or(0);
    let points = (0..shortest).map(|at| {
        let share = runs[0].curve[at].share;
        (
            share,
            median(runs.iter().map(|run| run.curve[at].ns as f64)),
        )
    });
    Curve {
        name: parts(&series.name).1.to_owned(),
        points: points.collect(),
    }
}
