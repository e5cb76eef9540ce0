//! Copying bytes that another process may be changing.
//!
//! To the language that is a data race, whatever the bytes are good for; a plain `memcpy` lets the
//! compiler assume that the source holds still (and, say, read it twice). So the copy goes through
//! inline assembly, of which the compiler knows only that it reads and writes memory. On
//! architectures without such a path it goes by relaxed atomic words. Costs are in
//! `docs/IPC_PERFORMANCE_TUNING.md`.

use std::ptr::NonNull;

/// Longest copy that is done by register moves; from here on by `rep movsb`, whose start-up is
/// then paid for.
#[cfg(target_arch = "x86_64")]
const MOVES: usize = 256;

/// Copies `len` bytes from shared memory to private memory.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, and the ranges must not overlap.
/// The source may change during the copy.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn copy_from_shared(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::asm;
    // SAFETY (for every block below): each moves bytes at offsets below `len` from `from` to `to`,
    // which the caller guarantees to be valid; only the named registers and memory change. SSE2 is
    // part of x86-64.
    unsafe {
        if len >= 16 && len <= MOVES {
            let last = len - 16;
            let mut at = 0;
            while at < last {
                asm!(
                    "movups {x}, [{from} + {at}]",
                    "movups [{to} + {at}], {x}",
                    x = out(xmm_reg) _, from = in(reg) from, to = in(reg) to, at = in(reg) at,
                    options(nostack, preserves_flags)
                );
                at += 16;
            }
            // The last sixteen bytes, overlapping what was copied already.
            asm!(
                "movups {x}, [{from} + {at}]",
                "movups [{to} + {at}], {x}",
                x = out(xmm_reg) _, from = in(reg) from, to = in(reg) to, at = in(reg) last,
                options(nostack, preserves_flags)
            );
        } else if len > MOVES {
            asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        } else if len >= 8 {
            asm!(
                "mov {x}, [{from}]",
                "mov {y}, [{from} + {last}]",
                "mov [{to}], {x}",
                "mov [{to} + {last}], {y}",
                x = out(reg) _, y = out(reg) _, from = in(reg) from, to = in(reg) to,
                last = in(reg) len - 8,
                options(nostack, preserves_flags)
            );
        } else {
            for at in 0..len {
                asm!(
                    "mov {x}, [{from} + {at}]",
                    "mov [{to} + {at}], {x}",
                    x = out(reg_byte) _, from = in(reg) from, to = in(reg) to, at = in(reg) at,
                    options(nostack, preserves_flags)
                );
            }
        }
    }
}

/// Copies `len` bytes from shared memory to private memory.
///
/// # Safety
/// As on x86-64.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) unsafe fn copy_from_shared(from: *const u8, to: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    let byte = |at: usize| {
        // SAFETY: `at < len`, and the caller guarantees `len` bytes on both sides. Bytes are
        // always aligned, and all accesses to the shared side in this process are atomic.
        unsafe {
            to.add(at)
                .write(AtomicU8::from_ptr(from.add(at).cast_mut()).load(Relaxed))
        };
    };
    let aligned = from.align_offset(8).min(len);
    let words_end = aligned + (len - aligned) / 8 * 8;
    (0..aligned).for_each(byte);
    for at in (aligned..words_end).step_by(8) {
        // SAFETY: `at + 8 <= len`, the source is aligned from `aligned` on in steps of eight, the
        // target is written unaligned.
        unsafe {
            let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Relaxed);
            to.add(at).cast::<u64>().write_unaligned(word);
        }
    }
    (words_end..len).for_each(byte);
}

/// Asks for the cache line at `at` in a state in which it can be written.
#[inline(always)]
pub(super) fn prefetch_for_write(at: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads and writes nothing that the program can see, at any address. On
    // processors without PREFETCHW the instruction is a no-op.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]", in(reg) at.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "prfm pstl1keep, [{}]", in(reg) at.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
