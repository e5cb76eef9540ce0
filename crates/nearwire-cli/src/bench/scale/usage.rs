//! What a process uses, as the kernel says.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};

/// CPU time of all threads of a process so far.
#[cfg(target_os = "linux")]
pub fn cpu_time(process: u32) -> Result<Duration> {
    let gone = || format!("process {process} is gone");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{process}/task")).with_context(gone)? {
        // A thread may end meanwhile.
        let account = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let on_cpu = account.split_whitespace().next();
        total += Duration::from_nanos(on_cpu.and_then(|time| time.parse().ok()).unwrap_or(0));
    }
    Ok(total)
}

/// Resident memory of a process in bytes. Of pages that it shares it has its share only, so that
/// the memory of several processes adds up.
#[cfg(target_os = "linux")]
pub fn resident(process: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .with_context(|| format!("process {process} is gone"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("the kernel does not tell the memory")? << 10)
}

/// Descriptors that a process has open.
pub(super) fn descriptors(process: u32) -> Result<usize> {
    entries(&format!("/proc/{process}/fd"), process)
}

/// Ranges of memory that a process has mapped; each side of a connection maps two segments.
pub(super) fn mappings(process: u32) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"));
    Ok(maps
        .with_context(|| format!("process {process} is gone"))?
        .lines()
        .count())
}

fn entries(directory: &str, process: u32) -> Result<usize> {
    let entries = fs::read_dir(directory);
    Ok(entries
        .with_context(|| format!("process {process} is gone"))?
        .count())
}

/// Descriptors that this process may have, and its children too.
pub(super) fn most_descriptors() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| limit as usize)
}

/// Ranges that a process may have mapped, if the kernel says so.
pub(super) fn most_mappings() -> Option<usize> {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    limit.trim().parse().ok()
}

/// What all CPUs did so far, in ticks of the kernel's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    /// As the kernel says now.
    pub(super) fn now() -> Result<Self> {
        let account = fs::read_to_string("/proc/stat").context("there is no /proc/stat")?;
        Self::parse(&account).context("the kernel does not tell what the CPUs do")
    }

    fn parse(account: &str) -> Option<Self> {
        let line = account.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|ticks| ticks.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
        let [user, nice, system, idle, waiting, irq, soft_irq, stolen, ..] = ticks[..] else {
            return None;
        };
        let busy = user + nice + system + irq + soft_irq + stolen;
        Some(Self {
            busy,
            all: busy + idle + waiting,
        })
    }

    /// The part of the time since `before` in which CPUs were busy, whoever it was: 0 to 1.
    pub(super) fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        self.busy.saturating_sub(before.busy) as f64 / all.max(1) as f64
    }
}

/// CPU time of all threads of a process so far, to the hundredth of a second.
#[cfg(not(target_os = "linux"))]
pub fn cpu_time(process: u32) -> Result<Duration> {
    let told = told_by_ps(process, "time=")?;
    parse_time(&told).with_context(|| format!("ps says {told} for a time"))
}

/// Resident memory of a process in bytes, with all of the pages that it shares.
#[cfg(not(target_os = "linux"))]
pub fn resident(process: u32) -> Result<u64> {
    let told = told_by_ps(process, "rss=")?;
    let kibibytes: u64 = told
        .parse()
        .with_context(|| format!("ps says {told} for a size"))?;
    Ok(kibibytes << 10)
}

/// The system's own call for this needs unsafe code, crates for it need frameworks of which only a
/// Mac has the stubs to link with.
#[cfg(not(target_os = "linux"))]
fn told_by_ps(process: u32, what: &str) -> Result<String> {
    let output = std::process::Command::new("ps")
        .args(["-o", what, "-p", &process.to_string()])
        .output()
        .context("cannot run ps")?;
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    anyhow::ensure!(!told.is_empty(), "process {process} is gone");
    Ok(told)
}

/// A time as `ps` writes it: minutes, seconds and hundredths, or hours before them.
#[cfg(any(test, not(target_os = "linux")))]
fn parse_time(told: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    for part in told.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let process = std::process::id();
        let before = cpu_time(process).unwrap();
        let memory = vec![1u8; 32 << 20];
        // Most of a page's first touch is the kernel's time, which counts as well.
        assert!(cpu_time(process).unwrap() > before);
        assert!(resident(process).unwrap() >= memory.len() as u64);
    }

    #[test]
    fn every_connection_shows_in_descriptors() {
        let process = std::process::id();
        let before = descriptors(process).unwrap();
        let files: Vec<fs::File> = (0..50)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        // Other tests of this process open and close some as well.
        assert!(descriptors(process).unwrap() + 25 > before + files.len());
        assert!(descriptors(process).unwrap() <= most_descriptors());
        assert!(mappings(process).unwrap() > 3);
    }

    #[test]
    fn times_of_ps_are_understood() {
        let millis = |told| Some(parse_time(told)?.as_millis());
        assert_eq!(millis("0:00.07"), Some(70));
        assert_eq!(millis("125:03.50"), Some(7_503_500));
        assert_eq!(millis("01:00:02"), Some(3_602_000));
        for nonsense in ["", "-", "1:", "-1:00"] {
            assert_eq!(millis(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        let ticks = |line: &str| Ticks::parse(line).unwrap();
        let before = ticks("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = ticks("cpu  30 5 15 160 10 0 0 0 7 0\n");
        assert_eq!(after.busy_since(before), 0.3);
        assert_eq!(before.busy_since(before), 0.0);
        assert!(Ticks::parse("cpu 1 2 3").is_none());
        assert!(Ticks::now().is_ok());
    }
}
