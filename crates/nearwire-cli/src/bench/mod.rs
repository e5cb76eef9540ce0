//! `nearwire bench`: figures, each with what it is measured against.

mod calls;
mod compare;
pub mod floor;
mod latency;
pub mod pool;
pub mod ring;
pub mod scale;
mod throughput;

use anyhow::Result;
use clap::Subcommand;

/// Measure: the hardware, and what is made of it.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  nearwire bench latency --quick
  nearwire bench --compare mpmc,spsc                # may one go from one transport to another?
  nearwire bench --compare mpmc,spsc --server demo --quick"
)]
pub struct Bench {
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
    #[command(flatten)]
    compare: compare::Compare,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Benchmark {
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
        match &self.benchmark {
            None => self.compare.server(),
            Some(Benchmark::Latency(latency)) => latency.server(),
            Some(Benchmark::Throughput(throughput)) => throughput.server(),
            Some(_) => None,
        }
    }

    /// Measures and prints.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    pub fn run(&self) -> Result<()> {
        match &self.benchmark {
            None => self.compare.run(),
            Some(Benchmark::Latency(latency)) => latency.run(),
            Some(Benchmark::Throughput(throughput)) => throughput.run(),
            Some(Benchmark::Ring(ring)) => ring.run(),
            Some(Benchmark::Scale(scale)) => scale.run(),
            Some(Benchmark::Pool(pool)) => pool.run(),
            Some(Benchmark::Floor(floor)) => floor.run(),
        }
    }
}
