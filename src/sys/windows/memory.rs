//! Sections backed by the page file: segments that only their creator can write.

use super::security::{Attributes, duplicate};
use super::{Handle, check};
use crate::error::SegmentRefused;
use crate::settings::{HugePages, Memory};
use std::ffi::c_void;
use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
};
use std::ptr::{NonNull, null, null_mut};
use windows_sys::Win32::Foundation::{
    GetLastError, INVALID_HANDLE_VALUE, LUID, NTSTATUS, SetLastError,
};
use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, LUID_AND_ATTRIBUTES, LookupPrivilegeValueW, SE_LOCK_MEMORY_NAME,
    SE_PRIVILEGE_ENABLED, TOKEN_ADJUST_PRIVILEGES, TOKEN_PRIVILEGES,
};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP, FILE_MAP_LARGE_PAGES, FILE_MAP_READ, FILE_MAP_WRITE,
    GetLargePageMinimum, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, PAGE_READWRITE, SEC_COMMIT,
    SEC_LARGE_PAGES, SECTION_QUERY, UnmapViewOfFile,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// A segment as it travels to the peer: a handle that can be mapped for reading.
#[derive(Debug)]
pub(crate) struct SegmentHandle(OwnedHandle);

impl From<OwnedHandle> for SegmentHandle {
    fn from(handle: OwnedHandle) -> Self {
        Self(handle)
    }
}

impl From<Handle> for SegmentHandle {
    fn from(handle: Handle) -> Self {
        Self(handle.into())
    }
}

impl From<SegmentHandle> for Handle {
    fn from(segment: SegmentHandle) -> Self {
        segment.0.into()
    }
}

/// Pages of a segment in this process, unmapped when dropped.
///
/// Only says where the pages are; [`crate::segment`] decides who may touch them how.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    huge_pages: bool,
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

    fn map(section: BorrowedHandle<'_>, len: usize, rights: FILE_MAP) -> io::Result<Self> {
        // SAFETY: the section is open; the system chooses the address, so nothing of this process is
        // replaced.
        let view = unsafe { MapViewOfFile(section.as_raw_handle(), rights, 0, 0, len) };
        let base = NonNull::new(view.Value.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            base,
            len,
            huge_pages: false,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let view = MEMORY_MAPPED_VIEW_ADDRESS {
            Value: self.base.as_ptr().cast(),
        };
        // SAFETY: the view was made by `map` and is unmapped only here; whoever took the address
        // holds this mapping alive (`segment` keeps it in an Arc).
        let unmapped = unsafe { UnmapViewOfFile(view) };
        debug_assert!(unmapped != 0);
    }
}

/// Bytes in a page.
pub(crate) fn page_size() -> usize {
    let mut info = SYSTEM_INFO::default();
    // SAFETY: the result goes to a variable of this function.
    unsafe { GetSystemInfo(&mut info) };
    info.dwPageSize as usize
}

/// Creates a zeroed segment of at least `len` bytes and maps it for writing. Afterwards nobody,
/// this process included, has a handle that could map it for writing again. Sections never shrink,
/// and their pages are paid for when they are made, so reading them cannot fail.
///
/// Huge pages and pre-touching are wishes: what cannot be had is logged with the reason.
pub(crate) fn create_segment(len: usize, memory: &Memory) -> io::Result<(SegmentHandle, Mapping)> {
    match memory.huge_pages {
        HugePages::Never => {}
        HugePages::Transparent => {
            tracing::warn!("no transparent huge pages for a segment: Windows has none");
        }
        HugePages::Reserved => match create_with_large_pages(len) {
            // Large pages are there from the beginning.
            Ok(created) => return Ok(created),
            Err(error) => tracing::warn!(
                %error,
                "no large pages for a segment, using ordinary pages (does the user have the right \
                 \"Lock pages in memory\", and is there unfragmented memory?)"
            ),
        },
    }
    let (handle, mapping) = create_with(len, 0, 0)?;
    if memory.pre_touch {
        for at in (0..len).step_by(page_size()) {
            // SAFETY: inside the mapping, which was just made for writing and shown to nobody; its
            // bytes are zero and stay so.
            unsafe { mapping.base.add(at).write_volatile(0) };
        }
    }
    Ok((handle, mapping))
}

