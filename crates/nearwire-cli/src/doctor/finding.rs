//! What a check has found, and how it is told.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::measure::Machine;
use crate::output::{print_json, print_text};

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but slower, or for less than was asked for.
    Warn,
    /// It does not work.
    Fail,
}

/// What one check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; always there if it is not ok.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            found: found.into(),
            advice: None,
        }
    }

    /// It works, but could be better.
    pub fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Warn,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    /// It does not work.
    pub fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Fail,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }
}

/// All findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command's version.
    nearwire: &'static str,
    machine: Machine,
    checks: Vec<Finding>,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that could be better.
    warned: usize,
}

impl Report {
    /// Counts what is bad about this machine.
    pub fn new(checks: Vec<Finding>) -> Self {
        let count = |level| checks.iter().filter(|check| check.level == level).count();
        Self {
            nearwire: env!("CARGO_PKG_VERSION"),
            machine: Machine::here(),
            failed: count(Level::Fail),
            warned: count(Level::Warn),
            checks,
        }
    }

    /// Prints to standard output, as JSON or as lines.
    ///
    /// # Errors
    /// [`OutputError`](crate::output::OutputError) if the output cannot be written.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            print_json(self)
        } else {
            print_text(&self.text()?)
        }
    }

    fn text(&self) -> Result<String> {
        let mut text = format!("nearwire {} on {}\n\n", self.nearwire, self.machine);
        let widest = self.checks.iter().map(|check| check.check.len()).max();
        let width = widest.unwrap_or(0);
        for Finding {
            check,
            level,
            found,
            advice,
        } in &self.checks
        {
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            writeln!(text, "{level:<4}  {check:<width$}  {found}")?;
            if let Some(advice) = advice {
                writeln!(text, "{:<4}  {:<width$}  -> {advice}", "", "")?;
            }
        }
        writeln!(
            text,
            "\n{} ok, {} warn, {} fail",
            self.checks.len() - self.failed - self.warned,
            self.warned,
            self.failed
        )?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let report = Report::new(vec![
            Finding::ok("short", "well"),
            Finding::warn("a longer name", "not so well", "do this"),
            Finding::fail("x", "bad", "do that"),
        ]);
        let text = report.text().unwrap();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "ok    short          well",
                "warn  a longer name  not so well",
                "                     -> do this",
                "fail  x              bad",
                "                     -> do that",
                "",
                "1 ok, 1 warn, 1 fail",
            ]
        );
    }
}
