//! Options that every benchmark takes.

use std::time::Duration;

use anyhow::{Result, bail};

use super::Budget;
use crate::process::two_cpus;

/// Options that every benchmark takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub thoroughness: Thoroughness,
    /// Put the two sides on a CPU each.
    #[arg(long)]
    pub pin: bool,
}

/// How long to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Thoroughness {
    /// Shorter runs: figures to within some ten per cent.
    #[arg(long)]
    pub quick: bool,
    /// Seconds that each run of each operation takes.
    #[arg(long, value_name = "S")]
    pub seconds_per: Option<f64>,
    /// Runs of each operation.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

impl Thoroughness {
    /// The budget of one run: `usual` unless the options say otherwise, a quarter of that if quick.
    ///
    /// # Errors
    /// If the seconds asked for are not between 0.001 and 3600.
    pub fn budget(&self, usual: Duration) -> Result<Budget> {
        Ok(Budget::of(match self.seconds_per {
            Some(seconds) if (0.001..=3600.0).contains(&seconds) => {
                Duration::from_secs_f64(seconds)
            }
            Some(seconds) => bail!("--seconds-per takes 0.001 to 3600, not {seconds}"),
            None if self.quick => usual / 4,
            None => usual,
        }))
    }
}

impl Options {
    /// The CPUs of this side and of the other, if they are to be pinned.
    ///
    /// # Errors
    /// If there are not two CPUs to pin to.
    pub fn cpus(&self) -> Result<(Option<usize>, Option<usize>)> {
        if !self.pin {
            return Ok((None, None));
        }
        let (here, there) = two_cpus()?;
        Ok((Some(here), Some(there)))
    }
}