fn create_with_large_pages(len: usize) -> io::Result<(SegmentHandle, Mapping)> {
    // SAFETY: takes nothing.
    let page = unsafe { GetLargePageMinimum() };
    if page == 0 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the processor has no large pages",
        ));
    }
    enable_large_pages()?;
    let len = len.next_multiple_of(page);
    let (handle, mut mapping) = create_with(len, SEC_LARGE_PAGES, FILE_MAP_LARGE_PAGES)?;
    mapping.huge_pages = true;
    Ok((handle, mapping))
}

fn create_with(len: usize, kind: u32, view: FILE_MAP) -> io::Result<(SegmentHandle, Mapping)> {
    let attributes = Attributes::nobody()?;
    // SAFETY: the attributes live until the call is over; there is no file and no name.
    let section = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            attributes.as_ptr(),
            PAGE_READWRITE | SEC_COMMIT | kind,
            (len as u64 >> 32) as u32,
            len as u32,
            null(),
        )
    };
    if section.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just made the handle for us; nobody else has it.
    let section = unsafe { OwnedHandle::from_raw_handle(section) };
    let mapping = Mapping::map(
        section.as_handle(),
        len,
        FILE_MAP_READ | FILE_MAP_WRITE | view,
    )?;
    let readable = duplicate(section.as_handle(), FILE_MAP_READ | SECTION_QUERY)?;
    Ok((readable.into(), mapping))
}

