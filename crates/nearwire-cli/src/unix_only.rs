//! Commands that do their work on Unix only.

use std::ffi::OsString;

use anyhow::{Result, bail};

/// A command with whatever arguments it has on Unix.
#[derive(Debug, clap::Args)]
pub struct UnixOnly {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl UnixOnly {
    /// Says that `command` cannot run.
    ///
    /// # Errors
    /// Always.
    pub fn run(&self, command: &str) -> Result<()> {
        bail!(
            "`nearwire {command}` runs on Linux and macOS only: its processes talk over Unix sockets"
        )
    }
}
