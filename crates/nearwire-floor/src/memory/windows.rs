//! Memory that a name leads to: a section of the page file.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr::{NonNull, null};
use std::sync::atomic::{AtomicU64, Ordering};

use windows_sys::Win32::Foundation::{
    ERROR_ALREADY_EXISTS, ERROR_SUCCESS, INVALID_HANDLE_VALUE, SetLastError,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, FILE_MAP_WRITE, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    OpenFileMappingW, PAGE_READWRITE, UnmapViewOfFile,
};

/// What leads another process to shared memory: its name, which does so only as long as this side, or
/// another, has it open; on Unix a descriptor.
///
/// The name ends with the memory's length in bytes, for a section knows its own in whole pages only.
pub type Descriptor = String;

/// How names begin: nobody in another session sees them.
const PREFIX: &str = r"Local\nearwire-floor-";

/// Reading and writing.
const ACCESS: u32 = FILE_MAP_READ | FILE_MAP_WRITE;

/// Memory of `length` bytes from `base`, there to be read and written until this is dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    length: usize,
    name: String,
    /// Keeps the name: the view alone keeps only the memory.
    _section: OwnedHandle,
}

impl Mapping {
    pub(super) fn create(length: usize) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PREFIX}{}-{number}-{length}", std::process::id());
            if let Some(section) = create_section(&name, length)? {
                return Self::map(section, name, length);
            }
            // Somebody still has it open from a process of the same id that was killed.
        }
    }

    pub(super) fn open(name: Descriptor) -> io::Result<Self> {
        let length = length_in(&name).ok_or_else(|| {
            let what = format!("{name:?} is no name of memory that this crate has created");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })?;
        let wide = to_wide(&name);
        // SAFETY: the name ends with a zero and lives until the call is over.
        let section = unsafe { OpenFileMappingW(ACCESS, 0, wide.as_ptr()) };
        if section.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system has just made the handle for us; nobody else has it.
        let section = unsafe { OwnedHandle::from_raw_handle(section) };
        Self::map(section, name, length)
    }

    /// Maps the first `length` bytes, of which there is at least one. The system refuses it if the
    /// section is shorter.
    fn map(section: OwnedHandle, name: String, length: usize) -> io::Result<Self> {
        // SAFETY: the section is open; the system chooses the address, so nothing of this process is
        // replaced.
        let view = unsafe { MapViewOfFile(section.as_raw_handle(), ACCESS, 0, 0, length) };
        let base = NonNull::new(view.Value.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            base,
            length,
            name,
            _section: section,
        })
    }

    /// A copy of the name.
    pub(super) fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.name.clone())
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
        let view = MEMORY_MAPPED_VIEW_ADDRESS {
            Value: self.base.as_ptr().cast(),
        };
        // SAFETY: the view was made by `map` and is unmapped only here. `Word` and `Circle` keep the
        // arena alive, so nobody still points into it.
        let unmapped = unsafe { UnmapViewOfFile(view) };
        debug_assert!(unmapped != 0);
    }
}

/// A new section of `length` bytes, zeroed and paid for; `None` if there is one of that name.
fn create_section(name: &str, length: usize) -> io::Result<Option<OwnedHandle>> {
    let wide = to_wide(name);
    // SAFETY: the name ends with a zero and lives until the call is over; there is no file, and there
    // are no attributes.
    let section = unsafe {
        SetLastError(ERROR_SUCCESS);
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            null(),
            PAGE_READWRITE,
            (length as u64 >> 32) as u32,
            length as u32,
            wide.as_ptr(),
        )
    };
    // Asked at once: dropping something may change it.
    let outcome = io::Error::last_os_error();
    if section.is_null() {
        return Err(outcome);
    }
    // SAFETY: the system has just made the handle for us; nobody else has it.
    let section = unsafe { OwnedHandle::from_raw_handle(section) };
    let is_new = outcome.raw_os_error() != Some(ERROR_ALREADY_EXISTS as i32);
    Ok(is_new.then_some(section))
}

/// The length that a name of this crate ends with.
fn length_in(name: &str) -> Option<usize> {
    let (_, length) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    length.parse().ok().filter(|length| *length > 0)
}

fn to_wide(name: &str) -> Vec<u16> {
    name.encode_utf16().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_the_same_bytes() {
        let near = Mapping::create(5000).unwrap();
        let far = Mapping::open(near.descriptor().unwrap()).unwrap();
        assert_eq!(far.length(), 5000);
        // SAFETY: both mappings are longer than that and alive, and nobody else has them.
        unsafe {
            near.base().add(4999).write_volatile(77);
            assert_eq!(far.base().add(4999).read_volatile(), 77);
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let name = format!("{PREFIX}test-{}-4096", std::process::id());
        let first = create_section(&name, 4096).unwrap();
        assert!(first.is_some());
        assert!(create_section(&name, 4096).unwrap().is_none());
        drop(first);
        assert!(create_section(&name, 4096).unwrap().is_some());
    }

    /// What a process of the same id has left behind is passed over.
    #[test]
    fn new_memory_is_nobody_elses() {
        let id = std::process::id();
        let names = (0..64).map(|number| format!("{PREFIX}{id}-{number}-777"));
        let left: Vec<_> = names
            .filter_map(|name| create_section(&name, 777).unwrap())
            .collect();
        assert_eq!(left.len(), 64);
        let new = Mapping::create(777).unwrap();
        let number = new.name.strip_prefix(&format!("{PREFIX}{id}-")).unwrap();
        let number = number.strip_suffix("-777").unwrap();
        assert!(number.parse::<u64>().unwrap() >= 64, "{}", new.name);
    }

    #[test]
    fn a_name_goes_with_its_memory() {
        let near = Mapping::create(4096).unwrap();
        let name = near.descriptor().unwrap();
        drop(near);
        let error = Mapping::open(name).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn no_more_is_mapped_than_there_is() {
        let name = format!("{PREFIX}longer-{}-8192", std::process::id());
        let _section = create_section(&name, 4096).unwrap().unwrap();
        assert!(Mapping::open(name).is_err());
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            r"Local\nearwire-floor-1-2-0",
            r"Local\nearwire-floor-1-2-x",
            r"Local\nearwire-floor-4096",
            r"Local\another-1-2-4096",
        ] {
            let error = Mapping::open(name.into()).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
