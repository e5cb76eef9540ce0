//! The atomics that the algorithms are written in: the real ones, or loom's under `--cfg loom`.

#[cfg(loom)]
pub(crate) mod processors;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

// What threads of one process share. Under `--cfg shuttle` its scheduler decides, at each of these,
// who goes on.
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicBool};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicBool};
#[cfg(not(any(loom, all(test, shuttle))))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicBool};

/// Stops the compiler, not the processor, from moving accesses across this point.
///
/// Used where the processor's fence is supplied by the other side ([`crate::sys::heavy_fence`]).
/// Under loom such fences come from `processors`.
#[inline(always)]
pub(crate) fn compiler_fence() {
    #[cfg(loom)]
    processors::compiler_fence();
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Tells the processor that this is a spin loop.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn spin_hint() {
    std::hint::spin_loop();
}
