//! Who may do what with an object: access lists, and handles with fewer rights.

use super::check;
use crate::sid::Sid;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{DuplicateHandle, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Attributes for a new object; its handle is not inherited by child processes.
pub(super) struct Attributes {
    descriptor: PSECURITY_DESCRIPTOR,
    attributes: Box<SECURITY_ATTRIBUTES>,
}

// SAFETY: the descriptor is memory that only this value has, and that nobody changes.
unsafe impl Send for Attributes {}
// SAFETY: as above.
unsafe impl Sync for Attributes {}

impl Attributes {
    /// Nobody may open the object, or get more rights to it than a handle has already: the one
    /// entry takes the right to change the list from the owner (S-1-3-4), who has it otherwise.
    pub(super) fn nobody() -> io::Result<Self> {
        Self::from_text("D:P(A;;RC;;;S-1-3-4)")
    }

    /// This user may do everything, nobody else anything.
    pub(super) fn only(user: &Sid) -> io::Result<Self> {
        Self::from_text(&format!("D:P(A;;GA;;;{user})"))
    }

    fn from_text(text: &str) -> io::Result<Self> {
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = null_mut();
        // SAFETY: the text ends with a zero, and the result goes to a variable of this function.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                null_mut(),
            )
        })?;
        Ok(Self {
            descriptor,
            attributes: Box::new(SECURITY_ATTRIBUTES {
                nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
                lpSecurityDescriptor: descriptor,
                bInheritHandle: 0,
            }),
        })
    }

    /// For a call that makes an object. Valid as long as this is.
    pub(super) fn as_ptr(&self) -> *const SECURITY_ATTRIBUTES {
        &raw const *self.attributes
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the system allocated the descriptor for us this way; nobody has it any more.
        unsafe { LocalFree(self.descriptor) };
    }
}

/// Another handle of the same object, with these rights only.
pub(super) fn duplicate(handle: BorrowedHandle<'_>, rights: u32) -> io::Result<OwnedHandle> {
    let mut copy = null_mut();
    // SAFETY: the handle is open, both processes are this one, and the result goes to a variable of
    // this function.
    unsafe {
        let this = GetCurrentProcess();
        let raw = handle.as_raw_handle();
        check(DuplicateHandle(this, raw, this, &mut copy, rights, 0, 0))?;
        // The system has just made the copy for us; nobody else has it.
        Ok(OwnedHandle::from_raw_handle(copy))
    }
}
