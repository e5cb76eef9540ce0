//! On which CPUs a thread may run: what was asked for, and what the kernel really applied.

use std::fmt;

#[cfg(target_os = "linux")]
use anyhow::Context;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Where a thread runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The CPU that was asked for.
    pub requested: Option<usize>,
    /// The CPUs that the kernel says it may run on; all of them, elsewhere than on Linux.
    pub allowed: Vec<usize>,
    /// Why the kernel refused the request, if it did.
    pub refusal: Option<String>,
}

impl Placement {
    /// Where the calling thread runs now.
    pub fn current() -> Self {
        Self {
            requested: None,
            allowed: allowed_cpus(),
            refusal: None,
        }
    }

    /// Pins the calling thread (and those it starts later) to `cpu`, if the kernel lets it.
    pub fn pin(cpu: usize) -> Self {
        let refusal = restrict(&[cpu]).err().map(|error| format!("{error:#}"));
        Self {
            requested: Some(cpu),
            allowed: allowed_cpus(),
            refusal,
        }
    }

    /// Whether the request was applied.
    pub fn is_pinned(&self) -> bool {
        self.requested.is_some_and(|cpu| self.allowed == [cpu])
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.requested, &self.refusal) {
            (Some(cpu), _) if self.is_pinned() => write!(formatter, "pinned to CPU {cpu}"),
            (Some(cpu), Some(why)) => write!(formatter, "not pinned to CPU {cpu}: {why}"),
            (Some(cpu), None) => {
                write!(formatter, "asked for CPU {cpu}, runs on {:?}", self.allowed)
            }
            (None, _) => write!(formatter, "on any of {} CPUs", self.allowed.len()),
        }
    }
}

/// The CPUs that the calling thread may run on, in ascending order; empty if the kernel won't say.
pub fn allowed_cpus() -> Vec<usize> {
    cpus_of(None)
}

/// The CPUs that a thread may run on, given its id; the calling thread if there is none.
#[cfg(target_os = "linux")]
pub fn cpus_of(thread: Option<i32>) -> Vec<usize> {
    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity};
    let Ok(set) = sched_getaffinity(thread.and_then(Pid::from_raw)) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// The CPUs that a thread may run on: all of them on macOS, where nobody can choose. On Windows
/// somebody may have chosen, and the standard library does not tell.
#[cfg(not(target_os = "linux"))]
pub fn cpus_of(_: Option<i32>) -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(0, usize::from)).collect()
}

/// Two different CPUs for the two ends of a measurement.
///
/// # Errors
/// If this process may run on one CPU only, or chooses none on this system.
pub fn two_cpus() -> Result<(usize, usize)> {
    if !cfg!(target_os = "linux") {
        bail!(NO_CHOICE);
    }
    match allowed_cpus()[..] {
        [first, second, ..] => Ok((first, second)),
        _ => bail!("this process may run on one CPU only: two ends cannot have one each"),
    }
}

/// Runs `work` with the calling thread on `cpu`, and lets it go where it could before.
///
/// # Errors
/// If the kernel refuses either move, or `work` fails.
pub fn run_on<T>(cpu: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = allowed_cpus();
    restrict(&[cpu])?;
    let result = work();
    restrict(&before)?;
    result
}

/// Why a thread stays where it is.
const NO_CHOICE: &str = if cfg!(windows) {
    "on Windows this command does not choose the CPU that a thread runs on"
} else {
    "this system lets nobody choose the CPU that a thread runs on"
};

#[cfg(not(target_os = "linux"))]
fn restrict(_: &[usize]) -> Result<()> {
    bail!(NO_CHOICE)
}

#[cfg(target_os = "linux")]
fn restrict(cpus: &[usize]) -> Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            bail!("there is no CPU {cpu}");
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpus:?}"))
}
