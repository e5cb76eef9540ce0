//! Unlinked POSIX shared memory: segments that only their creator can write and nobody can shrink.

use crate::error::SegmentRefused;
use crate::settings::{HugePages, Memory};
use crate::sys::unix::{Mapping, SegmentHandle};
use rustix::fd::OwnedFd;
use rustix::fs::Mode;
use rustix::io::{Errno, FdFlags};
use rustix::mm::ProtFlags;
use rustix::shm::OFlags;
use std::hash::{BuildHasher, RandomState};
use std::io;

/// Bytes in a page. Intel programs that run on Apple silicon see pages of 4 KiB, native ones of 16;
/// both sides must come to the same length, so the larger one counts.
pub(crate) fn page_size() -> usize {
    16 << 10
}

/// Creates a zeroed segment of `len` bytes and maps it for writing. The handle is a second
/// descriptor, which can only be read through: the system ties the right to map for writing, now
/// or later, to how the descriptor was opened, and an object without a name cannot be opened again.
///
/// macOS sets the size of such an object once and refuses to change it, so nobody can shrink it.
///
/// There are no huge pages to be had for it. Pre-touching is a wish.
pub(crate) fn create_segment(len: usize, memory: &Memory) -> io::Result<(SegmentHandle, Mapping)> {
    if memory.huge_pages != HugePages::Never {
        tracing::warn!("no huge pages for a segment: macOS has none for shared memory");
    }
    let (writable, readable) = create()?;
    rustix::fs::ftruncate(&writable, len as u64)?;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    let mapping = Mapping::map(rustix::fd::AsFd::as_fd(&writable), len, rights)?;
    if memory.pre_touch {
        mapping.touch(page_size());
    }
    Ok((readable.into(), mapping))
}

/// A new object, opened for writing and for reading, whose name is gone again.
fn create() -> io::Result<(OwnedFd, OwnedFd)> {
    // Nobody, not even the same user, may open it for writing while it has a name.
    let mode = Mode::RUSR;
    loop {
        // 31 bytes at most. What nobody can guess nobody can sit on.
        let name = format!("/nearwire-{:016x}", RandomState::new().hash_one(0));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let writable = match rustix::shm::open(&*name, flags, mode) {
            Err(Errno::EXIST) => continue,
            other => other?,
        };
        let readable = rustix::shm::open(&*name, OFlags::RDONLY, mode);
        rustix::shm::unlink(&*name)?;
        let readable = readable?;
        for descriptor in [&writable, &readable] {
            rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
        return Ok((writable, readable));
    }
}

/// Checks a segment that a peer sent and maps it for reading.
///
/// Nothing is mapped before kind and size are what was agreed: reading a file would kill this
/// process with SIGBUS as soon as the peer truncates it.
pub(crate) fn open_segment(handle: SegmentHandle, len: usize) -> Result<Mapping, SegmentRefused> {
    let unusable = |error: Errno| SegmentRefused::Unusable(error.into());
    // Of what can be mapped, only files have a place in the file system, also when they have no
    // path any more (another error then).
    match rustix::fs::getpath(&handle) {
        Err(Errno::BADF | Errno::NOTSUP | Errno::OPNOTSUPP) => {}
        _ => return Err(SegmentRefused::NotAnonymous),
    }
    let stat = rustix::fs::fstat(&handle).map_err(unusable)?;
    if stat.st_size != len as i64 {
        return Err(SegmentRefused::WrongSize {
            is: stat.st_size as u64,
            agreed: len as u64,
        });
    }
    Mapping::map(rustix::fd::AsFd::as_fd(&handle), len, ProtFlags::READ)
        .map_err(SegmentRefused::Unusable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn the_receiver_cannot_write_or_resize() {
        let len = page_size();
        let (handle, mapping) = create_segment(len, &Memory::default()).unwrap();
        assert_eq!(mapping.len(), len);
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        assert!(Mapping::map(handle.as_fd(), len, rights).is_err());
        assert!(rustix::fs::ftruncate(&handle, 0).is_err());
        let read_only = open_segment(handle, len).unwrap();
        let page = read_only.base().as_ptr().cast();
        // SAFETY: asks for rights on this test's own mapping; the kernel must refuse.
        let raised = unsafe { rustix::mm::mprotect(page, len, rustix::mm::MprotectFlags::WRITE) };
        assert!(raised.is_err(), "a read-only segment became writable");
    }

    #[test]
    fn not_even_the_creator_can_shrink_it() {
        let (writable, _) = create().unwrap();
        rustix::fs::ftruncate(&writable, 2 * page_size() as u64).unwrap();
        assert!(rustix::fs::ftruncate(&writable, page_size() as u64).is_err());
    }

    #[test]
    fn what_is_not_a_segment_is_refused() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(
            open_segment(OwnedFd::from(file).into(), page_size()),
            Err(SegmentRefused::NotAnonymous)
        ));
        let (handle, _mapping) = create_segment(2 * page_size(), &Memory::default()).unwrap();
        assert!(matches!(
            open_segment(handle, page_size()),
            Err(SegmentRefused::WrongSize { .. })
        ));
    }
}
