//! Mappings of shared memory, and segments on their way to the peer.

use super::Handle;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(target_os = "linux")]
use rustix::mm::Advice;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::ptr::NonNull;

/// A segment as it travels to the peer.
#[derive(Debug)]
pub(crate) struct SegmentHandle(Handle);

impl From<OwnedFd> for SegmentHandle {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<Handle> for SegmentHandle {
    fn from(handle: Handle) -> Self {
        Self(handle)
    }
}

impl From<SegmentHandle> for Handle {
    fn from(segment: SegmentHandle) -> Self {
        segment.0
    }
}

impl AsFd for SegmentHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Pages of a segment in this process, unmapped when dropped.
///
/// Only says where the pages are; [`crate::segment`] decides who may touch them how.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    pub(in crate::sys) huge_pages: bool,
}

// SAFETY: a mapping is an address range that stays valid until the drop, in every thread of the
// process; the type itself gives no access to the bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// First byte; aligned to a page.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether huge pages were really obtained.
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    pub(in crate::sys) fn map(fd: BorrowedFd<'_>, len: usize, prot: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no mapping of this process is replaced; the
        // length is not zero (callers map at least a page).
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0)? };
        let base = NonNull::new(base.cast()).expect("mmap gave the null page without MAP_FIXED");
        Ok(Self {
            base,
            len,
            huge_pages: false,
        })
    }

    #[cfg(target_os = "linux")]
    pub(in crate::sys) fn advise(&self, advice: Advice) -> io::Result<()> {
        let base = self.base.as_ptr().cast();
        // SAFETY: the range is exactly this mapping, and none of the advices used here (populate,
        // huge page) changes what the bytes are.
        unsafe { rustix::mm::madvise(base, self.len, advice)? };
        Ok(())
    }
}

#[cfg(target_os = "macos")]
impl Mapping {
    /// Touches each page of a new, writable mapping.
    pub(in crate::sys) fn touch(&self, page: usize) {
        for at in (0..self.len).step_by(page) {
            // SAFETY: inside the mapping, which the caller has just made for writing and shown to
            // nobody; its bytes are zero and stay so.
            unsafe { self.base.add(at).write_volatile(0) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and is unmapped only here; whoever took the
        // address holds this mapping alive (`segment` keeps it in an Arc).
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}
