//! Processors: the heavy half of an asymmetric fence, affinity, time.

use crate::sys::Placement;
use rustix::thread::{CpuSet, MembarrierCommand, MembarrierQuery};
use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// Makes this process a target of other processes' heavy fences. Returns whether that worked; if
/// not, this process must fence for itself. Does its work once per process.
pub(crate) fn register_for_heavy_fences() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| {
        can_fence_heavily()
            && rustix::thread::membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
    })
}

/// Whether [`heavy_fence`] can be had on this system.
fn can_fence_heavily() -> bool {
    static OFFERED: OnceLock<bool> = OnceLock::new();
    *OFFERED.get_or_init(|| {
        rustix::thread::membarrier_query().contains(
            MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED,
        )
    })
}

/// A full fence on this processor and on every processor that runs a registered process.
///
/// Between two registered processes this replaces the full fence on both sides: the side that
/// calls this pays (a system call and interrupts to running registered processes), the other side
/// needs only to keep the compiler from reordering. Returns whether the fence took place.
pub(crate) fn heavy_fence() -> bool {
    rustix::thread::membarrier(MembarrierCommand::GlobalExpedited).is_ok()
}

/// The processors that this thread may run on (cgroup and affinity applied), ascending.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Pins this thread to one processor. Returns what the system reports afterwards.
pub(crate) fn pin_to(cpu: usize) -> io::Result<Placement> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no processor {cpu}"),
        ));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)?;
    allowed_cpus().map(Placement::Processors)
}

/// How long a thread was kept from running: it could have run, and others did. The default one does not know.
#[derive(Debug, Default)]
pub(crate) struct RunDelay {
    /// Time on a processor, time in the queue for one, and how often; absent without `/proc`.
    schedstat: Option<File>,
}

impl RunDelay {
    /// Of the calling thread, which may be asked by any.
    pub(crate) fn of_this_thread() -> Self {
        Self {
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
        }
    }

    /// Since the thread began. `None` if the system does not tell.
    pub(crate) fn so_far(&self) -> Option<Duration> {
        let mut text = [0; 64];
        let len = rustix::io::pread(self.schedstat.as_ref()?, &mut text, 0).ok()?;
        let mut fields = text[..len].split(|byte| *byte == b' ');
        let nanos = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        Some(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_processor_is_told_for_how_long() {
        let cpu = allowed_cpus().unwrap()[0];
        let rivals = [(); 2].map(|()| {
            std::thread::spawn(move || {
                pin_to(cpu).unwrap();
                let delay = RunDelay::of_this_thread();
                let before = delay.so_far()?;
                // Of two that never rest, each waits for the other.
                let start = std::time::Instant::now();
                while delay.so_far()? == before && start.elapsed() < Duration::from_secs(30) {}
                Some(delay.so_far()? > before)
            })
        });
        for rival in rivals {
            assert_ne!(rival.join().unwrap(), Some(false));
        }
    }

    #[test]
    fn pinning_reports_what_was_applied() {
        std::thread::spawn(|| {
            let allowed = allowed_cpus().unwrap();
            let last = *allowed.last().unwrap();
            assert_eq!(pin_to(last).unwrap(), Placement::Processors(vec![last]));
            assert!(pin_to(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_registered_process_can_fence() {
        if can_fence_heavily() {
            assert!(register_for_heavy_fences());
            assert!(heavy_fence());
        }
    }
}
