//! Nearwire beside what one would take instead of it: calls between two processes, each system in
//! its best reasonable configuration, all timed by the same clock, in turn, and every reply checked.
//!
//! `docs/COMPARISON.md` has the figures and says how each system is used.

mod drive;
mod measure;
mod message;
mod peer;
mod peers;
mod picture;
mod report;
mod roles;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nearwire_cli::comparison::{Machine, end_with_children, play_role, raise_descriptor_limit};

use measure::{Lengths, What};

/// Measures Nearwire beside what one would take instead.
///
/// Results go to standard output, progress to standard error.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Measure only these, by name, with commas in between [default: all that were built].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    peers: Vec<String>,
    /// Measure only this: latency, throughput, connect, clients; several with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    only: Vec<Part>,
    /// Two rounds of short runs: to see that all works. Figures to within a factor of two.
    #[arg(long)]
    quick: bool,
    /// Rounds; each peer runs once in each, for each thing that is measured [default: 5, with many
    /// clients 3; quick: 2].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Also write all figures, run by run, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw pictures (SVG) into this directory.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Print the tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// Name the peers that were built, and stop.
    #[arg(long)]
    list: bool,
}

/// A part of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Latency,
    Throughput,
    Connect,
    Clients,
}

impl Part {
    fn of(what: What) -> Self {
        match what {
            What::RoundTrips { .. } => Self::Latency,
            What::Pipelined { .. } => Self::Throughput,
            What::Connect => Self::Connect,
            What::Crowd { .. } => Self::Clients,
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = play_role(roles::role) {
        return code;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for entry in peers::all() {
            println!("{:22} {}", entry.about.name, entry.about.title);
        }
        return Ok(());
    }
    let entries = chosen(&arguments.peers)?;
    if let Some(directory) = &arguments.plot {
        // Before minutes are spent on what could not be drawn.
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    end_with_children()?;
    raise_descriptor_limit();
    let lengths = if arguments.quick {
        Lengths {
            rounds: arguments.rounds.unwrap_or(2),
            crowd_rounds: arguments.rounds.unwrap_or(2),
            single: Duration::from_millis(40),
            crowd: Duration::from_millis(100),
        }
    } else {
        Lengths {
            rounds: arguments.rounds.unwrap_or(5),
            crowd_rounds: arguments.rounds.unwrap_or(3),
            single: Duration::from_millis(120),
            crowd: Duration::from_millis(250),
        }
    };
    let mut plan = measure::plan(arguments.quick);
    plan.retain(|what| arguments.only.is_empty() || arguments.only.contains(&Part::of(*what)));
    let machine = Machine::here();
    let begin = std::time::Instant::now();
    let results = measure::measure(&entries, &plan, lengths)?;
    let report = report::Report::new(machine, lengths, &entries, results, begin.elapsed());
    // It took long to measure: whatever becomes of the files, the tables are shown.
    let look = if arguments.markdown {
        report::Look::Markdown
    } else {
        report::Look::Plain
    };
    print!("{}", report.text(look));
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(directory) = &arguments.plot {
        picture::draw(&report, directory)?;
    }
    report.failed().map_or(Ok(()), |failures| {
        anyhow::bail!("{failures} runs failed; the tables say which")
    })
}

fn chosen(names: &[String]) -> Result<Vec<peers::Entry>> {
    let all = peers::all();
    for name in names {
        let known = all.iter().any(|entry| entry.about.name == name);
        ensure!(known, "there is no peer {name} here: see --list");
    }
    let is_wanted = |entry: &peers::Entry| {
        names.is_empty() || names.iter().any(|name| name == entry.about.name)
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}
