//! The process at the other end: who it runs as, and handles put into it and taken out of it.

use super::check;
use crate::sid::Sid;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::ptr::null_mut;
use std::sync::OnceLock;
use windows_sys::Win32::Foundation::{
    DUPLICATE_CLOSE_SOURCE, DUPLICATE_SAME_ACCESS, DuplicateHandle, WAIT_OBJECT_0,
};
use windows_sys::Win32::Security::{GetTokenInformation, TOKEN_QUERY, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_DUP_HANDLE,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

/// A process, as long as this lives; its id cannot come to mean another one meanwhile.
#[derive(Debug)]
pub(super) struct Process(OwnedHandle);

impl Process {
    /// Opens the process with this id. `for_handles`: to put handles into it and take them out.
    pub(super) fn open(pid: u32, for_handles: bool) -> io::Result<Self> {
        let mut rights = PROCESS_QUERY_LIMITED_INFORMATION;
        if for_handles {
            rights |= PROCESS_DUP_HANDLE | PROCESS_SYNCHRONIZE;
        }
        // SAFETY: takes numbers only.
        let handle = unsafe { OpenProcess(rights, 0, pid) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the system has just made the handle for us; nobody else has it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// The user that the process runs as.
    pub(super) fn user(&self) -> io::Result<Sid> {
        user_of(self.0.as_raw_handle())
    }

    /// Puts a copy of `handle`, with the same rights, into the process. Returns its value there.
    pub(super) fn put(&self, handle: BorrowedHandle<'_>) -> io::Result<u64> {
        let mut copy = null_mut();
        // SAFETY: handle and process are open; the result, a number that means nothing here, goes to
        // a variable of this function.
        check(unsafe {
            DuplicateHandle(
                GetCurrentProcess(),
                handle.as_raw_handle(),
                self.0.as_raw_handle(),
                &mut copy,
                0,
                0,
                DUPLICATE_SAME_ACCESS,
            )
        })?;
        Ok(copy as usize as u64)
    }

    /// Whether it has ended, and with it all its handles.
    fn has_ended(&self) -> bool {
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(self.0.as_raw_handle(), 0) == WAIT_OBJECT_0 }
    }

    /// Closes a handle that was put there. Fails only if the process is gone or has closed it.
    ///
    /// It is taken out, for wine closes nothing in another process that goes nowhere. Nor does wine 8 always
    /// come back from that if the process is being killed meanwhile; so one that has ended is left alone.
    pub(super) fn close(&self, value: u64) {
        if self.has_ended() {
            return;
        }
        let options = DUPLICATE_SAME_ACCESS | DUPLICATE_CLOSE_SOURCE;
        drop(copy_from(self.0.as_raw_handle(), value, options));
    }

    /// Takes a copy, with the same rights, of the handle that has this value in the process.
    pub(super) fn take(&self, value: u64) -> io::Result<OwnedHandle> {
        copy_from(self.0.as_raw_handle(), value, DUPLICATE_SAME_ACCESS)
    }
}

/// A copy, with the same rights, of the handle that has this value in this process.
pub(super) fn copy_of(value: u64) -> io::Result<OwnedHandle> {
    // SAFETY: takes nothing; the result is a constant that stands for this process.
    copy_from(unsafe { GetCurrentProcess() }, value, DUPLICATE_SAME_ACCESS)
}

fn copy_from(process: RawHandle, value: u64, options: u32) -> io::Result<OwnedHandle> {
    let mut copy = null_mut();
    // SAFETY: the process handle is open (the callers'); the value is looked up among that process's
    // handles, whatever it is; the result goes to a variable of this function.
    unsafe {
        check(DuplicateHandle(
            process,
            std::ptr::without_provenance_mut(value as usize),
            GetCurrentProcess(),
            &mut copy,
            0,
            0,
            options,
        ))?;
        // The system has just made the copy for us; nobody else has it.
        Ok(OwnedHandle::from_raw_handle(copy))
    }
}

/// The user that this process runs as.
pub(super) fn own_user() -> Sid {
    static OWN: OnceLock<Sid> = OnceLock::new();
    *OWN.get_or_init(|| {
        // SAFETY: takes nothing; the result is a constant that stands for this process.
        let this = unsafe { GetCurrentProcess() };
        user_of(this).expect("a process may read its own token")
    })
}

fn user_of(process: RawHandle) -> io::Result<Sid> {
    let mut token = null_mut();
    // SAFETY: the process handle is open (the callers'); the result goes to a variable of this
    // function.
    check(unsafe { OpenProcessToken(process, TOKEN_QUERY, &mut token) })?;
    // SAFETY: the system has just made the handle for us; nobody else has it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // A TOKEN_USER with the SID behind it, aligned for the former.
    let mut answer = [0u64; 16];
    let mut len = 0;
    // SAFETY: the token is open, and the length of the buffer is what is said.
    check(unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            answer.as_mut_ptr().cast(),
            size_of_val(&answer) as u32,
            &mut len,
        )
    })?;
    let start = answer.as_ptr().cast::<u8>();
    // SAFETY: the system filled the buffer with a TOKEN_USER, for which it is aligned.
    let sid = unsafe { start.cast::<TOKEN_USER>().read() }.User.Sid;
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "no security identifier");
    let at = (sid as usize)
        .checked_sub(start as usize)
        .filter(|at| *at < len as usize)
        .ok_or_else(strange)?;
    // SAFETY: the buffer was initialised, all of it, and `len` bytes of it were filled.
    let bytes =
        unsafe { std::slice::from_raw_parts(start, (len as usize).min(size_of_val(&answer))) };
    // The system may round the length up.
    let binary = &bytes[at..];
    let exact = 8 + 4 * usize::from(*binary.get(1).ok_or_else(strange)?);
    binary
        .get(..exact)
        .and_then(Sid::from_bytes)
        .ok_or_else(strange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::windows::io::AsHandle;

    #[test]
    fn this_process_is_ours() {
        let this = Process::open(std::process::id(), true).unwrap();
        assert_eq!(this.user().unwrap(), own_user());
        assert!(own_user().to_string().starts_with("S-1-"));
    }

    #[test]
    fn a_handle_can_be_put_and_taken() {
        let this = Process::open(std::process::id(), true).unwrap();
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let value = this.put(file.as_handle()).unwrap();
        let taken = this.take(value).unwrap();
        assert!(std::fs::File::from(taken).metadata().unwrap().is_file());
        assert!(this.take(0x0dead0).is_err());
        this.close(value);
        assert!(copy_of(value).is_err());
        this.close(0x0dead0);
    }
}
