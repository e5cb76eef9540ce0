//! How far apart the two cores are right now.
//!
//! Virtual CPUs move: the same two may share a core, a cache or nothing from one minute to the next,
//! and every figure of two spinning processes moves with them, by up to a factor of ten. So each run
//! of a spinning operation stands between two readings of one and the same cheap operation, a
//! cache-line ping-pong, and only runs with like readings are compared.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nearwire_floor::ping_pong::PingPong;
use serde::{Deserialize, Serialize};

use super::{Budget, latency};
use crate::process::{Child, Parent, Placement};

/// The role of the probe's far side.
pub const PROBE_ROLE: &str = "probe";

/// Round trips slower than this, in nanoseconds, have left the cache that near cores share.
const FAR_NS: f64 = 200.0;

/// Round trips slower than this took turns on one core, or waited for others to leave it.
const CROWDED_NS: f64 = 5_000.0;

/// Readings within this factor of each other count as the same placement.
const SAME: f64 = 1.4;

/// How far apart two cores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// One core, or two that share a cache: a round trip below 200 ns.
    Near,
    /// Two that share none.
    Far,
    /// The readings before and after differ.
    Moved,
    /// The two sides had less than a core each: a round trip above 5 µs, or they took turns
    /// on one during the run. Such a figure says nothing about the cores, and nothing is
    /// compared with it.
    Crowded,
}

impl fmt::Display for Distance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Moved => "moved",
            Self::Crowded => "crowded",
        })
    }
}

impl Distance {
    /// What two readings, in nanoseconds per round trip, say.
    pub fn between(before: f64, after: f64) -> Self {
        if before.max(after) > CROWDED_NS {
            Self::Crowded
        } else if !alike([before, after]) {
            Self::Moved
        } else if before.max(after) < FAR_NS {
            Self::Near
        } else {
            Self::Far
        }
    }
}

/// Whether readings, in nanoseconds per round trip, come from one placement, with a core for each side.
pub(super) fn alike(readings: impl IntoIterator<Item = f64>) -> bool {
    let (mut least, mut most) = (f64::INFINITY, 0.0f64);
    for reading in readings {
        least = least.min(reading);
        most = most.max(reading);
    }
    most <= CROWDED_NS && most <= least * SAME
}

/// A process that sleeps, and plays ping-pong when asked to.
pub struct Probe {
    child: Child,
    /// The CPU of this side, if it is not the calling thread's.
    here: Option<usize>,
    /// What the last reading said, if nothing but a run stands between it and the next one.
    last: Option<f64>,
}

/// The probe's readings around a run, in nanoseconds per round trip of a cache line.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bracket {
    /// Just before.
    pub before_ns: f64,
    /// Just after.
    pub after_ns: f64,
    /// What they say.
    pub distance: Distance,
}

#[derive(Serialize, Deserialize)]
struct Play;

#[derive(Serialize, Deserialize)]
struct Played {
    round_trips: u64,
}

impl Probe {
    /// Starts the other side, on one CPU if `cpu` says so.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(cpu: Option<usize>) -> Result<Self> {
        Self::start_between(None, cpu)
    }

    /// As [`start`](Self::start), and has this side play on a CPU too, for who is not there himself.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_between(here: Option<usize>, there: Option<usize>) -> Result<Self> {
        Ok(Self {
            child: Child::start(PROBE_ROLE, there)?.vital()?,
            here,
            last: None,
        })
    }

    /// Runs something between two readings. The one behind it serves the next run as well.
    ///
    /// # Errors
    /// Those of the run, or if memory cannot be shared.
    pub fn bracket<T>(&mut self, run: impl FnOnce() -> Result<T>) -> Result<(T, Bracket)> {
        let before_ns = match self.last.take() {
            Some(reading) => reading,
            None => self.read()?,
        };
        let result = run()?;
        let after_ns = self.read()?;
        self.last = Some(after_ns);
        let bracket = Bracket {
            before_ns,
            after_ns,
            distance: Distance::between(before_ns, after_ns),
        };
        Ok((result, bracket))
    }

    /// Time goes by that is in no bracket: the last reading does not serve the next run.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Nanoseconds per round trip of a cache line, now: the median over some milliseconds.
    ///
    /// # Errors
    /// If memory cannot be shared.
    pub fn read(&mut self) -> Result<f64> {
        let (mut ping_pong, descriptors) = PingPong::create()?;
        self.child.channel().send_with(&Play, &descriptors)?;
        let budget = Budget {
            warm_up: Duration::from_micros(500),
            run: Duration::from_millis(3),
        };
        let mut play = || {
            latency(budget, || {
                ping_pong.round_trip();
                Ok(())
            })
        };
        let measured = match self.here {
            None => play()?,
            Some(cpu) => std::thread::scope(|scope| {
                let pinned = scope.spawn(|| {
                    Placement::pin(cpu);
                    play()
                });
                pinned.join().map_err(|_| anyhow!("the probe panicked"))?
            })?,
        };
        ping_pong.stop();
        self.child
            .channel()
            .receive::<Played>()
            .context("the probe did not answer")?;
        Ok(measured.typical_ns)
    }
}

/// The role of the probe's far side.
///
/// # Errors
/// If memory cannot be shared.
pub fn answer_probes(parent: Parent) -> Result<()> {
    while let Some((Play, descriptors)) = parent.channel().next()? {
        let round_trips = PingPong::open(descriptors)?.answer();
        parent.channel().send(&Played { round_trips })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_follow_the_readings() {
        assert_eq!(Distance::between(50.0, 60.0), Distance::Near);
        assert_eq!(Distance::between(400.0, 410.0), Distance::Far);
        assert_eq!(Distance::between(50.0, 400.0), Distance::Moved);
        assert_eq!(Distance::between(55.0, 100.0), Distance::Moved);
        assert_eq!(Distance::between(55.0, 1e7), Distance::Crowded);
    }

    #[test]
    fn crowded_readings_are_not_even_like_each_other() {
        assert!(alike([50.0, 60.0]));
        assert!(!alike([50.0, 400.0]));
        assert!(!alike([1e7, 1e7]));
        assert!(alike([]));
    }
}
