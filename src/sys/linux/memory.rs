//! Sealed memfds: segments that only their creator can write and nobody can shrink.

use crate::error::SegmentRefused;
use crate::settings::{HugePages, Memory};
use crate::sys::unix::{Mapping, SegmentHandle};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, ProtFlags};
use rustix::process::Resource;
use std::io;

/// Size of a huge page where hugetlb is asked for. Two MiB is the size that every x86-64 and, with
/// 4 KiB base pages, every aarch64 kernel offers.
const HUGE_PAGE: usize = 2 << 20;

/// What the creator promises by sealing: the size stays, nobody else gets a writable mapping, and
/// the promise stays.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// What the creator of a segment that others may write promises: its size stays.
#[cfg(feature = "mpmc_transport")]
const COMMON_SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// Bytes in a page.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// Creates a zeroed segment of at least `len` bytes, maps it for writing, and seals it so that
/// nobody, this process included, can map it for writing again or change its size.
///
/// Huge pages and pre-touching are wishes: what cannot be had is logged with the reason.
pub(crate) fn create_segment(len: usize, memory: &Memory) -> io::Result<(SegmentHandle, Mapping)> {
    if memory.huge_pages == HugePages::Reserved {
        match create_with(
            len.next_multiple_of(HUGE_PAGE),
            MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        ) {
            Ok((fd, mut mapping)) => {
                mapping.huge_pages = true;
                // hugetlb pages were reserved by the mapping; touching cannot fail afterwards.
                pre_touch(&mapping, memory);
                return Ok((fd, mapping));
            }
            Err(error) => tracing::warn!(
                %error,
                "no reserved huge pages for a segment, using ordinary pages \
                 (is /proc/sys/vm/nr_hugepages large enough?)"
            ),
        }
    }
    let (fd, mut mapping) = create_with(len, MemfdFlags::empty())?;
    if memory.huge_pages == HugePages::Transparent {
        match transparent_huge_pages_for_shared_memory() {
            Ok(()) => match mapping.advise(Advice::LinuxHugepage) {
                Ok(()) => mapping.huge_pages = len >= HUGE_PAGE,
                Err(error) => tracing::warn!(%error, "no transparent huge pages for a segment"),
            },
            Err(reason) => tracing::warn!("no transparent huge pages for a segment: {reason}"),
        }
    }
    pre_touch(&mapping, memory);
    Ok((fd, mapping))
}

fn pre_touch(mapping: &Mapping, memory: &Memory) {
    if memory.pre_touch
        && let Err(error) = mapping.advise(Advice::LinuxPopulateWrite)
    {
        tracing::warn!(%error, "a segment could not be touched in advance");
    }
}

/// Whether the kernel would give transparent huge pages to shared memory that asks for them.
fn transparent_huge_pages_for_shared_memory() -> Result<(), String> {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = std::fs::read_to_string(SETTING).map_err(|e| format!("{SETTING}: {e}"))?;
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or("never");
    match chosen {
        "always" | "advise" | "within_size" | "force" => Ok(()),
        other => Err(format!("{SETTING} says {other}; it must say advise")),
    }
}

fn create_with(len: usize, kind: MemfdFlags) -> io::Result<(SegmentHandle, Mapping)> {
    create_sealed(len, kind, SEALS)
}

