//! As the system's calls say, through a crate: they need unsafe code.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessesToUpdate, System};

use super::Ticks;

/// The system's own threads in a process have some, whoever is connected.
pub(super) const STRAY_DESCRIPTORS: usize = 32;

pub(super) const CPU_TIME_STEPS: &str = ", told in steps of up to 15.6 ms";

pub(super) const SHARED_PAGES: &str = "shared pages counted in each process";

/// Wine tells that of this process, whichever it is asked about.
pub(super) fn cpu_time(process: u32) -> Result<Duration> {
    let kind = ProcessRefreshKind::nothing().with_cpu();
    let told = ask(process, kind, |told| told.accumulated_cpu_time())?;
    Ok(Duration::from_millis(told))
}

pub(super) fn resident(process: u32) -> Result<u64> {
    let kind = ProcessRefreshKind::nothing().with_memory();
    let told = ask(process, kind, Process::memory)?;
    ensure!(
        told > 0,
        "the system does not tell the memory of process {process}"
    );
    Ok(told)
}

pub(super) fn descriptors(process: u32) -> Result<Option<usize>> {
    let told = ask(process, ProcessRefreshKind::nothing(), Process::open_files)?;
    // Wine does not count, and says 0.
    Ok(told.filter(|&count| count > 0))
}

fn ask<T>(process: u32, kind: ProcessRefreshKind, what: impl FnOnce(&Process) -> T) -> Result<T> {
    let mut system = System::new();
    let process_id = Pid::from_u32(process);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[process_id]), false, kind);
    let told = system.process(process_id);
    Ok(what(
        told.with_context(|| format!("process {process} is gone"))?,
    ))
}

pub(super) fn mappings(_: u32) -> Result<Option<usize>> {
    Ok(None)
}

/// There is no limit.
pub(super) fn most_descriptors() -> Option<usize> {
    None
}

pub(super) fn most_mappings() -> Option<usize> {
    None
}

pub(super) fn ticks() -> Option<Ticks> {
    None
}
