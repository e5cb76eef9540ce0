//! As `ps` says: the system's own call for this needs unsafe code, crates for it need frameworks of
//! which only a Mac has the stubs to link with.
#![cfg_attr(
    not(target_os = "macos"),
    expect(dead_code, reason = "its tests run elsewhere, too")
)]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Ticks;
#[cfg(target_os = "macos")]
pub(super) use super::unix::most_descriptors;

pub(super) const STRAY_DESCRIPTORS: usize = 0;

pub(super) const CPU_TIME_STEPS: &str = ", told in steps of 10 ms";

pub(super) const SHARED_PAGES: &str = "shared pages counted in each process";

pub(super) fn cpu_time(process: u32) -> Result<Duration> {
    let told = told_by_ps(process, "time=")?;
    parse_time(&told).with_context(|| format!("ps says {told} for a time"))
}

pub(super) fn resident(process: u32) -> Result<u64> {
    let told = told_by_ps(process, "rss=")?;
    let kibibytes: u64 = told
        .parse()
        .with_context(|| format!("ps says {told} for a size"))?;
    Ok(kibibytes << 10)
}

fn told_by_ps(process: u32, what: &str) -> Result<String> {
    let output = Command::new("ps")
        .args(["-o", what, "-p", &process.to_string()])
        .output()
        .context("cannot run ps")?;
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(!told.is_empty(), "process {process} is gone");
    Ok(told)
}

/// A time as `ps` writes it: minutes, seconds and hundredths, or hours before them.
fn parse_time(told: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    for part in told.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

pub(super) fn descriptors(_: u32) -> Result<Option<usize>> {
    Ok(None)
}

pub(super) fn mappings(_: u32) -> Result<Option<usize>> {
    Ok(None)
}

pub(super) fn most_mappings() -> Option<usize> {
    None
}

pub(super) fn ticks() -> Option<Ticks> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn ps_tells_of_this_process() {
        let process = std::process::id();
        let memory = vec![1u8; 32 << 20];
        assert!(resident(process).unwrap() >= memory.len() as u64);
        // Whole seconds, where another system's `ps` is asked.
        assert!(cpu_time(process).unwrap() < Duration::from_secs(600));
        // No process has this number: the largest is less than half of it.
        let gone = cpu_time(u32::MAX / 2).unwrap_err().to_string();
        assert!(gone.ends_with("is gone"), "{gone}");
    }
}
