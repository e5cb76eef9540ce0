//! Processors: QoS classes instead of affinity.

use crate::sys::Placement;
use std::io;

/// The processors, ascending.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    Ok((0..std::thread::available_parallelism()?.get()).collect())
}

/// Asks for a fast processor: macOS lets nobody choose which. (`thread_policy_set` with an affinity
/// tag is refused on Apple silicon, and on Intel says only which threads share a cache.)
pub(crate) fn pin_to(_: usize) -> io::Result<Placement> {
    let class = libc::qos_class_t::QOS_CLASS_USER_INTERACTIVE;
    // SAFETY: changes the calling thread's own scheduling class; no memory is involved.
    match unsafe { libc::pthread_set_qos_class_self_np(class, 0) } {
        0 => Ok(Placement::QosClass("user-interactive")),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_reports_what_was_applied() {
        let placed = std::thread::spawn(|| pin_to(0)).join().unwrap().unwrap();
        assert_eq!(placed, Placement::QosClass("user-interactive"));
        assert!(!allowed_cpus().unwrap().is_empty());
    }
}
