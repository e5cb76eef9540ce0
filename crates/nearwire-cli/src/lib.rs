//! The `nearwire` command, as a library: for the command itself, and for the example that measures
//! a server at scale with the same code.

// What measures has processes that talk over Unix sockets, as what it measures against does.
#[cfg(unix)]
mod baseline;
#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod demo;
#[cfg(unix)]
mod plot;
#[cfg(unix)]
mod private;
#[cfg(unix)]
mod process;
#[cfg(not(unix))]
mod unix_only;

mod advice;
mod arguments;
mod call;
mod doctor;
mod inspect;
mod logging;
mod manual;
mod measure;
mod output;
mod rates;
mod scrape;
mod serve;
mod services;
mod stat;
mod top;

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

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
    #[cfg(unix)]
    Demo(demo::Demo),
    /// See it work (on Unix only).
    #[cfg(not(unix))]
    Demo(unix_only::UnixOnly),
    /// Measure: the hardware, and what is made of it.
    #[cfg(unix)]
    Bench(Box<bench::Bench>),
    /// Measure (on Unix only).
    #[cfg(not(unix))]
    Bench(unix_only::UnixOnly),
    Doctor(doctor::Doctor),
    Man(manual::Man),
    Completions(manual::Completions),
}

/// A process that another nearwire process has started. Apart from the commands of users, so that
/// neither the manual nor completions know of it.
#[cfg(unix)]
#[derive(Debug, Parser)]
struct Errand {
    #[command(flatten)]
    verbosity: logging::Verbosity,
    #[command(subcommand)]
    errand: ErrandCommand,
}

#[cfg(unix)]
#[derive(Debug, Subcommand)]
enum ErrandCommand {
    #[command(name = process::SUBCOMMAND)]
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
            #[cfg(unix)]
            Self::Bench(bench) => bench.server(),
            #[cfg(not(unix))]
            Self::Bench(_) => None,
            Self::Demo(_) | Self::Doctor(_) | Self::Man(_) | Self::Completions(_) => None,
        }
    }
}

/// A server and many connections, measured: what `nearwire bench scale` prints.
#[cfg(unix)]
pub mod scale {
    pub use crate::bench::scale::{Figures, Found, Placed, Plan, Point, Report, Shape};
    pub use crate::measure::{Distance, RatioFigures, Verdict};
}

/// Whether this process was started by a measurement, which runs its own executable again; if so,
/// it plays its part to the end. Whoever measures begins its `main` with it.
#[cfg(unix)]
pub fn play_role() -> Option<ExitCode> {
    is_errand().then(main)
}

/// Whether another nearwire process has started this one.
#[cfg(unix)]
fn is_errand() -> bool {
    std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == process::SUBCOMMAND)
}

/// What each role of a child process does.
#[cfg(unix)]
fn role(name: &str) -> Option<process::Role> {
    Some(match name {
        measure::PROBE_ROLE => measure::answer_probes,
        baseline::blocking::ECHO_ROLE => baseline::blocking::serve_echo,
        baseline::crowd::CROWD_ROLE => baseline::crowd::serve_crowd,
        baseline::coalesced::COALESCED_ROLE => baseline::coalesced::serve_coalesced,
        bench::floor::FAR_SIDE_ROLE => bench::floor::be_far_side,
        demo::DEMO_CLIENT_ROLE => demo::be_client,
        bench::pool::PLACE_ROLE => bench::pool::keep_place,
        bench::pool::SERVER_ROLE => bench::pool::serve,
        bench::ring::MESSAGES_ROLE => bench::ring::serve_messages,
        bench::scale::SCALE_CLIENT_ROLE => bench::scale::be_scale_client,
        bench::scale::CONNECTOR_ROLE => bench::scale::be_connector,
        bench::scale::OFFENDER_ROLE => bench::scale::be_offender,
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
        #[cfg(unix)]
        Command::Demo(demo) => demo.run(),
        #[cfg(not(unix))]
        Command::Demo(demo) => demo.run("demo"),
        #[cfg(unix)]
        Command::Bench(bench) => bench.run(),
        #[cfg(not(unix))]
        Command::Bench(bench) => bench.run("bench"),
        Command::Doctor(doctor) => doctor.run(),
        Command::Man(man) => man.run(Arguments::command()),
        Command::Completions(completions) => completions.run(Arguments::command()),
    }
}

/// The command's `main`. Exit code 0: done. 1: it failed. 2 (from the argument parser): it was
/// called wrongly.
pub fn main() -> ExitCode {
    #[cfg(unix)]
    if is_errand() {
        let Errand { verbosity, errand } = Errand::parse();
        verbosity.apply();
        let ErrandCommand::Child(arguments) = errand;
        return exit_code(process::be_child(&arguments, role), None);
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

    /// Every line below an "Examples:" is one that this command understands. (Elsewhere some are not
    /// commands.)
    #[cfg(unix)]
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
    fn the_command_fits_together() {
        Arguments::command().debug_assert();
        #[cfg(unix)]
        Errand::command().debug_assert();
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
