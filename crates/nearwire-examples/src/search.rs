//! The messages of the code-search server.

use serde::{Deserialize, Serialize};

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// A regular expression.
    pub pattern: String,
    /// Take upper and lower case for the same.
    pub ignore_case: bool,
}

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The file, below the server's directory.
    pub path: String,
    /// The line's number, from 1.
    pub line: u64,
    /// The line, without its break.
    pub text: String,
}

/// What the server has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Searches under way.
    pub running: u64,
    /// Searches that came to their end.
    pub finished: u64,
    /// Searches that nobody wanted any more.
    pub cancelled: u64,
    /// Files that were read.
    pub files: u64,
}
