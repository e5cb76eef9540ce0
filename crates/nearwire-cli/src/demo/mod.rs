//! `nearwire demo`: real processes, real calls, real data, and what they cost, in half a minute.
//!
//! The command itself only directs: a server process, an echo server on a plain Unix socket
//! (Windows: a named pipe), and client processes, which do all the calling and all the measuring.

mod client;
mod figures;
mod files;
mod in_use;
mod report;
mod walk;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::baseline::blocking::ECHO_ROLE;
use crate::measure::{Budget, Machine};
use crate::output::{print_json, print_text};
use crate::process::{Child, end_with_children};
use crate::serve::{Settings, start_privately};

use client::Client;
pub use client::{DEMO_CLIENT_ROLE, be_client};
use report::Report;

/// The largest file that is sent.
const LARGEST: u64 = 1 << 30;

/// Sizes of the requests whose round trips are timed, in bytes.
const SIZES: [usize; 3] = [64, 1 << 10, 64 << 10];

/// Show it all: a server and clients in processes of their own, round trips against a plain Unix
/// socket, and every file of a directory hashed by the server and checked by the clients.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire demo
  nearwire demo --quick --dir ~/src --clients 4
  nearwire demo --json | jq .files")]
pub struct Demo {
    /// The directory whose files go through the server.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Client processes for the files.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=64))]
    clients: u16,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Be done in a few seconds: shorter measurements, and files for three seconds only.
    #[arg(long)]
    quick: bool,
}

impl Demo {
    /// Runs the demonstration and prints what came of it.
    ///
    /// # Errors
    /// If a process cannot be started or fails, the directory cannot be read, or an answer was
    /// wrong.
    pub fn run(&self) -> Result<()> {
        // Else a mistyped directory is noticed after the measurements only.
        std::fs::read_dir(&self.dir)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", self.dir.display()))?;
        end_with_children()?;
        let report = self.perform()?;
        if self.json {
            print_json(&report)?;
        } else {
            print_text(&report.text())?;
        }
        match report.files.mismatches {
            0 => Ok(()),
            count => bail!("{count} files came back with a wrong hash"),
        }
    }

    fn perform(&self) -> Result<Report> {
        let machine = Machine::here();
        let largest = largest_file();
        let server = start_privately(
            &Settings {
                max_message: usize::try_from(largest)?,
                ..Settings::default()
            },
            None,
        )?;
        let socket_server = Child::start(ECHO_ROLE, None)?;
        let clients = (0..self.clients)
            .map(|_| Client::start(server.name()))
            .collect::<Result<Vec<_>>>()?;

        let (rounds, budget) = if self.quick {
            (3, Budget::of(Duration::from_millis(80)))
        } else {
            (5, Budget::of(Duration::from_millis(300)))
        };
        eprintln!("measuring: round trips …");
        let progress = bar("round trips  {bar:30} {pos}/{len}");
        let round_trips =
            clients[0].round_trips(&socket_server, &SIZES, rounds, budget, &progress)?;
        let in_use = in_use::find_out(&clients[0], &server)?;

        let tree = walk::walk(&self.dir, largest);
        eprintln!("sending: {} files …", tree.files.len());
        let progress = bar("files        {bar:30} {binary_bytes}/{binary_total_bytes}");
        let time = self.quick.then_some(Duration::from_secs(3));
        let files = files::check(tree, &clients, time, &progress)?;

        let processes = report::Processes {
            server: server.process().id(),
            unix_server: socket_server.id(),
            clients: clients.iter().map(Client::id).collect(),
        };
        for client in clients {
            client.finish()?;
        }
        socket_server.finish()?;
        server.finish()?;
        Ok(Report {
            machine,
            processes,
            rounds,
            seconds_per_run: budget.run.as_secs_f64(),
            clock_ns: crate::measure::clock_cost(),
            round_trips: round_trips.into_iter().map(Into::into).collect(),
            files,
            in_use,
        })
    }
}

/// A progress bar on standard error, if that is a terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // A template that does not parse leaves the bar as it is.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// The largest file that is sent: a client and the server hold one in memory each.
fn largest_file() -> u64 {
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("MemAvailable:"))?;
            let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kibibytes << 10)
        });
    available.map_or(LARGEST, |bytes| LARGEST.min(bytes / 8))
}
