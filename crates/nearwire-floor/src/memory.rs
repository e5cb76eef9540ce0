//! Memory shared by two processes: the only unsafe code of the crate.
//!
//! Bounds and alignment are enforced here, so no caller can reach outside the mapping. That a byte
//! is not written by one process while the other copies it is the ring protocol's promise, not this
//! module's: both ends are this crate (see the crate's documentation).

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as os;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as os;

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::atomic::AtomicU32;
use std::sync::atomic::{AtomicU64, Ordering};

pub use os::Descriptor;
use os::Mapping;

/// Distance between words that different processes write: two 64-byte lines, because the hardware
/// fetches lines in pairs.
pub const LINE: usize = 128;

/// A mapping of anonymous memory that two processes share.
pub struct Arena {
    mapping: Mapping,
}

// SAFETY: the mapping is plain memory that lives until `Arena` is dropped. Words are reached through
// atomics only; plain copies are ordered by the protocols of this crate.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Creates zeroed memory of `length` bytes, on Linux resident from the start.
    ///
    /// # Errors
    /// Whatever the system says to `memfd_create` (macOS: `shm_open`), `ftruncate` or `mmap`, on
    /// Windows to `CreateFileMapping` or `MapViewOfFile`.
    pub fn create(length: usize) -> io::Result<Arc<Self>> {
        let mapping = Mapping::create(length)?;
        Ok(Arc::new(Self { mapping }))
    }

    /// Maps memory that another process created; its length is what the descriptor says.
    ///
    /// # Errors
    /// Whatever the system says to `fstat` or `mmap`, on Windows to `OpenFileMapping` or
    /// `MapViewOfFile`; memory without a byte cannot be mapped.
    pub fn open(descriptor: Descriptor) -> io::Result<Arc<Self>> {
        let mapping = Mapping::open(descriptor)?;
        Ok(Arc::new(Self { mapping }))
    }

    /// What leads the other process to this memory.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        self.mapping.descriptor()
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.mapping.length()
    }

    /// The 64-bit word at byte `offset`.
    pub(crate) fn word(self: &Arc<Self>, offset: usize) -> Word<AtomicU64> {
        Word::new(self, offset)
    }

    /// The 32-bit word at byte `offset`, as a futex needs it.
    #[cfg(target_os = "linux")]
    pub(crate) fn half_word(self: &Arc<Self>, offset: usize) -> Word<AtomicU32> {
        Word::new(self, offset)
    }

    /// The `capacity` bytes (a power of two) from byte `offset`, addressed by positions that wrap,
    /// with room for `longest` bytes from any of them.
    pub(crate) fn circle(
        self: &Arc<Self>,
        offset: usize,
        capacity: usize,
        longest: usize,
    ) -> Circle {
        assert!(
            capacity.is_power_of_two() && capacity >= 8,
            "capacity: a power of two from 8"
        );
        assert!(longest.is_multiple_of(8), "longest: a multiple of 8");
        assert!(offset.is_multiple_of(LINE), "offset: a multiple of {LINE}");
        let end = capacity
            .checked_add(longest)
            .and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.length()),
            "inside the mapping"
        );
        // SAFETY: `offset` lies inside the mapping, by the assertion above.
        let base = unsafe { self.mapping.base().add(offset) };
        Circle {
            base,
            mask: capacity - 1,
            longest,
            _arena: Arc::clone(self),
        }
    }
}

/// One atomic word of an [`Arena`], which it keeps mapped.
pub(crate) struct Word<T> {
    word: NonNull<T>,
    _arena: Arc<Arena>,
}

// SAFETY: `T` is an atomic integer, made for sharing; the arena may be used from any thread.
unsafe impl<T: Sync> Send for Word<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Word<T> {}

impl<T> Word<T> {
    fn new(arena: &Arc<Arena>, offset: usize) -> Self {
        assert!(offset.is_multiple_of(align_of::<T>()), "an aligned offset");
        assert!(size_of::<T>() <= arena.length() && offset <= arena.length() - size_of::<T>());
        // SAFETY: `offset` lies inside the mapping, by the assertion above.
        let word = unsafe { arena.mapping.base().add(offset).cast() };
        Self {
            word,
            _arena: Arc::clone(arena),
        }
    }
}

impl<T> Deref for Word<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: inside the mapping and aligned (checked in `new`; the mapping itself begins on a
        // page), kept mapped by `_arena`, valid for any bit pattern because `T` is an atomic
        // integer, and reached through shared references only.
        unsafe { self.word.as_ref() }
    }
}

/// A power-of-two stretch of an [`Arena`], addressed by ever-growing positions.
///
/// What is copied from one position stays in one piece: the stretch is followed by `longest` spare
/// bytes, into which a copy that starts before the end may run. So nothing ever has to be split.
pub(crate) struct Circle {
    base: NonNull<u8>,
    /// The capacity less one.
    mask: usize,
    longest: usize,
    _arena: Arc<Arena>,
}

// SAFETY: as for `Arena`, which it keeps mapped.
unsafe impl Send for Circle {}

impl Circle {
    /// Bytes that fit at any position.
    #[inline]
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// The word at `position`, which is rounded down to a multiple of 8.
    #[inline]
    pub(crate) fn word(&self, position: u64) -> &AtomicU64 {
        let at = position as usize & self.mask & !7;
        // SAFETY: `at` is a multiple of 8 below the capacity, which is a multiple of 8 inside the
        // mapping (checked in `circle`); `base` is aligned to 128. Any bits are a valid u64.
        unsafe { self.base.add(at).cast::<AtomicU64>().as_ref() }
    }

