//! Memory that only a descriptor leads to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{fstat, ftruncate};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What leads another process to shared memory: a descriptor, on Windows a name.
pub type Descriptor = OwnedFd;

/// A mapping's: shared, and where the kernel does so, resident from the start.
#[cfg(target_os = "linux")]
const FLAGS: MapFlags = MapFlags::SHARED.union(MapFlags::POPULATE);
#[cfg(not(target_os = "linux"))]
const FLAGS: MapFlags = MapFlags::SHARED;

/// Memory that only the descriptor leads to.
#[cfg(target_os = "linux")]
fn anonymous() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("nearwire-floor", MemfdFlags::CLOEXEC)?)
}

/// Memory that only the descriptor leads to: its name is gone at once.
#[cfg(not(target_os = "linux"))]
fn anonymous() -> io::Result<OwnedFd> {
    use rustix::fs::Mode;
    use rustix::io::Errno;
    use rustix::shm::{self, OFlags};
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/nearwire-floor-{}-{number}", std::process::id());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        match shm::open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(descriptor) => {
                shm::unlink(&name)?;
                return Ok(descriptor);
            }
            // Left by a process of the same id that was killed in between.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Memory of `length` bytes from `base`, there to be read and written until this is dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    length: usize,
    descriptor: OwnedFd,
}

impl Mapping {
    pub(super) fn create(length: usize) -> io::Result<Self> {
        let descriptor = anonymous()?;
        ftruncate(&descriptor, length as u64)?;
        Self::open(descriptor)
    }

    pub(super) fn open(descriptor: Descriptor) -> io::Result<Self> {
        let length = usize::try_from(fstat(&descriptor)?.st_size).unwrap_or(0);
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                FLAGS,
                &descriptor,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).expect("mmap never returns null");
        Ok(Self {
            base,
            length,
            descriptor,
        })
    }

    /// A copy of the descriptor.
    pub(super) fn descriptor(&self) -> io::Result<Descriptor> {
        self.descriptor.as_fd().try_clone_to_owned()
    }

    /// The first byte; aligned to a page.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are those of the mapping made in `open`. `Word` and `Circle`
        // keep the arena alive, so nobody still points into it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}
