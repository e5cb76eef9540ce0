//! Options that every benchmark takes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

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
    /// Also draw the figures, as an SVG picture: percentile curves of times, bars of what fits
    /// into a second.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file)]
    pub plot: Option<PathBuf>,
}

/// Reads the name of a picture, before hours are spent on measuring what cannot be drawn.
fn svg_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_none_or(|extension| extension != "svg") {
        return Err("a file name that ends with .svg: no other pictures are drawn".to_owned());
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(format!("there is no directory {}", parent.display()))
        }
        _ => Ok(path),
    }
}

/// How long to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Thoroughness {
    /// Shorter runs: figures to within some ten per cent.
    #[arg(long)]
    pub quick: bool,
    /// Seconds that each run of each operation takes.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds_per: Option<f64>,
    /// Runs of each operation.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("0.001 to 3600 seconds".to_owned()),
    }
}

impl Thoroughness {
    /// The budget of one run: `usual` unless the options say otherwise, a quarter of that if quick.
    pub fn budget(&self, usual: Duration) -> Budget {
        Budget::of(match self.seconds_per {
            Some(seconds) => Duration::from_secs_f64(seconds),
            None if self.quick => usual / 4,
            None => usual,
        })
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
