//! The `nearwire` command.

mod baseline;
mod bench;
mod measure;
mod process;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Calls between processes on one machine, at the speed of shared memory.
#[derive(Debug, Parser)]
#[command(name = "nearwire", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure: the hardware, and what is made of it.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// A process that another nearwire process has started.
    #[command(name = process::SUBCOMMAND, hide = true)]
    Child(process::ChildArguments),
}

/// What each role of a child process does.
fn role(name: &str) -> Option<process::Role> {
    Some(match name {
        measure::PROBE_ROLE => measure::answer_probes,
        baseline::blocking::ECHO_ROLE => baseline::blocking::serve_echo,
        baseline::coalesced::COALESCED_ROLE => baseline::coalesced::serve_coalesced,
        bench::floor::FAR_SIDE_ROLE => bench::floor::be_far_side,
        _ => return None,
    })
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Bench(bench) => bench.run(),
        Command::Child(arguments) => process::be_child(&arguments, role),
    }
}

/// Exit code 0: done. 1: it failed. 2 (from the argument parser): it was called wrongly.
fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error
        .downcast_ref::<measure::OutputError>()
        .is_some_and(|error| kind(&error.0))
}
