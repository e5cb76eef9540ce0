//! The `nearwire` command, as a library: for the command itself, and for the example that measures
//! a server at scale with the same code.

mod advice;
mod arguments;
mod baseline;
mod bench;
mod call;
#[doc(hidden)]
pub mod comparison;
mod demo;
mod doctor;
mod inspect;
mod logging;
mod manual;
mod measure;
mod output;
mod plot;
mod private;
mod process;
mod rates;
mod roles;
mod scrape;
mod serve;
mod services;
mod stat;
mod top;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

pub use roles::play_role;

/// A server and many connections, measured: what `nearwire bench scale` prints.
pub mod scale {
    pub use crate::bench::scale::{Figures, Found, Placed, Plan, Point, Report, Shape};
    pub use crate::measure::{Distance, RatioFigures, Verdict};
}

/// Calls between processes on one machine, at the speed of shared memory.
///
/// Exit codes: 0 done, 1 failed, 2 called wrongly.
#[derive(Debug, Parser)]
#[command(
    name = "nearwire",
    version,
    after_help = "\
Examples:
  nearwire demo                                     # see it work, in half a minute
  nearwire doctor                                   # does this machine have what it takes?
  nearwire serve demo & nearwire call demo echo hello
  nearwire bench latency --quick --plot latency.svg
  nearwire man bench | man -l -

RUST_LOG, for example RUST_LOG=nearwire=debug, chooses what is logged. NEARWIRE_DIR is where servers'
sockets lie [default: $XDG_RUNTIME_DIR/nearwire, else /tmp/nearwire-UID]."
)]
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
    Bench(Box<bench::Bench>),
    Doctor(doctor::Doctor),
    Man(manual::Man),
    Completions(manual::Completions),
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
            Self::Demo(_) | Self::Doctor(_) | Self::Man(_) | Self::Completions(_) => None,
        }
    }
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
        Command::Doctor(doctor) => doctor.run(),
        Command::Man(man) => man.run(Arguments::command()),
        Command::Completions(completions) => completions.run(Arguments::command()),
    }
}

/// The command's `main`. Exit code 0: done. 1: it failed. 2 (from the argument parser): it was
/// called wrongly.
pub fn main() -> ExitCode {
    if let Some(code) = play_role() {
        return code;
    }
    let Arguments { verbosity, command } = Arguments::parse();
    verbosity.apply();
    exit_code(run(&command), command.server())
}

/// Says what went wrong, with the help that there is, given the server's name.
fn exit_code(result: Result<()>, server: Option<&str>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_one_line(&error));
            if let Some(advice) = advice::advice(&error, server) {
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
    fn the_command_fits_together() {
        Arguments::command().debug_assert();
    }

    /// Every line below an "Examples:" is one that this command understands.
    #[test]
    fn examples_in_the_help_are_valid() {
        fn lines(command: &clap::Command, found: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let own = help
                .lines()
                .filter_map(|line| line.strip_prefix("  nearwire "));
            let before = found.len();
            found.extend(own.map(|line| format!("nearwire {line}")));
            let leaf = command.get_subcommands().next().is_none();
            let name = command.get_name();
            assert!(!leaf || found.len() > before, "{name} has no examples");
            for inner in command.get_subcommands() {
                lines(inner, found);
            }
        }
        let command = Arguments::command();
        let mut found = Vec::new();
        lines(&command, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for line in found {
            for part in line.split(['|', '&', ';']).map(str::trim) {
                let words = part.split(['#', '<', '>']).next().unwrap_or_default();
                let words: Vec<&str> = words.split_whitespace().collect();
                if words.first() != Some(&"nearwire") {
                    continue;
                }
                let parsed = Arguments::try_parse_from(&words);
                assert!(parsed.is_ok(), "{part}: {}", parsed.unwrap_err());
            }
        }
    }

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
