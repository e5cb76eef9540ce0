//! `nearwire bench`: figures, each with what it is measured against.

pub mod floor;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What the hardware and the kernel give, whoever asks.
    Floor(floor::Floor),
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Floor(floor) => floor.run(),
        }
    }
}
