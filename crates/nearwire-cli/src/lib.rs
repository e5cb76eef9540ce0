//! The `nearwire` command, as a library: for the command itself, and for the example that measures
//! a server at scale with the same code.

mod advice;
mod arguments;
mod baseline;
mod bench;
mod call;
mod demo;
mod inspect;
mod logging;
mod measure;
mod output;
mod private;
mod process;
mod rates;
mod scrape;
mod serve;
mod services;
mod stat;
mod top;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Calls between processes on one machine, at the speed of shared memory.
///
/// Exit codes: 0 done, 1 failed, 2 called wrongly.
#[derive(Debug, Parser)]
#[command(name = "nearwire", version)]
struct Arguments {
    #[command(flatten)]
    verbosity: logging::Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Call(call::Call),
    Stat(stat::Stat),
    Inspect(inspect::Inspect),
    Top(top::Top),
    Demo(demo::Demo),
    /// Measure: the hardware, and what is made of it.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// A process that another nearwire process has started.
    #[command(name = process::SUBCOMMAND, hide = true)]
    Child(process::ChildArguments),
}

impl Command {
    /// The server that the command was told to use.
    fn server(&self) -> Option<&str> {
        match self {
            Self::Serve(serve) => Some(&serve.name),
            Self::Call(call) => Some(&call.name),
            Self::Stat(stat) => Some(&stat.name),
            Self::Inspect(inspect) => Some(&inspect.name),
            Self::Top(top) => Some(&top.name),
            Self::Bench(bench) => bench.server(),
            Self::Demo(_) | Self::Child(_) => None,
        }
    }
}

/// A server and many connections, measured: what `nearwire bench scale` prints.
pub mod scale {
    pub use crate::bench::scale::{Figures, Plan, Point, Report, Shape};
    pub use crate::measure::RatioFigures;
}

/// Whether this process was started by a measurement, which runs its own executable again; if so,
/// it plays its part to the end. Whoever measures begins its `main` with it.
pub fn play_role() -> Option<ExitCode> {
    std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == process::SUBCOMMAND)
        .then(main)
}

/// What each role of a child process does.
fn role(name: &str) -> Option<process::Role> {
    Some(match name {
        measure::PROBE_ROLE => measure::answer_probes,
        baseline::blocking::ECHO_ROLE => baseline::blocking::serve_echo,
        baseline::crowd::CROWD_ROLE => baseline::crowd::serve_crowd,
        baseline::coalesced::COALESCED_ROLE => baseline::coalesced::serve_coalesced,
        bench::floor::FAR_SIDE_ROLE => bench::floor::be_far_side,
        demo::DEMO_CLIENT_ROLE => demo::be_client,
        bench::ring::MESSAGES_ROLE => bench::ring::serve_messages,
        bench::scale::SCALE_CLIENT_ROLE => bench::scale::be_scale_client,
        serve::PRIVATE_SERVER_ROLE => serve::serve_privately,
        _ => return None,
    })
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Serve(serve) => serve.run(),
        Command::Call(call) => call.run(),
        Command::Stat(stat) => stat.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Top(top) => top.run(),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run(),
        Command::Child(arguments) => process::be_child(arguments, role),
    }
}

/// The command's `main`. Exit code 0: done. 1: it failed. 2 (from the argument parser): it was
/// called wrongly.
pub fn main() -> ExitCode {
    let Arguments { verbosity, command } = Arguments::parse();
    verbosity.apply();
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_one_line(&error));
            if let Some(advice) = advice::advice(&error, command.server()) {
                eprintln!("help: {advice}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those that it quotes itself.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error
        .downcast_ref::<output::OutputError>()
        .is_some_and(|error| kind(&error.0))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let cause = || io::Error::other("cause");
        let quoting: Result<()> = Err(anyhow::anyhow!(cause()).context("failed: cause"));
        let outer = quoting.context("outer").unwrap_err();
        assert_eq!(in_one_line(&outer), "outer: failed: cause");
        let plain = anyhow::anyhow!(cause()).context("failed");
        assert_eq!(in_one_line(&plain), "failed: cause");
    }
}
