//! What stands in for the commands that do their work on Unix only.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// See it work (on Unix only).
#[derive(Debug, clap::Args)]
pub struct Demo {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl Demo {
    /// # Errors
    /// Always.
    pub fn run(&self) -> Result<()> {
        cannot_run("demo")
    }
}

/// Measure (on Unix only).
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl Bench {
    /// # Errors
    /// Always.
    pub fn run(&self) -> Result<()> {
        cannot_run("bench")
    }

    /// None is used.
    pub fn server(&self) -> Option<&str> {
        None
    }
}

/// No process is started here that would have a part to play.
pub fn play_role() -> Option<ExitCode> {
    None
}

fn cannot_run(command: &str) -> Result<()> {
    bail!("`nearwire {command}` runs on Linux and macOS only: its processes talk over Unix sockets")
}
