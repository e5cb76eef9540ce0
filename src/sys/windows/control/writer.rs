//! Writes that outlive the threads that begin them.
//!
//! When a thread ends, the system takes back what it has begun and what is not done, unless the
//! end of it is told to a completion port. So these are: to that of the system's thread pool, by which
//! only what cannot be done at once goes. (A read that is taken back is just begun again, so reads do
//! without.)

use super::operation::{Outcome, last_error};
use crate::sys::windows::check;
use crate::sys::windows::event::Event;
use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle, RawHandle};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;
use windows_sys::Win32::Foundation::ERROR_IO_PENDING;
use windows_sys::Win32::Storage::FileSystem::{SetFileCompletionNotificationModes, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Threading::{
    CancelThreadpoolIo, CloseThreadpoolIo, CreateThreadpoolIo, PTP_CALLBACK_INSTANCE, PTP_IO,
    SetEvent, StartThreadpoolIo, WaitForThreadpoolIoCallbacks,
};
use windows_sys::Win32::System::WindowsProgramming::FILE_SKIP_COMPLETION_PORT_ON_SUCCESS;

/// How long the system may take for a write that is taken back: far more than it does.
const CANCELLING: Duration = Duration::from_secs(1);

/// One pipe's writes, one at a time. Must be dropped before the pipe is closed.
pub(super) struct Writer {
    pool: PTP_IO,
    pipe: RawHandle,
    overlapped: Box<OVERLAPPED>,
    buffer: Vec<u8>,
    /// Signalled while none is under way.
    idle: Arc<Event>,
    running: bool,
}

// SAFETY: the raw pointers are the system's, to memory that this value owns and does not move
// (boxes and vectors are on the heap); the pool's object and the pipe's handle belong to the process,
// not to a thread.
unsafe impl Send for Writer {}

impl Writer {
    /// `idle` is signalled while no write is under way: from now on.
    pub(super) fn new(pipe: &OwnedHandle, idle: Arc<Event>) -> io::Result<Self> {
        let raw = pipe.as_raw_handle();
        let mode = FILE_SKIP_COMPLETION_PORT_ON_SUCCESS as u8;
        // SAFETY: the pipe is open.
        check(unsafe { SetFileCompletionNotificationModes(raw, mode) })?;
        // SAFETY: the pipe is open. The callback gets the event's handle, which is open until no
        // callback runs any more (`Drop`).
        let pool = unsafe { CreateThreadpoolIo(raw, Some(done), idle.raw(), null_mut()) };
        if pool == 0 {
            return Err(io::Error::last_os_error());
        }
        idle.set();
        Ok(Self {
            pool,
            pipe: raw,
            overlapped: Box::default(),
            buffer: Vec::new(),
            idle,
            running: false,
        })
    }

    /// Whether a write is under way that is not known to be over.
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    /// Begins to write `bytes`. What comes of it comes out of [`outcome`](Self::outcome), or is the
    /// error.
    pub(super) fn write(&mut self, bytes: Vec<u8>) -> Result<(), u32> {
        assert!(!self.running, "one write at a time");
        self.buffer = bytes;
        *self.overlapped = OVERLAPPED::default();
        self.idle.reset();
        let len = self.buffer.len() as u32;
        // SAFETY: the pipe is open as long as this lives; buffer and structure stay where they are,
        // untouched, until the write is over. The pool hears of it if and only if it goes on by
        // itself.
        let begun = unsafe {
            StartThreadpoolIo(self.pool);
            let written = WriteFile(
                self.pipe,
                self.buffer.as_ptr(),
                len,
                null_mut(),
                &raw mut *self.overlapped,
            );
            let begun = match written {
                0 => last_error(),
                _ => 0,
            };
            if begun != ERROR_IO_PENDING {
                CancelThreadpoolIo(self.pool);
            }
            begun
        };
        match begun {
            ERROR_IO_PENDING => self.running = true,
            code => {
                self.idle.set();
                if code != 0 {
                    return Err(code);
                }
            }
        }
        Ok(())
    }

    /// How far the write is that is under way.
    pub(super) fn outcome(&mut self) -> Outcome {
        // The pool's word counts: until it is said, it would be taken for the next write's.
        match self.idle.wait(Some(Duration::ZERO)) {
            Ok(true) => {}
            Ok(false) => return Outcome::Running,
            Err(error) => {
                return Outcome::Failed(error.raw_os_error().unwrap_or_default() as u32);
            }
        }
        self.running = false;
        let mut moved = 0;
        // SAFETY: the write was begun on this pipe, which is open, with this structure.
        let done =
            unsafe { GetOverlappedResult(self.pipe, &raw const *self.overlapped, &mut moved, 0) };
        if done == 0 {
            return Outcome::Failed(last_error());
        }
        Outcome::Done(moved as usize)
    }
}

// SAFETY: only the system calls it, with the event's handle that `Writer::new` registered it with.
unsafe extern "system" fn done(
    _: PTP_CALLBACK_INSTANCE,
    idle: *mut c_void,
    _: *mut c_void,
    _: u32,
    _: usize,
    _: PTP_IO,
) {
    // SAFETY: open until no callback runs any more (`Drop`).
    unsafe { SetEvent(idle) };
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.running {
            // SAFETY: the pipe is open, the structure its write's.
            unsafe { CancelIoEx(self.pipe, &raw const *self.overlapped) };
            // Over for the system too, one way or the other.
            if !self.idle.wait(Some(CANCELLING)).unwrap_or(false) {
                // The process is ending and its pool does not run any more. What the system may still use
                // stays.
                std::mem::forget(std::mem::take(&mut self.buffer));
                std::mem::forget(std::mem::take(&mut self.overlapped));
                std::mem::forget(self.idle.clone());
                return;
            }
        }
        // SAFETY: no write is under way, and none begins. The event is open until a callback that has
        // set it has returned, which is waited for.
        unsafe {
            WaitForThreadpoolIoCallbacks(self.pool, 0);
            CloseThreadpoolIo(self.pool);
        }
    }
}
