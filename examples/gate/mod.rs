//! What a performance test must reach, and how it says whether it did.
//!
//! The bars are those of a developer's machine, or those of a file, by operating system: shared
//! machines are slower. The file is JSON, `{"linux": {"messages_per_second": 1200000,
//! "times_socket": 1.5}, …}` with the systems' names as in [`std::env::consts::OS`].

use serde::Deserialize;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

/// What stands in for Nearwire in the same run, where the ratio comes from.
pub const SOCKET: &str = if cfg!(windows) {
    "named pipe"
} else {
    "Unix socket"
};

pub const USAGE: &str = "[--json] [--thresholds FILE] [--summary FILE]
  --json             the figures as JSON
  --thresholds FILE  what this operating system must reach, instead of a developer's machine
  --summary FILE     appends a table of the verdicts, in Markdown";

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
#[derive(Debug, Default)]
pub struct Options {
    pub json: bool,
    thresholds: Option<Bars>,
    summary: Option<PathBuf>,
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
    /// What is wrong with the arguments or the file.
    pub fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(&argument) = rest.next() {
            let mut file = || {
                let file = rest.next().ok_or(format!("{argument} needs a file"))?;
                Ok::<_, String>(PathBuf::from(file))
            };
            match argument {
                "--json" => options.json = true,
                "--thresholds" => options.thresholds = Some(thresholds(&file()?)?),
                "--summary" => options.summary = Some(file()?),
                _ => return Err(format!("{argument}: no such option")),
            }
        }
        Ok(options)
    }

    /// The file's bars, if there is one.
    pub fn bars_or(&self, default: Bars) -> Bars {
        self.thresholds.unwrap_or(default)
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

fn thresholds(path: &PathBuf) -> Result<Bars, String> {
    let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| of_file(&error))?;
    let mut systems: HashMap<String, Bars> =
        serde_json::from_str(&text).map_err(|error| of_file(&error))?;
    let system = std::env::consts::OS;
    let bars = systems.remove(system);
    bars.ok_or_else(|| of_file(&format_args!("nothing about {system}")))
}