    /// The address of `position`, valid for `length` bytes. Panics if that is more than `longest`.
    #[inline]
    fn stretch(&self, position: u64, length: usize) -> NonNull<u8> {
        assert!(
            length <= self.longest,
            "no more bytes than fit at any position"
        );
        // SAFETY: a position below the capacity and up to `longest` bytes behind it lie inside the
        // mapping (checked in `circle`).
        unsafe { self.base.add(position as usize & self.mask) }
    }

    /// Asks for the cache line at `position`, to write it soon. Only a hint.
    #[inline]
    pub(crate) fn prefetch_to_write(&self, position: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch changes no memory and no register and never faults.
        unsafe {
            std::arch::asm!(
                "prefetchw [{line}]",
                line = in(reg) self.base.as_ptr().wrapping_add(position as usize & self.mask),
                options(nostack, preserves_flags, readonly),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = position;
    }

    /// Asks for the cache line at `position`, to read it soon. Only a hint.
    #[inline]
    pub(crate) fn prefetch_to_read(&self, position: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch changes no memory and no register and never faults.
        unsafe {
            std::arch::asm!(
                "prefetcht0 [{line}]",
                line = in(reg) self.base.as_ptr().wrapping_add(position as usize & self.mask),
                options(nostack, preserves_flags, readonly),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = position;
    }

    /// Copies `bytes` in at `position`. Panics if they are more than `longest`.
    #[inline]
    pub(crate) fn copy_in(&self, position: u64, bytes: &[u8]) {
        let to = self.stretch(position, bytes.len());
        // SAFETY: `to` is valid for that many bytes. The reader leaves them alone until this side
        // publishes them, and a caller's slice never lies in the mapping, which hands out none.
        unsafe { copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
    }

    /// Copies out from `position`. Panics if `into` is more than `longest`.
    #[inline]
    pub(crate) fn copy_out(&self, position: u64, into: &mut [u8]) {
        let from = self.stretch(position, into.len());
        // SAFETY: `from` is valid for that many bytes. The writer leaves them alone until this side
        // gives them back, and a caller's slice never lies in the mapping.
        unsafe { copy(from.as_ptr(), into.as_mut_ptr(), into.len()) }
    }

    /// Copies out by the platform's `memcpy`. Panics if `into` is more than `longest`.
    #[inline]
    pub(crate) fn copy_out_by_memcpy(&self, position: u64, into: &mut [u8]) {
        let from = self.stretch(position, into.len());
        // SAFETY: as in `copy_out`.
        unsafe {
            from.as_ptr()
                .copy_to_nonoverlapping(into.as_mut_ptr(), into.len())
        }
    }

    /// Copies out by `rep movsb`, whose one instruction the compiler cannot see into. Panics if
    /// `into` is more than `longest`.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn copy_out_by_string_move(&self, position: u64, into: &mut [u8]) {
        let from = self.stretch(position, into.len());
        // SAFETY: source and target are valid for `into.len()` bytes and do not overlap; the
        // direction flag is clear by the ABI; the three registers are declared as changed.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") into.len() => _,
                inout("rdi") into.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Copies out by relaxed atomic 64-bit words: no data race, whatever the other side writes.
    ///
    /// `position` is rounded down to a multiple of 8. Panics if `into` is more than `longest`.
    #[inline]
    pub(crate) fn copy_out_by_words(&self, position: u64, into: &mut [u8]) {
        let from = self.stretch(position & !7, into.len());
        // SAFETY: `from` is a multiple of 8 and `longest` too, so even the last word, of which only
        // a part may be wanted, lies inside the mapping. Any bits are a valid u64.
        let words = unsafe {
            std::slice::from_raw_parts(from.as_ptr().cast::<AtomicU64>(), into.len().div_ceil(8))
        };
        // Eight at a time, which the compiler does not do by itself for atomics.
        let (blocks, rest) = into.as_chunks_mut::<64>();
        let (word_blocks, rest_words) = words.as_chunks::<8>();
        for (block, words) in blocks.iter_mut().zip(word_blocks) {
            for (bytes, word) in block.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
        for (bytes, word) in rest.chunks_mut(8).zip(rest_words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..bytes.len()]);
        }
    }
}

/// The longest copy that is not worth a call of `memcpy`.
const SHORT: usize = 256;

/// A plain copy: short ones in line, because a call of `memcpy` costs as much as 64 bytes do.
///
/// The sizes are split into classes that need no loop; a loop is what the compiler would turn back
/// into a call of `memcpy`.
///
/// # Safety
/// `from` and `to` are valid for `length` bytes and do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: each class is at least half as long as the bytes it moves from either end, so every
    // access lies within `length` bytes of both pointers, which the caller vouches for.
    unsafe {
        match length {
            33..=64 => copy_ends::<32>(from, to, length),
            65..=128 => copy_ends::<64>(from, to, length),
            8..=16 => copy_ends::<8>(from, to, length),
            17..=32 => copy_ends::<16>(from, to, length),
            129..=SHORT => copy_ends::<128>(from, to, length),
            _ => std::ptr::copy_nonoverlapping(from, to, length),
        }
    }
}

/// Copies the first and the last `HALF` bytes of a stretch of `HALF` to twice `HALF` bytes.
///
/// # Safety
/// `from` and `to` are valid for `length` bytes, which is at least `HALF`, and do not overlap.
#[inline(always)]
unsafe fn copy_ends<const HALF: usize>(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: `length - HALF` and the `HALF` bytes behind it lie within `length`, by the caller's
    // promise. The two halves may overlap each other: both are read before either is written.
    unsafe {
        let first = from.cast::<[u8; HALF]>().read();
        let last = from.add(length - HALF).cast::<[u8; HALF]>().read();
        to.cast::<[u8; HALF]>().write(first);
        to.add(length - HALF).cast::<[u8; HALF]>().write(last);
    }
}
