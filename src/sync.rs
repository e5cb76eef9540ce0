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

/// Locks, whoever may have panicked before.
///
/// Under loom a thread that blocks here is off its processor, so that heavy fences need not wait for it.
#[inline(always)]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(loom)]
    return processors::idle(|| mutex.lock().unwrap_or_else(|e| e.into_inner()));
    #[cfg(not(loom))]
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Tells the processor that this is a spin loop.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn spin_hint() {
    std::hint::spin_loop();
}

/// Lets other threads run, also those that the system holds to be less urgent than this one.
#[inline]
pub(crate) fn rest() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(all(test, shuttle, not(loom)))]
    shuttle::thread::yield_now();
    #[cfg(not(any(loom, all(test, shuttle))))]
    std::thread::sleep(std::time::Duration::from_micros(50));
}
