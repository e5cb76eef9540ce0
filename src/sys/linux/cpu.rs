//! Processors: the heavy half of an asymmetric fence, affinity, time.

use crate::sys::Placement;
use rustix::thread::{CpuSet, MembarrierCommand, MembarrierQuery};
use std::io;
use std::sync::OnceLock;

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

#[cfg(test)]
mod tests {
    use super::*;

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
