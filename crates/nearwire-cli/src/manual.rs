//! The manual pages and the shells' completions, made from the same description of the command
//! that reads its arguments.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueHint;
use clap_complete::Shell;
use clap_mangen::Man as Man1;

use crate::output::print_bytes;

/// Print a manual page, or write all of them into a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire man | man -l -
  nearwire man bench latency | man -l -
  nearwire man --all /usr/local/share/man/man1")]
pub struct Man {
    /// The command that the page is about [default: nearwire itself].
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory, which must exist.
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath,
          conflicts_with = "command")]
    all: Option<PathBuf>,
}

impl Man {
    /// Prints or writes.
    ///
    /// # Errors
    /// If there is no such command, or a page cannot be written.
    pub fn run(&self, mut nearwire: clap::Command) -> Result<()> {
        // Fills in names such as nearwire-bench-latency.
        nearwire.build();
        if let Some(directory) = &self.all {
            return write_all(&nearwire, directory);
        }
        let mut command = &nearwire;
        for name in &self.command {
            let inner = inner(command).find(|inner| inner.get_name() == name);
            let Some(inner) = inner else {
                let names: Vec<&str> = self::inner(command).map(|c| c.get_name()).collect();
                bail!(
                    "there is no command {name:?}; there are: {}",
                    names.join(", ")
                );
            };
            command = inner;
        }
        print_bytes(page(command)?.as_bytes())
    }
}

/// The commands of a command that have pages.
fn inner(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
}

fn name(command: &clap::Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn write_all(command: &clap::Command, directory: &Path) -> Result<()> {
    let path = directory.join(format!("{}.1", name(command)));
    std::fs::write(&path, page(command)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    inner(command).try_for_each(|inner| write_all(inner, directory))
}

/// A page in the language of man, with the help's examples as they stand there.
fn page(command: &clap::Command) -> Result<String> {
    let man = Man1::new(command.clone())
        .title(name(command).to_uppercase())
        .source(concat!("nearwire ", env!("CARGO_PKG_VERSION")))
        .manual("Nearwire");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if inner(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8(page)?;
    if let Some(help) = command.get_after_help() {
        let help = help.to_string();
        let examples: Vec<&str> = help
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .collect();
        page += &format!(
            ".SH EXAMPLES\n.nf\n{}\n.fi\n",
            escaped(&examples.join("\n"))
        );
    }
    page +=
        ".SH \"EXIT STATUS\"\n0: done. 1: it failed, standard error says why. 2: called wrongly.\n";
    page += ".SH ENVIRONMENT\n.TP\nNEARWIRE_DIR\nWhere servers' sockets lie; without it, \
             $XDG_RUNTIME_DIR/nearwire, else /tmp/nearwire\\-UID.\n.TP\nRUST_LOG\nWhat is logged, \
             for example nearwire=debug.\n";
    Ok(page)
}

/// Text that means nothing to man.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line = |line: &str| match line.chars().next() {
        Some('.' | '\'') => format!("\\&{line}"),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Print what a shell needs in order to complete this command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire completions bash > ~/.local/share/bash-completion/completions/nearwire
  nearwire completions zsh > ~/.zfunc/_nearwire
  nearwire completions fish > ~/.config/fish/completions/nearwire.fish")]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    /// Prints.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn run(&self, mut nearwire: clap::Command) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut nearwire, "nearwire", &mut script);
        print_bytes(&script)
    }
}
