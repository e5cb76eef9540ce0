//! `nearwire bench`: figures, each with what it is measured against.

mod calls;
pub mod floor;
mod latency;
pub mod pool;
pub mod ring;
pub mod scale;
mod throughput;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    Latency(latency::Latency),
    Throughput(throughput::Throughput),
    Ring(ring::Ring),
    Scale(scale::Scale),
    Pool(pool::Bench),
    /// What the hardware and the kernel give, whoever asks.
    Floor(floor::Floor),
}

impl Bench {
    /// The server that it was told to use.
    pub fn server(&self) -> Option<&str> {
        match self {
            Self::Latency(latency) => latency.server(),
            Self::Throughput(throughput) => throughput.server(),
            Self::Ring(_) | Self::Scale(_) | Self::Pool(_) | Self::Floor(_) => None,
        }
    }

    /// Measures and prints.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Latency(latency) => latency.run(),
            Self::Throughput(throughput) => throughput.run(),
            Self::Ring(ring) => ring.run(),
            Self::Scale(scale) => scale.run(),
            Self::Pool(pool) => pool.run(),
            Self::Floor(floor) => floor.run(),
        }
    }
}
