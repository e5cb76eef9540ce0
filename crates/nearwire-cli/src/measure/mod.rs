//! The measuring kit: everything that reads a clock, shared by the floor, the baselines and Nearwire,
//! so that all of them are timed by the very same code.
//!
//! - [`latency()`] and [`throughput()`] time one operation;
//! - [`alternate`] runs several of them in turn, bracketing those that spin with a [`Probe`];
//! - [`Ratio`] compares two of them round by round;
//! - [`Report`] holds it all, and prints it as a table or as JSON.

mod clock;
mod core_share;
mod latency;
mod machine;
mod options;
mod payload;
mod picture;
mod probe;
mod report;
mod rounds;
mod throughput;
mod verdict;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use clock::clock_cost;
pub use clock::{instant_of, monotonic};
pub use core_share::CoreShare;
pub use latency::{Latency, latency, latency_async};
pub use machine::Machine;
pub use options::{Options, Thoroughness};
pub use payload::Payload;
pub use probe::{Bracket, Distance, PROBE_ROLE, Probe, answer_probes};
pub use report::{Report, Section, human, plain_table, right_align};
pub use rounds::{Contender, Ratio, RatioFigures, Run, Series, UNDISTURBED, alternate};
pub use throughput::{Meter, Throughput, throughput};
pub use verdict::{Verdict, verdict_lines};

/// How long one run of one operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Time that is not measured, first.
    pub warm_up: Duration,
    /// Time that is.
    pub run: Duration,
}

impl Budget {
    /// `run`, after a tenth of it as warm-up.
    pub fn of(run: Duration) -> Self {
        Self {
            warm_up: run / 10,
            run,
        }
    }
}

/// The unit of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds per operation; less is better.
    Nanoseconds,
    /// Operations per second; more is better.
    PerSecond,
    /// Bytes of payload per second; more is better.
    BytesPerSecond,
}

/// What one run of one operation gave.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// How long one operation takes.
    Latency(Latency),
    /// How many operations fit into a second.
    Throughput(Throughput),
    /// How many bytes of payload fit into a second.
    Bandwidth(Throughput),
}

impl Measured {
    /// The figure that stands for the run: the median over its blocks.
    pub fn figure(&self) -> f64 {
        match self {
            Self::Latency(latency) => latency.typical_ns,
            Self::Throughput(throughput) => throughput.typical_per_second,
            Self::Bandwidth(throughput) => {
                throughput.typical_per_second * throughput.bytes_each as f64
            }
        }
    }

    /// How many times better the figure is than the mean over the run: above 1 if the run was
    /// interrupted.
    pub fn disturbance(&self) -> f64 {
        match self {
            Self::Latency(latency) => latency.mean_ns / latency.typical_ns,
            Self::Throughput(run) | Self::Bandwidth(run) => {
                run.typical_per_second / run.mean_per_second
            }
        }
    }

    /// The figure's unit.
    pub fn unit(&self) -> Unit {
        match self {
            Self::Latency(_) => Unit::Nanoseconds,
            Self::Throughput(_) => Unit::PerSecond,
            Self::Bandwidth(_) => Unit::BytesPerSecond,
        }
    }
}

/// The middle value (the mean of the two middle ones); `NaN` for nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
