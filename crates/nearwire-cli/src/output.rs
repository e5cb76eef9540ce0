//! Results, on standard output. All else goes to standard error.

use std::fmt;
use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

/// Standard output took no more.
#[derive(Debug)]
pub struct OutputError(pub io::Error);

impl fmt::Display for OutputError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot write the results: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// Writes bytes as they are.
///
/// # Errors
/// [`OutputError`] if they cannot be written.
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map_err(OutputError)?;
    Ok(())
}

/// Writes text, which ends with a line break.
///
/// # Errors
/// [`OutputError`] if it cannot be written.
pub fn print_text(text: &str) -> Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    print_bytes(format!("{text}{end}").as_bytes())
}

/// Writes a value as JSON in one line: one of several.
///
/// # Errors
/// [`OutputError`] if it cannot be written.
pub fn print_json_line(value: &impl Serialize) -> Result<()> {
    print_text(&serde_json::to_string(value)?)
}

/// Writes a value as indented JSON.
///
/// # Errors
/// [`OutputError`] if it cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print_text(&serde_json::to_string_pretty(value)?)
}
