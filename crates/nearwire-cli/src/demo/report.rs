//! What the demonstration prints.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{RoundTrips, Summary};
use super::files::Outcome;
use super::in_use::InUse;
use super::walk::Flawed;
use crate::arguments::human_size;
use crate::baseline::socket;
use crate::measure::{Machine, RatioFigures, Unit, human, plain_table, right_align};

/// Paths of one kind that are printed at most; the JSON has all of them.
const LISTED: usize = 10;

/// Everything there is to say.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) processes: Processes,
    /// Runs of each way, in turn.
    pub(super) rounds: u32,
    pub(super) seconds_per_run: f64,
    /// What one clock read costs; each round trip contains one.
    pub(super) clock_ns: f64,
    pub(super) round_trips: Vec<RoundTripsOf>,
    pub(super) files: Outcome,
    pub(super) in_use: InUse,
}

/// Who took part.
#[derive(Debug, Serialize)]
pub(super) struct Processes {
    pub(super) server: u32,
    pub(super) unix_server: u32,
    pub(super) clients: Vec<u32>,
}

/// Round trips of one size.
#[derive(Debug, Serialize)]
pub(super) struct RoundTripsOf {
    pub(super) bytes: usize,
    pub(super) nearwire: Summary,
    pub(super) unix_socket: Summary,
    /// How many times faster Nearwire was, by the medians of neighbouring runs.
    pub(super) times_faster: RatioFigures,
    pub(super) runs: RoundTrips,
}

impl From<RoundTrips> for RoundTripsOf {
    fn from(runs: RoundTrips) -> Self {
        Self {
            bytes: runs.bytes,
            nearwire: Summary::of(&runs.nearwire),
            unix_socket: Summary::of(&runs.unix_socket),
            times_faster: runs.speed_up(),
            runs,
        }
    }
}

impl Report {
    /// As text for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}", self.machine)?;
        writeln!(
            text,
            "Server process {}, {} client processes, and process {} on a {} to compare with.",
            self.processes.server,
            self.processes.clients.len(),
            self.processes.unix_server,
            socket::NAME
        )?;
        writeln!(
            text,
            "\nRound trips of one client, every reply compared: {} runs of {:.2} s each, in turn.",
            self.rounds, self.seconds_per_run
        )?;
        writeln!(text, "{}", self.round_trips_table())?;
        writeln!(
            text,
            "Medians over the runs; each time contains one clock read, {:.0} ns.",
            self.clock_ns
        )?;
        self.files.write(text)?;
        writeln!(text, "\n{}", self.in_use)
    }

    fn round_trips_table(&self) -> comfy_table::Table {
        let header = ["size", "over", "p50", "p99", "p99.9", "mean", "faster"];
        let mut table = plain_table(&header);
        for of_size in &self.round_trips {
            let ways = [
                ("Nearwire", &of_size.nearwire),
                (socket::NAME, &of_size.unix_socket),
            ];
            for (number, (way, summary)) in ways.into_iter().enumerate() {
                let time = |nanoseconds| human(nanoseconds, Unit::Nanoseconds);
                table.add_row([
                    human_size(of_size.bytes),
                    way.to_owned(),
                    time(summary.p50_ns),
                    time(summary.p99_ns),
                    time(summary.p999_ns),
                    time(summary.mean_ns),
                    match number {
                        0 => times(of_size.times_faster),
                        _ => String::new(),
                    },
                ]);
            }
        }
        right_align(&mut table);
        table
    }
}

fn times(ratio: RatioFigures) -> String {
    format!(
        "{:.1}x ({:.1} to {:.1})",
        ratio.median, ratio.min, ratio.max
    )
}

impl Outcome {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\nFiles under {}, each sent whole to the server's hash, each answer compared with the \
             client's own BLAKE3:",
            self.directory.display()
        )?;
        writeln!(
            text,
            "{} files, {} bytes in {:.2} s: {:.2} GB/s, {:.0} files/s, {} mismatches.",
            self.files,
            self.bytes,
            self.seconds,
            self.gigabytes_per_second,
            self.files as f64 / self.seconds,
            self.mismatches
        )?;
        if self.no_time_files > 0 {
            writeln!(
                text,
                "{} more files, {} bytes, were left out because of --quick.",
                self.no_time_files, self.no_time_bytes
            )?;
        }
        if self.symbolic_links + self.special_files > 0 {
            writeln!(
                text,
                "Not followed: {} symbolic links; not read: {} pipes, sockets and devices.",
                self.symbolic_links, self.special_files
            )?;
        }
        list(text, "WRONG ANSWERS", &self.mismatched)?;
        list(text, "Too large", &self.too_large)?;
        list(text, "Could not be read", &self.unreadable)
    }
}

/// Some of the paths, and how many there are.
fn list(text: &mut String, what: &str, paths: &[Flawed]) -> std::fmt::Result {
    if paths.is_empty() {
        return Ok(());
    }
    writeln!(text, "{what}: {}", paths.len())?;
    for Flawed { path, reason } in paths.iter().take(LISTED) {
        writeln!(text, "  {}: {reason}", path.display())?;
    }
    if paths.len() > LISTED {
        writeln!(
            text,
            "  and {} more (--json lists all)",
            paths.len() - LISTED
        )?;
    }
    Ok(())
}
