//! What a benchmark prints: the same structures as a table or as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::{
    Distance, Machine, Measured, Options, Ratio, RatioFigures, Series, Unit, clock_cost, median,
};
use crate::output::{print_json, print_text};

/// Everything a benchmark has to say.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured.
    pub title: String,
    /// On what.
    pub machine: Machine,
    /// What one clock read costs, in nanoseconds.
    pub clock_ns: f64,
    /// What was really in use: pinning, pages, waiting.
    pub settings: Vec<String>,
    /// The figures.
    pub sections: Vec<Section>,
    /// The comparisons.
    pub ratios: Vec<Ratio>,
}

/// Operations that ran in turn.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// What they have in common.
    pub title: String,
    /// Their runs.
    pub series: Vec<Series>,
}

impl Report {
    /// An empty report about this machine.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            machine: Machine::here(),
            clock_ns: clock_cost(),
            settings: Vec::new(),
            sections: Vec::new(),
            ratios: Vec::new(),
        }
    }

    /// Draws the picture, if one was asked for, and prints to standard output, as JSON or as
    /// tables.
    ///
    /// # Errors
    /// If the picture cannot be written; [`OutputError`](crate::output::OutputError) if the output
    /// cannot.
    pub fn publish(&self, options: &Options) -> Result<()> {
        // Whatever becomes of the picture: it took long to measure.
        let drawn = match &options.plot {
            Some(path) => self.picture().write(path),
            None => Ok(()),
        };
        if options.json {
            print_json(self)?;
        } else {
            print_text(&self.text()?)?;
        }
        drawn
    }

    /// The report as text.
    ///
    /// # Errors
    /// Never, in practice: a string takes everything.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "{}", self.title)?;
        writeln!(text, "{}", self.machine)?;
        for setting in &self.settings {
            writeln!(text, "{setting}")?;
        }
        writeln!(
            text,
            "A clock read costs {:.0} ns: percentiles contain it, medians do not.",
            self.clock_ns
        )?;
        for section in &self.sections {
            writeln!(text, "\n{}\n{}", section.title, section.table())?;
        }
        let series = self.sections.iter().flat_map(|section| &section.series);
        let crowded: usize = series.map(Series::crowded).sum();
        if crowded > 0 {
            writeln!(
                text,
                "\n{crowded} runs had less than a core for each side; their figures say nothing \
                 about the hardware. Try again when the machine is idle, or with --pin."
            )?;
        }
        if !self.ratios.is_empty() {
            writeln!(text, "\nRatios, run by run\n{}", ratio_table(&self.ratios))?;
        }
        Ok(text)
    }
}

impl Section {
    fn table(&self) -> Table {
        let latency = self
            .series
            .iter()
            .any(|series| series.unit == Unit::Nanoseconds);
        let probed = self
            .series
            .iter()
            .any(|s| s.runs.iter().any(|run| run.probe.is_some()));
        let mut header = vec!["operation", "median", "min", "max"];
        header.extend(if latency {
            &["p50", "p99", "p99.9"][..]
        } else {
            &["mean"]
        });
        if probed {
            header.extend(["if near", "if far", "ping-pong", "cores"]);
        }
        let mut table = plain_table(&header);
        for series in &self.series {
            let figure = |value| human(value, series.unit);
            let mut row = vec![
                series.name.clone(),
                figure(series.median),
                figure(series.min),
                figure(series.max),
            ];
            row.extend(details(series, latency));
            if probed {
                row.extend([series.near, series.far].map(|at| at.map_or_else(String::new, figure)));
                row.extend(placement(series));
            }
            table.add_row(row);
        }
        right_align(&mut table);
        table
    }
}

/// The columns that depend on the kind of figure: medians over the runs.
fn details(series: &Series, latency: bool) -> Vec<String> {
    let over_runs = |of: &dyn Fn(&Measured) -> Option<f64>| {
        let values: Vec<f64> = series
            .runs
            .iter()
            .filter_map(|run| of(&run.measured))
            .collect();
        if values.is_empty() {
            String::new()
        } else {
            human(median(values), series.unit)
        }
    };
    if !latency {
        return vec![over_runs(&|measured| match measured {
            Measured::Throughput(run) => Some(run.mean_per_second),
            Measured::Bandwidth(run) => Some(run.mean_per_second * run.bytes_each as f64),
            Measured::Latency(_) => None,
        })];
    }
    let percentile = |of: &dyn Fn(&super::Latency) -> u64| {
        over_runs(&|measured| match measured {
            Measured::Latency(run) => Some(of(run) as f64),
            _ => None,
        })
    };
    vec![
        percentile(&|run| run.p50_ns),
        percentile(&|run| run.p99_ns),
        percentile(&|run| run.p999_ns),
    ]
}

/// The probe's readings and what they say, over the runs.
fn placement(series: &Series) -> [String; 2] {
    let brackets: Vec<_> = series.runs.iter().filter_map(|run| run.probe).collect();
    if brackets.is_empty() {
        return Default::default();
    }
    let readings = brackets
        .iter()
        .flat_map(|bracket| [bracket.before_ns, bracket.after_ns]);
    let mut cores = Vec::new();
    for distance in [
        Distance::Near,
        Distance::Far,
        Distance::Moved,
        Distance::Crowded,
    ] {
        match brackets
            .iter()
            .filter(|bracket| bracket.distance == distance)
            .count()
        {
            0 => {}
            count if count == brackets.len() => cores.push(distance.to_string()),
            count => cores.push(format!("{count} {distance}")),
        }
    }
    [human(median(readings), Unit::Nanoseconds), cores.join(", ")]
}

fn ratio_table(ratios: &[Ratio]) -> Table {
    let mut table = plain_table(&["ratio", "median", "min", "max", "comparable runs"]);
    for ratio in ratios {
        let figure = |of: fn(&RatioFigures) -> f64| match &ratio.figures {
            Some(figures) => format!("{:.2}x", of(figures)),
            None => "none".into(),
        };
        table.add_row([
            ratio.name.clone(),
            figure(|figures| figures.median),
            figure(|figures| figures.min),
            figure(|figures| figures.max),
            format!("{} of {}", ratio.comparable, ratio.pairs),
        ]);
    }
    right_align(&mut table);
    table
}

/// A table without lines.
pub fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header.iter().copied());
    table
}

/// Figures line up on the right, names on the left.
pub fn right_align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// A figure with three significant digits and its unit.
pub fn human(value: f64, unit: Unit) -> String {
    let (steps, names): (&[f64], &[&str]) = match unit {
        Unit::Nanoseconds => (&[1.0, 1e3, 1e6, 1e9], &["ns", "µs", "ms", "s"]),
        Unit::PerSecond => (&[1.0, 1e3, 1e6], &["/s", "k/s", "M/s"]),
        Unit::BytesPerSecond => (&[1.0, 1e6, 1e9], &["B/s", "MB/s", "GB/s"]),
    };
    let step = steps.iter().rposition(|step| value >= *step).unwrap_or(0);
    let scaled = value / steps[step];
    let digits = if scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {}", names[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(human(48.31, Unit::Nanoseconds), "48.3 ns");
        assert_eq!(human(48_310.0, Unit::Nanoseconds), "48.3 µs");
        assert_eq!(human(234e6, Unit::PerSecond), "234 M/s");
        assert_eq!(human(61.2e9, Unit::BytesPerSecond), "61.2 GB/s");
        assert_eq!(human(0.5, Unit::Nanoseconds), "0.50 ns");
    }
}
