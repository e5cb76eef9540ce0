//! What round trips took, over Nearwire and over a Unix socket.

use serde::{Deserialize, Serialize};

use crate::measure::{Latency, RatioFigures, median};

/// Round trips of one size, run by run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RoundTrips {
    /// Bytes of a request, and of its reply.
    pub(super) bytes: usize,
    pub(super) nearwire: Vec<Latency>,
    pub(super) unix_socket: Vec<Latency>,
}

/// A way's runs in one line: medians over the runs, but for the greatest time of all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Round trips that were timed.
    pub(super) round_trips: u64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    pub(super) p999_ns: f64,
    pub(super) max_ns: u64,
    pub(super) mean_ns: f64,
}

impl Summary {
    pub(super) fn of(runs: &[Latency]) -> Self {
        let middle = |figure: fn(&Latency) -> f64| median(runs.iter().map(figure));
        Self {
            round_trips: runs.iter().map(|run| run.operations).sum(),
            p50_ns: middle(|run| run.p50_ns as f64),
            p99_ns: middle(|run| run.p99_ns as f64),
            p999_ns: middle(|run| run.p999_ns as f64),
            max_ns: runs.iter().map(|run| run.max_ns).max().unwrap_or(0),
            mean_ns: middle(|run| run.mean_ns),
        }
    }
}

impl RoundTrips {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            nearwire: Vec::new(),
            unix_socket: Vec::new(),
        }
    }

    /// How many times faster Nearwire was, by the median round trip of each run and the socket's
    /// run right after it.
    pub(super) fn speed_up(&self) -> RatioFigures {
        let pairs = self.nearwire.iter().zip(&self.unix_socket);
        RatioFigures::of(pairs.map(|(near, unix)| unix.p50_ns as f64 / near.p50_ns as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(p50_ns: u64) -> Latency {
        Latency {
            operations: 10,
            typical_ns: p50_ns as f64,
            mean_ns: p50_ns as f64,
            p50_ns,
            p90_ns: p50_ns,
            p99_ns: 2 * p50_ns,
            p999_ns: 3 * p50_ns,
            min_ns: 0,
            max_ns: 4 * p50_ns,
            clock_ns: 0.0,
            curve: Vec::new(),
        }
    }

    #[test]
    fn runs_are_compared_with_their_neighbours() {
        let round_trips = RoundTrips {
            bytes: 64,
            nearwire: vec![run(1), run(10), run(2)],
            unix_socket: vec![run(30), run(100), run(100)],
        };
        let speed_up = round_trips.speed_up();
        assert_eq!(
            (speed_up.min, speed_up.median, speed_up.max),
            (10.0, 30.0, 50.0)
        );
        let summary = Summary::of(&round_trips.nearwire);
        assert_eq!(summary.p50_ns, 2.0);
        assert_eq!(summary.p999_ns, 6.0);
        assert_eq!(summary.max_ns, 40);
        assert_eq!(summary.round_trips, 30);
    }
}
