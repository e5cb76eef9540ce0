//! Copying bytes that another process may be changing.
//!
//! To the language that is a data race, whatever the bytes are good for; a plain `memcpy` lets the
//! compiler assume that the source holds still (and, say, read it twice). So the copy goes through
//! inline assembly, of which the compiler knows only that it reads and writes memory. On
//! architectures without such a path it goes by relaxed atomic words. Costs are in
//! `docs/IPC_PERFORMANCE_TUNING.md`.

use std::ptr::NonNull;

/// Copies `len` bytes from private memory to memory that only this process writes.
///
/// It could be a plain copy, but left to itself the compiler moves half of a short one through the
/// stack, and the stores that this takes are the dearest thing on the sending side (docs: tuning).
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, the ranges must not overlap, and
/// nobody else may write either.
#[inline(always)]
pub(super) unsafe fn copy_to_shared(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller promises what is required there, and more.
    unsafe {
        copy_from_shared(from, to, len);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, len);
    }
}

/// Copies `len` bytes from shared memory to private memory.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, and the ranges must not overlap.
/// The source may change during the copy.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn copy_from_shared(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::asm;
    // SAFETY: for every block below: each moves bytes at offsets below `len` from `from` to `to`,
    // which the caller guarantees to be valid; only the named registers and memory change. SSE2 is
    // part of x86-64.
    unsafe {
        match len {
            33..=64 => asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + {len} - 32]",
                "movups {d}, [{from} + {len} - 16]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + {len} - 32], {c}",
                "movups [{to} + {len} - 16], {d}",
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                options(nostack, preserves_flags)
            ),
            65..=128 => asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups {e}, [{from} + {len} - 64]",
                "movups {f}, [{from} + {len} - 48]",
                "movups {g}, [{from} + {len} - 32]",
                "movups {h}, [{from} + {len} - 16]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                "movups [{to} + {len} - 64], {e}",
                "movups [{to} + {len} - 48], {f}",
                "movups [{to} + {len} - 32], {g}",
                "movups [{to} + {len} - 16], {h}",
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                e = out(xmm_reg) _, f = out(xmm_reg) _, g = out(xmm_reg) _, h = out(xmm_reg) _,
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                options(nostack, preserves_flags)
            ),
            16..=32 => asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + {len} - 16]",
                "movups [{to}], {a}",
                "movups [{to} + {len} - 16], {b}",
                a = out(xmm_reg) _, b = out(xmm_reg) _,
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                options(nostack, preserves_flags)
            ),
            8..=15 => asm!(
                "mov {a}, [{from}]",
                "mov {b}, [{from} + {len} - 8]",
                "mov [{to}], {a}",
                "mov [{to} + {len} - 8], {b}",
                a = out(reg) _, b = out(reg) _,
                from = in(reg) from, to = in(reg) to, len = in(reg) len,
                options(nostack, preserves_flags)
            ),
            0..=7 => {
                for at in 0..len {
                    asm!(
                        "mov {x}, [{from} + {at}]",
                        "mov [{to} + {at}], {x}",
                        x = out(reg_byte) _, from = in(reg) from, to = in(reg) to, at = in(reg) at,
                        options(nostack, preserves_flags)
                    );
                }
            }
            _ => copy_long(from, to, len),
        }
    }
}

/// The platform's `memcpy`, called where the compiler does not see it.
///
/// # Safety
/// As [`copy_from_shared`].
#[cfg(all(target_arch = "x86_64", unix))]
#[inline(never)]
unsafe fn copy_long(from: *const u8, to: *mut u8, len: usize) {
    unsafe extern "C" {
        fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    }
    // SAFETY: the caller vouches for the ranges. `memcpy` of a changing source copies some mixture
    // of what it held: it is a sequence of loads and stores like any other and bases no decision
    // on the bytes. The call follows the C ABI: arguments in rdi, rsi, rdx, the stack aligned by
    // the compiler (no `nostack`), all that C may clobber declared.
    unsafe {
        std::arch::asm!(
            "call {memcpy}",
            memcpy = sym memcpy,
            in("rdi") to, in("rsi") from, in("rdx") len,
            clobber_abi("C")
        );
    }
}

/// A string move, which needs nobody else's ABI.
///
/// # Safety
/// As [`copy_from_shared`].
#[cfg(all(target_arch = "x86_64", not(unix)))]
#[inline(never)]
unsafe fn copy_long(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for the ranges; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
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
pub(crate) fn prefetch_for_write(at: NonNull<u8>) {
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

/// Asks for the cache line at `at` in a state in which it can be read.
#[inline(always)]
pub(super) fn prefetch_for_read(at: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads and writes nothing that the program can see, at any address.
    unsafe {
        std::arch::asm!(
            "prefetcht0 [{}]", in(reg) at.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{}]", in(reg) at.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
