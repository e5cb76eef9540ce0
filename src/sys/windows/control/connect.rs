//! A client's way to a pipe of its own.

use super::operation::{Operation, Outcome, is_end, os_error};
use super::{ControlSocket, End, check_path, open_pipe, wide};
use crate::error::{DirectoryFault, Error, Identity};
use crate::sys::windows::check;
use crate::sys::windows::event::{Event, Reset};
use crate::sys::windows::process::{Process, own_user};
use crate::sys::windows::watch::{Times, Watch};
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, ERROR_OPERATION_ABORTED, ERROR_PIPE_BUSY,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::System::Pipes::{GetNamedPipeServerProcessId, WaitNamedPipeW};

/// How long a client waits at a time while the server has no free end for it.
const BUSY_WAIT: Duration = Duration::from_millis(50);

impl ControlSocket {
    /// Connects to the server at `path`. Blocks until `deadline` while the server is busy with
    /// other clients.
    pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<Self, Error> {
        check_path(path)?;
        let named = loop {
            let error = match open_pipe(path) {
                Ok(pipe) => break pipe,
                Err(error) => error,
            };
            match error.raw_os_error().map(|code| code as u32) {
                Some(ERROR_PIPE_BUSY) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::no_answer());
                    }
                    let wait = left.min(BUSY_WAIT).as_millis().max(1) as u32;
                    // SAFETY: the name ends with a zero. Errors come out of the next attempt.
                    unsafe { WaitNamedPipeW(wide(path).as_ptr(), wait) };
                }
                Some(ERROR_FILE_NOT_FOUND) => {
                    return Err(Error::NoServer {
                        path: path.to_owned(),
                        dead: false,
                    });
                }
                Some(ERROR_ACCESS_DENIED) => {
                    return Err(Error::Directory {
                        path: path.to_owned(),
                        fault: DirectoryFault::NoAccess,
                    });
                }
                _ => return Err(Error::io("connect to the server")(error)),
            }
        };
        let mut pid = 0;
        // SAFETY: the pipe is open; the result goes to a variable of this function.
        let asked = check(unsafe { GetNamedPipeServerProcessId(named.as_raw_handle(), &mut pid) });
        let server = asked.and_then(|()| Process::open(pid, false));
        let server = server.map_err(Error::io("ask who the server is"))?;
        let sid = server.user().map_err(Error::io("ask who the server is"))?;
        if sid != own_user() {
            // Whoever took the name before the user could. What it sends must not be touched.
            return Err(Error::Credentials {
                peer: Identity { pid, sid },
                reason: format!("only servers of user {} are", own_user()),
            });
        }
        let answer = HandOver::begin(named).and_then(|it| it.wait(deadline));
        match answer {
            Ok(Some(None)) => Err(Error::io(
                "connect: the server may not open this process (is it run with fewer rights?)",
            )(io::ErrorKind::PermissionDenied.into())),
            Ok(Some(Some(pipe))) => Self::new(pipe, End::Client, pid, server)
                .map_err(Error::io("set up the control pipe")),
            Ok(None) => Err(Error::no_answer()),
            // As if it had ended before.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::NoServer {
                path: path.to_owned(),
                dead: false,
            }),
            Err(error) => Err(Error::io("read from the server's pipe")(error)),
        }
    }
}

/// Waiting for what the server says over the pipe with the name. Fields in the order in which they
/// must be dropped.
struct HandOver {
    reading: Operation,
    named: OwnedHandle,
}

impl HandOver {
    fn begin(named: OwnedHandle) -> io::Result<Self> {
        let mut reading = Operation::new(Arc::new(Event::new(Reset::Manual)?));
        reading.buffer = vec![0; 8];
        reading.read(&named).map_err(failed)?;
        Ok(Self { reading, named })
    }

    /// The pipe that the server has made for this client, `Some(None)` if it may not. `None`:
    /// nothing until the deadline.
    fn wait(mut self, deadline: Instant) -> io::Result<Option<Option<OwnedHandle>>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if !self.reading.event.wait(Some(left))? {
            self.give_up()?;
            return Ok(None);
        }
        self.pipe().map(Some)
    }

    /// What the server has said.
    fn pipe(&mut self) -> io::Result<Option<OwnedHandle>> {
        match self.reading.outcome(true) {
            Outcome::Done(8) => {
                let value = self.reading.buffer[..].try_into().expect("eight bytes");
                match u64::from_le_bytes(value) {
                    0 => Ok(None),
                    value => adopt(value).map(Some),
                }
            }
            Outcome::Done(_) | Outcome::Running => Err(io::ErrorKind::InvalidData.into()),
            Outcome::Failed(code) => Err(failed(code)),
        }
    }

    /// Closes the pipe that the server makes, if it still does. Nobody waits for it meanwhile but
    /// the system; and of a server that hangs, only as many clients get as far as this as it has
    /// free ends.
    fn give_up(self) -> io::Result<()> {
        let event = self.reading.event.clone();
        let waiting = Arc::new(Mutex::new(None::<(Self, Option<Watch>)>));
        let over = waiting.clone();
        let mut slot = waiting.lock().unwrap_or_else(|e| e.into_inner());
        let watch = Watch::new(&event, Times::Once, move || {
            let it = over.lock().unwrap_or_else(|e| e.into_inner()).take();
            if let Some((mut it, watch)) = it {
                match it.pipe() {
                    // The thread that began to read has ended, and its operations with it.
                    Err(error) if is_aborted(&error) && it.reading.read(&it.named).is_ok() => {
                        let _ = it.give_up();
                    }
                    pipe => drop(pipe),
                }
                drop(watch);
            }
        })?;
        *slot = Some((self, Some(watch)));
        Ok(())
    }
}

fn is_aborted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_OPERATION_ABORTED as i32)
}

fn failed(code: u32) -> io::Error {
    if is_end(code) {
        return io::ErrorKind::BrokenPipe.into();
    }
    os_error(code)
}

/// A pipe's end that the server put into this process, the client's.
fn adopt(value: u64) -> io::Result<OwnedHandle> {
    let raw: RawHandle = std::ptr::with_exposed_provenance_mut(value as usize);
    if raw.is_null() || raw == INVALID_HANDLE_VALUE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no handle"));
    }
    // SAFETY: the server made the handle for us and keeps nothing of it. It may do with this
    // process's handles what it likes, by the rights that it opened the process with, so its word
    // adds nothing to its power; that it is the user's own server was checked before (`connect`).
    Ok(unsafe { OwnedHandle::from_raw_handle(raw) })
}
