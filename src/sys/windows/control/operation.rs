//! An operation of the system's that goes on by itself: reads, waiting for a client.

use crate::sys::windows::event::Event;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle, RawHandle};
use std::ptr::null_mut;
use std::sync::Arc;
use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, ERROR_NO_DATA,
    ERROR_OPERATION_ABORTED, ERROR_PIPE_NOT_CONNECTED,
};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};

pub(super) fn os_error(code: u32) -> io::Error {
    io::Error::from_raw_os_error(code as i32)
}

/// The code of the last error.
pub(super) fn last_error() -> u32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default() as u32
}

/// The peer's end of a pipe is closed, or was never there.
pub(super) fn is_end(code: u32) -> bool {
    matches!(
        code,
        ERROR_BROKEN_PIPE | ERROR_NO_DATA | ERROR_PIPE_NOT_CONNECTED
    )
}

/// An operation of the system's that goes on by itself, with the memory that it uses.
pub(super) struct Operation {
    overlapped: Box<OVERLAPPED>,
    pub(super) buffer: Vec<u8>,
    /// Signalled when it is over.
    pub(super) event: Arc<Event>,
    /// The pipe that it runs on, while it does.
    pub(super) running: Option<RawHandle>,
}

// SAFETY: the raw pointers are the system's, to memory that this value owns and does not move
// (boxes and vectors are on the heap), and to a handle that is open as long as the operation runs.
unsafe impl Send for Operation {}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Running,
    /// It moved so many bytes.
    Done(usize),
    /// It failed with this code.
    Failed(u32),
}

impl Operation {
    pub(super) fn new(event: Arc<Event>) -> Self {
        Self {
            overlapped: Box::default(),
            buffer: Vec::new(),
            event,
            running: None,
        }
    }

    /// Begins an operation, which the system takes back if this thread ends before it is over
    /// (`ERROR_OPERATION_ABORTED`). `begin` hands the buffer and the structure to the system.
    ///
    /// Whatever comes of it comes out of [`outcome`](Self::outcome), or is the error.
    pub(super) fn begin(
        &mut self,
        pipe: &OwnedHandle,
        begin: impl FnOnce(RawHandle, &mut [u8], *mut OVERLAPPED) -> windows_sys::core::BOOL,
    ) -> Result<(), u32> {
        assert!(self.running.is_none(), "one operation at a time");
        *self.overlapped = OVERLAPPED {
            // With the lowest bit set, nobody else is told of the end: a pipe's completion port is its
            // writer's alone.
            hEvent: self.event.raw().map_addr(|address| address | 1),
            ..Default::default()
        };
        let raw = pipe.as_raw_handle();
        if begin(raw, &mut self.buffer, &raw mut *self.overlapped) == 0 {
            match last_error() {
                ERROR_IO_PENDING => {}
                error => return Err(error),
            }
        }
        self.running = Some(raw);
        Ok(())
    }

    /// Begins to read into the buffer.
    pub(super) fn read(&mut self, pipe: &OwnedHandle) -> Result<(), u32> {
        self.begin(pipe, |pipe, buffer, overlapped| {
            let len = buffer.len() as u32;
            // SAFETY: the pipe is open; buffer and structure stay where they are, untouched, until
            // the operation is over (`Operation`).
            unsafe { ReadFile(pipe, buffer.as_mut_ptr(), len, null_mut(), overlapped) }
        })
    }

    /// Begins to write the buffer.
    pub(super) fn write(&mut self, pipe: &OwnedHandle) -> Result<(), u32> {
        self.begin(pipe, |pipe, buffer, overlapped| {
            let len = buffer.len() as u32;
            // SAFETY: as in `read`.
            unsafe { WriteFile(pipe, buffer.as_ptr(), len, null_mut(), overlapped) }
        })
    }

    /// How far it is. When it is over, the buffer may be used again.
    pub(super) fn outcome(&mut self, wait: bool) -> Outcome {
        let Some(pipe) = self.running else {
            return Outcome::Failed(ERROR_OPERATION_ABORTED);
        };
        let mut moved = 0;
        // SAFETY: the operation was begun on this pipe, which is open as long as it runs, with this
        // structure.
        let done = unsafe {
            GetOverlappedResult(pipe, &raw const *self.overlapped, &mut moved, wait.into())
        };
        if done == 0 {
            match last_error() {
                ERROR_IO_INCOMPLETE => return Outcome::Running,
                error => {
                    self.running = None;
                    return Outcome::Failed(error);
                }
            }
        }
        self.running = None;
        Outcome::Done(moved as usize)
    }

    /// Has the system end it, if it runs, one way or the other.
    pub(super) fn stop(&mut self) {
        if let Some(pipe) = self.running {
            // SAFETY: the pipe is open as long as the operation runs; the structure is its.
            unsafe { CancelIoEx(pipe, &raw const *self.overlapped) };
        }
    }

    /// Ends it, if it runs. Must be called before the pipe is closed.
    pub(super) fn cancel(&mut self) {
        if self.running.is_some() {
            self.stop();
            // The system uses the memory until it says that it does not.
            self.outcome(true);
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.cancel();
    }
}
