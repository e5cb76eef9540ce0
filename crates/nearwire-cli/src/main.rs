//! The `nearwire` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    nearwire_cli::main()
}
