//! What the examples have in common: the messages of those whose two ends are programs of their
//! own, and the way in which they end.
//!
//! Each program in `src/bin` does a job; `tests` runs them as users do.

pub mod plugins;
pub mod search;
pub mod traces;
