//! What is told about a server at scale.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use super::{Figures, Machine, Shape};
use crate::arguments::human_size;
use crate::measure::{Options, RatioFigures, Unit, clock_cost, human, plain_table, right_align};
use crate::output::{print_json, print_text};

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    title: &'static str,
    machine: Machine,
    clock_ns: f64,
    settings: Vec<String>,
    /// The figures.
    pub points: Vec<Point>,
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
    /// Calls per second that were due, if there was a schedule.
    pub rate: Option<u64>,
    /// Over Nearwire.
    pub nearwire: Option<Figures>,
    /// Over Unix sockets.
    pub unix_socket: Option<Figures>,
    /// Calls per second over Nearwire, as a multiple of those over Unix sockets.
    pub times_the_calls: Option<RatioFigures>,
}

/// What a shape is called.
pub(super) fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Sweep => "swept by a thread",
        Shape::Tasks => "async tasks",
        Shape::Threads => "a thread for each",
    }
}

impl Report {
    pub(super) fn new(settings: Vec<String>) -> Self {
        Self {
            title: "A server and many connections",
            machine: Machine::here(),
            clock_ns: clock_cost(),
            settings,
            points: Vec::new(),
        }
    }

    /// What stands above the figures: a title, and on what and how they were measured.
    pub(super) fn heading(&self) -> (String, Vec<String>) {
        let mut notes = vec![self.machine.to_string()];
        notes.extend(self.settings.iter().cloned());
        (self.title.to_owned(), notes)
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
        let mut text = format!("{}\n{}\n", self.title, self.machine);
        for setting in &self.settings {
            writeln!(text, "{setting}")?;
        }
        writeln!(text, "\n{}", self.table())?;
        writeln!(
            text,
            "\nA call's time counts from when it was due. CPU: seconds of the server's for a million \
             calls. Fair: calls of the slowest connection over those of the fastest. Memory: resident, \
             of server and clients together, for each connection, without the kernel's buffers."
        )?;
        print_text(&text)
    }

    fn table(&self) -> Table {
        let mut table = plain_table(&[
            "connections",
            "size",
            "window",
            "over",
            "calls",
            "p50",
            "p99",
            "p99.9",
            "CPU",
            "fair",
            "memory",
            "ratio",
        ]);
        for point in &self.points {
            let sides = [
                ("Nearwire", &point.nearwire),
                ("Unix socket", &point.unix_socket),
            ];
            for (over, figures) in sides {
                if let Some(figures) = figures {
                    table.add_row(row(point, over, figures));
                }
            }
        }
        right_align(&mut table);
        table
    }
}

fn row(point: &Point, over: &str, figures: &Figures) -> Vec<String> {
    let time = |nanoseconds: u64| human(nanoseconds as f64, Unit::Nanoseconds);
    vec![
        format!("{}, {}", point.connections, shape_name(point.shape)),
        human_size(point.bytes),
        point.window.to_string(),
        over.to_owned(),
        human(figures.calls_per_second.median, Unit::PerSecond),
        time(figures.p50_ns),
        time(figures.p99_ns),
        time(figures.p999_ns),
        format!("{:.3} s", figures.server_cpu_per_million),
        format!("{:.2}", figures.slowest_over_fastest),
        human_size(figures.bytes_per_connection as usize),
        match point.times_the_calls {
            Some(ratio) if over == "Nearwire" => format!("{:.1}x", ratio.median),
            _ => String::new(),
        },
    ]
}
