//! What a performance test must reach, and how it says whether it did.
//!
//! The bars are in `examples/thresholds.json`: those of a developer's machine, and those of machines
//! that are shared, as public CI has, by operating system (named as in [`std::env::consts::OS`]).

// Each test uses a part of this.
#![allow(dead_code)]

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// What stands in for Nearwire in the same run, where the ratio comes from.
pub const SOCKET: &str = if cfg!(windows) {
    "named pipe"
} else {
    "Unix socket"
};

pub const USAGE: &str = "[--json] [--shared-machine] [--summary FILE]
  --json            the figures as JSON
  --shared-machine  what public CI must reach with this operating system, instead of a developer's
                    machine
  --summary FILE    appends a table of the verdicts, in Markdown";

const FILE: &str = include_str!("../thresholds.json");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    developer: Developer,
    /// By operating system.
    shared: HashMap<String, Bars>,
    times_socket_near_64_in_flight: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Developer {
    /// Between two processes, published one by one.
    messages: Bars,
    /// Of one server with so many connections, together.
    connections: BTreeMap<usize, Bars>,
}

/// What must be reached.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Messages that cross from one process to another, per second.
    pub messages_per_second: f64,
    /// The same as a multiple of what a socket does in the same run.
    pub times_socket: f64,
}

/// What the test was told.
#[derive(Debug)]
pub struct Options {
    pub json: bool,
    /// What a shared machine must reach, if this is one.
    shared: Option<Bars>,
    summary: Option<PathBuf>,
    thresholds: Thresholds,
}

/// What was reached, and what should have been.
#[derive(Debug)]
pub struct Reached {
    pub what: String,
    pub messages_per_second: f64,
    /// `None`: the socket was not measured, which is a failure.
    pub times_socket: Option<f64>,
    pub required: Bars,
}

impl Options {
    /// # Errors
    /// What is wrong with the arguments, or with the file.
    pub fn parse(arguments: &[&str]) -> Result<Self, String> {
        let of_file = |error: &dyn std::fmt::Display| format!("examples/thresholds.json: {error}");
        let mut options = Self {
            json: false,
            shared: None,
            summary: None,
            thresholds: serde_json::from_str(FILE).map_err(|error| of_file(&error))?,
        };
        let mut rest = arguments.iter();
        while let Some(&argument) = rest.next() {
            match argument {
                "--json" => options.json = true,
                "--shared-machine" => {
                    let system = std::env::consts::OS;
                    let bars = options.thresholds.shared.get(system).copied();
                    let nothing = || of_file(&format_args!("nothing about {system}"));
                    options.shared = Some(bars.ok_or_else(nothing)?);
                }
                "--summary" => {
                    let file = rest.next().ok_or("--summary needs a file")?;
                    options.summary = Some(PathBuf::from(file));
                }
                _ => return Err(format!("{argument}: no such option")),
            }
        }
        Ok(options)
    }

    /// What must be reached between two processes.
    pub fn messages(&self) -> Bars {
        self.shared.unwrap_or(self.thresholds.developer.messages)
    }

    /// What must be reached with how many connections.
    pub fn connections(&self) -> impl Iterator<Item = (usize, Bars)> {
        let connections = self.thresholds.developer.connections.iter();
        connections.map(|(count, bars)| (*count, self.shared.unwrap_or(*bars)))
    }

    /// The calls of a server with 64 in flight on each connection, as a multiple of what the socket's
    /// do, where the processors are near to one another.
    pub fn times_socket_near_64_in_flight(&self) -> f64 {
        self.thresholds.times_socket_near_64_in_flight
    }

    /// Says whether it was enough, to standard error and to the summary.
    pub fn judge(&self, title: &str, reached: &[Reached]) -> bool {
        let mut table = format!(
            "### {title} ({}, {})\n\n| | M msg/s | required | times {SOCKET} | required | |\n|---|--:|--:|--:|--:|---|\n",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        for it in reached {
            let (rate, rate_required) = (
                it.messages_per_second / 1e6,
                it.required.messages_per_second / 1e6,
            );
            let verdict = if it.is_enough() { "ok" } else { "FAILED" };
            let (times, times_required) = (it.times(), it.required.times_socket);
            eprintln!(
                "{verdict}: {}, {rate:.2} M msg/s, {rate_required:.1} M required; {times} times a \
                 {SOCKET}, {times_required:.1} required",
                it.what
            );
            // Text goes to a string, which takes everything.
            let _ = writeln!(
                table,
                "| {} | {rate:.2} | {rate_required:.1} | {times} | {times_required:.1} | {verdict} |",
                it.what
            );
        }
        let mut enough = !reached.is_empty() && reached.iter().all(Reached::is_enough);
        if let Some(path) = &self.summary {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{table}"));
            if let Err(error) = written {
                eprintln!("FAILED: cannot write to {}: {error}", path.display());
                enough = false;
            }
        }
        enough
    }
}

impl Reached {
    fn is_enough(&self) -> bool {
        let fast = self.messages_per_second >= self.required.messages_per_second;
        fast && self.times_socket >= Some(self.required.times_socket)
    }

    fn times(&self) -> String {
        match self.times_socket {
            Some(times) => format!("{times:.1}"),
            None => "unknown".into(),
        }
    }
}
