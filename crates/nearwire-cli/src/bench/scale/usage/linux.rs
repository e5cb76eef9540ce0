//! As `/proc` says.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Ticks;
pub(super) use super::unix::most_descriptors;

pub(super) const STRAY_DESCRIPTORS: usize = 0;

pub(super) const CPU_TIME_STEPS: &str = "";

pub(super) const SHARED_PAGES: &str = "shared pages counted once";

fn gone(process: u32) -> impl FnOnce() -> String {
    move || format!("process {process} is gone")
}

pub(super) fn cpu_time(process: u32) -> Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).with_context(gone(process))?;
    let mut total = Duration::ZERO;
    for task in tasks {
        // A thread may end meanwhile.
        let account = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let on_cpu = account.split_whitespace().next();
        total += Duration::from_nanos(on_cpu.and_then(|time| time.parse().ok()).unwrap_or(0));
    }
    Ok(total)
}

pub(super) fn resident(process: u32) -> Result<u64> {
    let rollup = read(process, "smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("the kernel does not tell the memory")? << 10)
}

pub(super) fn descriptors(process: u32) -> Result<Option<usize>> {
    let entries = fs::read_dir(format!("/proc/{process}/fd"));
    Ok(Some(entries.with_context(gone(process))?.count()))
}

pub(super) fn mappings(process: u32) -> Result<Option<usize>> {
    Ok(Some(read(process, "maps")?.lines().count()))
}

fn read(process: u32, file: &str) -> Result<String> {
    let text: io::Result<String> = fs::read_to_string(format!("/proc/{process}/{file}"));
    text.with_context(gone(process))
}

pub(super) fn most_mappings() -> Option<usize> {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    limit.trim().parse().ok()
}

pub(super) fn ticks() -> Option<Ticks> {
    parse_ticks(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_ticks(account: &str) -> Option<Ticks> {
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
    Some(Ticks {
        busy,
        all: busy + idle + waiting,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_shows_in_descriptors() {
        let process = std::process::id();
        let now = || descriptors(process).unwrap().unwrap();
        let before = now();
        let files: Vec<fs::File> = (0..50)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        // Other tests of this process open and close some as well.
        assert!(now() + 25 > before + files.len());
        assert!(now() <= most_descriptors().unwrap());
        assert!(mappings(process).unwrap() > Some(3));
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        let ticks = |line: &str| parse_ticks(line).unwrap();
        let before = ticks("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let after = ticks("cpu  30 5 15 160 10 0 0 0 7 0\n");
        assert_eq!(after.busy_since(before), 0.3);
        assert!(parse_ticks("cpu 1 2 3").is_none());
    }
}