/// Enables the privilege to lock pages, which large pages need, if this user has it.
fn enable_large_pages() -> io::Result<()> {
    let mut token = null_mut();
    let mut id = LUID::default();
    // SAFETY: the results go to variables of this function.
    unsafe {
        check(OpenProcessToken(
            GetCurrentProcess(),
            TOKEN_ADJUST_PRIVILEGES,
            &mut token,
        ))?;
    }
    // SAFETY: the system has just made the handle for us; nobody else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // SAFETY: the name is a constant of the system's; the result goes to a variable of this
    // function.
    check(unsafe { LookupPrivilegeValueW(null(), SE_LOCK_MEMORY_NAME, &mut id) })?;
    let wanted = TOKEN_PRIVILEGES {
        PrivilegeCount: 1,
        Privileges: [LUID_AND_ATTRIBUTES {
            Luid: id,
            Attributes: SE_PRIVILEGE_ENABLED,
        }],
    };
    // SAFETY: the token is open; the structure holds as many privileges as it says.
    unsafe {
        SetLastError(0);
        let raw = token.as_raw_handle();
        check(AdjustTokenPrivileges(
            raw,
            0,
            &wanted,
            0,
            null_mut(),
            null_mut(),
        ))?;
        // Succeeds also when the user does not have the privilege, and says so here only.
        match GetLastError() {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }
}

/// Checks a segment that a peer sent and maps it for reading.
///
/// Nothing is mapped before kind and size are what was agreed: pages that are reserved only, or
/// belong to a file on a medium that goes away, would kill this process when they are read.
pub(crate) fn open_segment(handle: SegmentHandle, len: usize) -> Result<Mapping, SegmentRefused> {
    let section = query(handle.0.as_handle())?;
    let large = section.attributes & SEC_LARGE_PAGES != 0;
    if section.attributes & !SEC_LARGE_PAGES != SEC_COMMIT {
        return Err(SegmentRefused::NotAnonymous);
    }
    let mut expected = len;
    if large {
        // SAFETY: takes nothing.
        expected = len.next_multiple_of(unsafe { GetLargePageMinimum() }.max(1));
    }
    if section.len != expected as u64 {
        return Err(SegmentRefused::WrongSize {
            is: section.len,
            agreed: expected as u64,
        });
    }
    let view = if large { FILE_MAP_LARGE_PAGES } else { 0 };
    let mut mapping = Mapping::map(handle.0.as_handle(), expected, FILE_MAP_READ | view)
        .map_err(SegmentRefused::Unusable)?;
    mapping.huge_pages = large;
    Ok(mapping)
}

/// What a section is made of.
struct Section {
    attributes: u32,
    len: u64,
}

/// The system's `SECTION_BASIC_INFORMATION`.
#[repr(C)]
struct BasicInformation {
    base: *mut c_void,
    attributes: u32,
    size: i64,
}

// Not among windows-sys's functions. Class 0 gives the basic information.
// SAFETY: declared as the system's headers have it (ntdll, `NtQuerySection`).
#[link(name = "ntdll", kind = "raw-dylib")]
unsafe extern "system" {
    fn NtQuerySection(
        section: RawHandle,
        class: i32,
        information: *mut c_void,
        len: usize,
        returned: *mut usize,
    ) -> NTSTATUS;
}

fn query(section: BorrowedHandle<'_>) -> Result<Section, SegmentRefused> {
    let mut information = BasicInformation {
        base: null_mut(),
        attributes: 0,
        size: 0,
    };
    // SAFETY: the handle is open, and the length of the structure is what is said. It is the one
    // that class 0 fills.
    let status = unsafe {
        NtQuerySection(
            section.as_raw_handle(),
            0,
            (&raw mut information).cast(),
            size_of::<BasicInformation>(),
            null_mut(),
        )
    };
    if status < 0 {
        return Err(SegmentRefused::NotAnonymous);
    }
    Ok(Section {
        attributes: information.attributes,
        len: information.size as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::System::Memory::{PAGE_READONLY, SEC_RESERVE, VirtualProtect};

    #[test]
    fn the_receiver_cannot_write() {
        let (handle, mapping) = create_segment(8192, &Memory::default()).unwrap();
        assert_eq!(mapping.len(), 8192);
        let section = handle.0.as_handle();
        assert!(Mapping::map(section, 8192, FILE_MAP_READ | FILE_MAP_WRITE).is_err());
        assert!(
            duplicate(section, FILE_MAP_WRITE).is_err(),
            "rights were raised"
        );
        let read_only = open_segment(handle, 8192).unwrap();
        let mut before = 0;
        // SAFETY: asks for rights on this test's own mapping; the system must refuse.
        let raised = unsafe {
            VirtualProtect(
                read_only.base().as_ptr().cast(),
                4096,
                PAGE_READWRITE,
                &mut before,
            )
        };
        assert_eq!(raised, 0, "a read-only segment became writable");
    }

    /// Who could change the list could give himself the right to write.
    #[test]
    fn nobody_can_change_the_access_list() {
        const WRITE_DAC: u32 = 0x0004_0000;
        let (handle, _mapping) = create_segment(8192, &Memory::default()).unwrap();
        assert!(duplicate(handle.0.as_handle(), WRITE_DAC).is_err());
    }

    #[test]
    fn both_sides_see_the_same_bytes() {
        let (handle, mapping) = create_segment(4096, &Memory::default()).unwrap();
        let read_only = open_segment(handle, 4096).unwrap();
        // SAFETY: both mappings are a page long and alive, and nobody else has them.
        unsafe {
            mapping.base().write_volatile(77);
            assert_eq!(read_only.base().read_volatile(), 77);
        }
    }

    #[test]
    fn what_is_not_a_committed_section_is_refused() {
        let raw = |protection: u32, file: RawHandle, len: u32| {
            // SAFETY: the file, if any, is open; there is no name.
            unsafe {
                let section = CreateFileMappingW(file, null(), protection, 0, len, null());
                assert!(!section.is_null());
                SegmentHandle(OwnedHandle::from_raw_handle(section))
            }
        };
        let reserved = raw(PAGE_READWRITE | SEC_RESERVE, INVALID_HANDLE_VALUE, 4096);
        assert!(matches!(
            open_segment(reserved, 4096),
            Err(SegmentRefused::NotAnonymous)
        ));
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let of_a_file = raw(PAGE_READONLY, file.as_raw_handle(), 0);
        assert!(matches!(
            open_segment(of_a_file, 4096),
            Err(SegmentRefused::NotAnonymous)
        ));
        assert!(matches!(
            open_segment(OwnedHandle::from(file).into(), 4096),
            Err(SegmentRefused::NotAnonymous)
        ));
        let (handle, _mapping) = create_segment(8192, &Memory::default()).unwrap();
        assert!(matches!(
            open_segment(handle, 4096),
            Err(SegmentRefused::WrongSize {
                is: 8192,
                agreed: 4096
            })
        ));
    }

    #[test]
    fn missing_large_pages_fall_back() {
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