fn create_sealed(
    len: usize,
    kind: MemfdFlags,
    seals: SealFlags,
) -> io::Result<(SegmentHandle, Mapping)> {
    // Beyond this limit (ulimit -f) the kernel would end the process, by SIGXFSZ.
    let limit = rustix::process::getrlimit(Resource::Fsize).current;
    if limit.is_some_and(|limit| len as u64 > limit) {
        return Err(Errno::FBIG.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind;
    // A kernel before 6.3 does not know NOEXEC_SEAL.
    let fd = match rustix::fs::memfd_create("nearwire", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("nearwire", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&fd, len as u64)?;
    // The one writable mapping there will ever be is made before the seal forbids new ones.
    let mapping = Mapping::map(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
    rustix::fs::fcntl_add_seals(&fd, seals)?;
    Ok((fd.into(), mapping))
}

/// Creates a zeroed segment of `len` bytes that everybody who gets its handle may map for writing,
/// and that nobody can make shorter: reading it is never a SIGBUS.
#[cfg(feature = "mpmc_transport")]
pub(crate) fn create_common_segment(len: usize) -> io::Result<(SegmentHandle, Mapping)> {
    create_sealed(len, MemfdFlags::empty(), COMMON_SEALS)
}

/// Checks a segment that a peer sent and maps it for writing; see [`open_segment`]. Memory that may
/// not be there at first touch (hugetlb) is refused.
#[cfg(feature = "mpmc_transport")]
pub(crate) fn open_common_segment(
    handle: &SegmentHandle,
    len: usize,
) -> Result<Mapping, SegmentRefused> {
    let fd = handle.as_fd();
    let is_huge = check_sealed(fd, len, COMMON_SEALS)?;
    if is_huge {
        return Err(SegmentRefused::NotASegment);
    }
    Mapping::map(fd, len, ProtFlags::READ | ProtFlags::WRITE).map_err(SegmentRefused::Unusable)
}

/// By what a segment is known, whoever has a handle of it: while it lives, no other has the same.
#[cfg(feature = "mpmc_transport")]
pub(crate) fn identity_of_segment(handle: &SegmentHandle) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(handle)?;
    #[allow(clippy::unnecessary_cast)] // the fields' types differ by architecture
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// Checks a segment that a peer sent and maps it for reading.
///
/// Nothing is mapped before kind, seals and size are what was agreed: reading an unsealed or
/// shorter file would kill this process with SIGBUS as soon as the peer truncates it.
pub(crate) fn open_segment(handle: SegmentHandle, len: usize) -> Result<Mapping, SegmentRefused> {
    let fd = handle.as_fd();
    let huge_pages = check_sealed(fd, len, SEALS)?;
    let expected = if huge_pages {
        len.next_multiple_of(HUGE_PAGE)
    } else {
        len
    };
    let mut mapping =
        Mapping::map(fd, expected, ProtFlags::READ).map_err(SegmentRefused::Unusable)?;
    if huge_pages {
        // A hugetlb page that the pool cannot supply is a SIGBUS at first touch. Populating
        // reports it as an error instead, and the seals keep the creator from taking pages away
        // again (FUTURE_WRITE forbids punching holes).
        mapping
            .advise(Advice::LinuxPopulateRead)
            .map_err(SegmentRefused::Unusable)?;
        mapping.huge_pages = true;
    }
    Ok(mapping)
}

/// Checks kind, seals and size of what a peer sent. Returns whether it is of huge pages, whose size is
/// rounded up.
fn check_sealed(fd: BorrowedFd<'_>, len: usize, needed: SealFlags) -> Result<bool, SegmentRefused> {
    // Only memfds (and other shmem files) have seals at all.
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| SegmentRefused::NotAnonymous)?;
    if !seals.contains(needed) {
        return Err(SegmentRefused::NotSealed {
            seals: seals.bits(),
            needed: needed.bits(),
        });
    }
    let stat = rustix::fs::fstat(fd).map_err(|e| SegmentRefused::Unusable(e.into()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(SegmentRefused::NotAnonymous);
    }
    let huge_pages = is_hugetlb(fd).map_err(SegmentRefused::Unusable)?;
    let expected = if huge_pages {
        len.next_multiple_of(HUGE_PAGE)
    } else {
        len
    };
    if stat.st_size != expected as i64 {
        return Err(SegmentRefused::WrongSize {
            is: stat.st_size as u64,
            agreed: expected as u64,
        });
    }
    Ok(huge_pages)
}

fn is_hugetlb(fd: BorrowedFd<'_>) -> io::Result<bool> {
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    #[allow(clippy::unnecessary_cast)] // the field's type differs by architecture
    Ok(rustix::fs::fstatfs(fd)?.f_type as i64 == HUGETLBFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::OwnedFd;

    fn plain() -> Memory {
        Memory::default()
    }

    #[test]
    fn the_receiver_cannot_write_or_resize() {
        let (handle, mapping) = create_segment(8192, &plain()).unwrap();
        assert_eq!(mapping.len(), 8192);
        assert!(Mapping::map(handle.as_fd(), 8192, ProtFlags::READ | ProtFlags::WRITE).is_err());
        assert!(rustix::io::pwrite(handle.as_fd(), b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(handle.as_fd(), 4096).is_err());
        assert!(rustix::fs::ftruncate(handle.as_fd(), 16384).is_err());
        let read_only = open_segment(handle, 8192).unwrap();
        let page = read_only.base().as_ptr().cast();
        // SAFETY: asks for rights on this test's own mapping; the kernel must refuse.
        let raised = unsafe { rustix::mm::mprotect(page, 4096, rustix::mm::MprotectFlags::WRITE) };
        assert!(raised.is_err(), "a sealed segment became writable");
    }

    #[test]
    fn what_is_not_a_sealed_segment_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let unsealed = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&unsealed, 4096).unwrap();
        assert!(matches!(
            open_segment(unsealed.into(), 4096),
            Err(SegmentRefused::NotSealed { .. })
        ));

        let half = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&half, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&half, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        assert!(matches!(
            open_segment(half.into(), 4096),
            Err(SegmentRefused::NotSealed { .. })
        ));

        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(
            open_segment(OwnedFd::from(file).into(), 4096),
            Err(SegmentRefused::NotAnonymous)
        ));

        let (handle, _mapping) = create_segment(8192, &plain()).unwrap();
        assert!(matches!(
            open_segment(handle, 4096),
            Err(SegmentRefused::WrongSize {
                is: 8192,
                agreed: 4096
            })
        ));
    }

    #[test]
    fn missing_huge_pages_fall_back() {
        let memory = Memory {
            huge_pages: HugePages::Reserved,
            pre_touch: true,
        };
        let (handle, mapping) = create_segment(8192, &memory).unwrap();
        let len = mapping.len();
        assert!(len == 8192 || mapping.huge_pages());
        assert_eq!(open_segment(handle, 8192).unwrap().len(), len);
    }
}
