//! What a process uses, as the system says. What a system does not tell is `None`.

use std::time::Duration;

use anyhow::Result;

#[cfg(target_os = "linux")]
mod linux;
// Its `ps` is asked elsewhere, too, in tests.
#[cfg(any(target_os = "macos", all(test, unix)))]
mod macos;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(target_os = "macos")]
use macos as os;
#[cfg(windows)]
use windows as os;

/// What opens what a connection needs, in the plural.
pub(super) const DESCRIPTORS: &str = if cfg!(windows) {
    "handles"
} else {
    "descriptors"
};

/// Descriptors by which a process may have more than before, with nobody to have left them.
pub(super) const STRAY_DESCRIPTORS: usize = os::STRAY_DESCRIPTORS;

/// How pages count in [`resident`] that processes share, in words.
pub(super) const SHARED_PAGES: &str = os::SHARED_PAGES;

/// Where [`cpu_time`] is told in steps that show in short runs: those, in words that go on a sentence.
pub(super) const CPU_TIME_STEPS: &str = os::CPU_TIME_STEPS;

/// CPU time of all threads of a process so far: Linux in nanoseconds, macOS in steps of 10 ms,
/// Windows in those of its clock tick, up to 15.6 ms.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(process: u32) -> Result<Duration> {
    os::cpu_time(process)
}

/// Resident memory of a process in bytes. Of pages that it shares it has its share only on Linux, so
/// that the memory of several processes adds up; elsewhere all of them.
///
/// # Errors
/// If there is no such process.
pub fn resident(process: u32) -> Result<u64> {
    os::resident(process)
}

/// Descriptors that a process has open; on Windows handles.
pub(super) fn descriptors(process: u32) -> Result<Option<usize>> {
    os::descriptors(process)
}

/// Ranges of memory that a process has mapped; each side of a connection maps two segments.
pub(super) fn mappings(process: u32) -> Result<Option<usize>> {
    os::mappings(process)
}

/// Descriptors that this process may have, and its children too, if there is a limit.
pub(super) fn most_descriptors() -> Option<usize> {
    os::most_descriptors()
}

/// Ranges that a process may have mapped, if the system limits and tells them.
pub(super) fn most_mappings() -> Option<usize> {
    os::most_mappings()
}

/// What all CPUs did so far, in ticks of the kernel's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    /// As the system says now.
    pub(super) fn now() -> Option<Self> {
        os::ticks()
    }

    /// The part of the time since `before` in which CPUs were busy, whoever it was: 0 to 1.
    pub(super) fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        self.busy.saturating_sub(before.busy) as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    /// More than any system's clock needs for the next step.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Bytes that the other process holds.
    const HELD: usize = 32 << 20;

    /// Set in a process that is another test's.
    const ROLE: &str = "NEARWIRE_USAGE_CHILD";

    /// Works meanwhile.
    fn wait_until(mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE);
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(1) {}
        }
    }

    #[test]
    fn this_process_uses_something() {
        let process = std::process::id();
        let before = cpu_time(process).unwrap();
        let memory = vec![1u8; HELD];
        // Most of a page's first touch is the kernel's time, which counts as well.
        wait_until(|| cpu_time(process).unwrap() > before);
        assert!(resident(process).unwrap() >= memory.len() as u64);
    }

    /// Works, and holds memory, until it is told to leave, in a process that another test started.
    #[test]
    fn child_process() {
        if std::env::var_os(ROLE).is_some() {
            let held = vec![1u8; HELD];
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            std::hint::black_box(held);
        }
    }

    /// A process that does so, and when it was started.
    fn start() -> (Child, Instant) {
        let (_, module) = module_path!().split_once("::").unwrap();
        let begun = Instant::now();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::child_process")])
            .env(ROLE, "")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        (child, begun)
    }

    fn finish(mut child: Child) {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn another_process_is_seen_until_it_is_gone() {
        let (child, _) = start();
        let process = child.id();
        wait_until(|| resident(process).unwrap() >= HELD as u64);
        assert!(descriptors(process).unwrap().is_none_or(|count| count > 1));
        assert!(mappings(process).unwrap().is_none_or(|count| count > 3));
        cpu_time(process).unwrap();
        finish(child);
        wait_until(|| cpu_time(process).is_err());
        let gone = format!("process {process} is gone");
        for told in [cpu_time(process).map(drop), resident(process).map(drop)] {
            assert_eq!(told.unwrap_err().to_string(), gone);
        }
        assert!(descriptors(process).map_or(true, |count| count.is_none()));
    }

    #[test]
    fn another_process_has_a_cpu_time_of_its_own() {
        wait_until(|| cpu_time(std::process::id()).unwrap() > Duration::from_secs(1));
        let (child, begun) = start();
        let process = child.id();
        let before = cpu_time(process).unwrap();
        wait_until(|| cpu_time(process).unwrap() > before);
        let told = cpu_time(process).unwrap();
        // No more than both of its threads can have had, and steps of the clock.
        let most = 2 * begun.elapsed() + Duration::from_millis(50);
        assert!(told < most, "{told:?}, at most {most:?}");
        finish(child);
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        let before = Ticks { busy: 20, all: 120 };
        let after = Ticks { busy: 50, all: 220 };
        assert_eq!(after.busy_since(before), 0.3);
        assert_eq!(before.busy_since(before), 0.0);
        assert_eq!(Ticks::now().is_some(), cfg!(target_os = "linux"));
    }
}
