//! The commands that measure, and the demo: their processes talk over Unix sockets, as what they
//! measure against does. Elsewhere `elsewhere.rs` stands in for this.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{baseline, bench, demo, exit_code, logging, measure, process, serve};

pub use demo::Demo;

/// The command that measures.
pub type Bench = Box<bench::Bench>;

/// A server and many connections, measured: what `nearwire bench scale` prints.
pub mod scale {
    pub use crate::bench::scale::{Figures, Found, Placed, Plan, Point, Report, Shape};
    pub use crate::measure::{Distance, RatioFigures, Verdict};
}

/// What the comparison with other systems, a workspace of its own in `comparison/`, measures and
/// draws with. Not for others: it changes with what is compared.
#[doc(hidden)]
pub mod comparison {
    pub use crate::baseline::blocking::{FrameReader, write_frame};
    pub use crate::baseline::{HEADER, header, payload_length};
    pub use crate::bench::scale::usage::{cpu_time, resident};
    pub use crate::measure::{
        Bracket, Budget, CoreShare, Distance, Latency, Machine, Measured, Meter, Probe, Ratio,
        RatioFigures, Run, Series, Throughput, UNDISTURBED, Unit, human, instant_of, latency,
        latency_async, median, monotonic, plain_table, right_align, throughput,
    };
    pub use crate::plot::{Bar, Content, Panel, Picture};
    pub use crate::process::{
        Channel, Child, Parent, Role, end_with_children, raise_descriptor_limit, run_on, two_cpus,
    };

    /// As [`play_role`](crate::play_role), with roles of one's own besides.
    pub fn play_role(roles: impl FnOnce(&str) -> Option<Role>) -> Option<std::process::ExitCode> {
        super::play(roles)
    }
}

/// A process that another nearwire process has started. Apart from the commands of users, so that
/// neither the manual nor completions know of it.
#[derive(Debug, Parser)]
struct Errand {
    #[command(flatten)]
    verbosity: logging::Verbosity,
    #[command(subcommand)]
    errand: ErrandCommand,
}

#[derive(Debug, Subcommand)]
enum ErrandCommand {
    #[command(name = process::SUBCOMMAND)]
    Child(process::ChildArguments),
}

/// Whether this process was started by a measurement, which runs its own executable again; if so,
/// it plays its part to the end. Whoever measures begins its `main` with it.
pub fn play_role() -> Option<ExitCode> {
    play(|_| None)
}

/// As [`play_role`], with these roles and the usual ones.
fn play(roles: impl FnOnce(&str) -> Option<process::Role>) -> Option<ExitCode> {
    let is_errand = std::env::args()
        .nth(1)
        .is_some_and(|argument| argument == process::SUBCOMMAND);
    if !is_errand {
        return None;
    }
    let Errand { verbosity, errand } = Errand::parse();
    verbosity.apply();
    let ErrandCommand::Child(arguments) = errand;
    let known = |name: &str| roles(name).or_else(|| role(name));
    Some(exit_code(process::be_child(&arguments, known), None))
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Errand;
    use crate::Arguments;

    /// Every line below an "Examples:" is one that this command understands. (Elsewhere some are not
    /// commands.)
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
    fn the_errand_fits_together() {
        Errand::command().debug_assert();
    }
}
