//! Processes that other nearwire processes start: what each of them does.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{baseline, bench, demo, exit_code, logging, measure, process, serve};

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
pub(crate) fn play(roles: impl FnOnce(&str) -> Option<process::Role>) -> Option<ExitCode> {
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
        #[cfg(target_os = "linux")]
        baseline::slots::SLOTS_ROLE => baseline::slots::serve_slots,
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
    use clap::CommandFactory;

    use super::Errand;

    #[test]
    fn the_errand_fits_together() {
        Errand::command().debug_assert();
    }
}
