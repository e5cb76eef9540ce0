//! What a process uses, as the kernel says.

#[cfg(target_os = "linux")]
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all threads of a process so far.
#[cfg(target_os = "linux")]
pub(super) fn cpu_time(process: u32) -> Result<Duration> {
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
pub(super) fn resident(process: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
        .with_context(|| format!("process {process} is gone"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("the kernel does not tell the memory")? << 10)
}

/// CPU time of all threads of a process so far, to the millisecond.
#[cfg(not(target_os = "linux"))]
pub(super) fn cpu_time(process: u32) -> Result<Duration> {
    look_at(process, |process| {
        Duration::from_millis(process.accumulated_cpu_time())
    })
}

/// Resident memory of a process in bytes, with all of the pages that it shares.
#[cfg(not(target_os = "linux"))]
pub(super) fn resident(process: u32) -> Result<u64> {
    look_at(process, sysinfo::Process::memory)
}

#[cfg(not(target_os = "linux"))]
fn look_at<T>(process: u32, look: impl FnOnce(&sysinfo::Process) -> T) -> Result<T> {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
    let id = Pid::from_u32(process);
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, what);
    let found = system.process(id);
    Ok(look(
        found.with_context(|| format!("process {process} is gone"))?,
    ))
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
}
