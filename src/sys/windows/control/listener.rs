//! The pipe with a name, and what becomes of a client that opens it.

use super::operation::{Operation, Outcome, os_error};
use super::{ControlSocket, End, check_path, open_pipe, wide};
use crate::error::Error;
use crate::sys::windows::event::{Event, Reset};
use crate::sys::windows::process::{Process, own_user};
use crate::sys::windows::security::Attributes;
use crate::sys::windows::{Watched, check};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_OPERATION_ABORTED, ERROR_PIPE_BUSY, ERROR_PIPE_CONNECTED,
    INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, GetNamedPipeClientProcessId, PIPE_READMODE_BYTE,
    PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT,
};

/// Bytes that the system keeps for a reader before a write has to wait. About what a socket keeps on
/// other systems: it is what a process can leave to others when it exits.
const PIPE_BUFFER: u32 = 256 << 10;

/// Ends of the pipe that wait for clients, so that some can come at the same time.
const WAITING: usize = 8;

/// A name that accepts connections. It goes away when this is dropped.
pub(crate) struct ControlListener {
    path: PathBuf,
    attributes: Attributes,
    waiting: Mutex<Vec<Instance>>,
    connected: Arc<Event>,
}

/// An end of the pipe for a client. Fields in the order in which they must be dropped.
struct Instance {
    connecting: Operation,
    client: Client,
    pipe: OwnedHandle,
}

/// Whether an end of the pipe has a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    /// Not as far as is known.
    Expected,
    /// Yes.
    There,
    /// It had one: of no use any more.
    Gone,
}

impl ControlListener {
    /// Takes the name `path`, for clients of the same user on this machine.
    pub(crate) fn bind(path: &Path, _: bool) -> Result<Self, Error> {
        check_path(path)?;
        let attributes = Attributes::only(&own_user())
            .map_err(Error::io("make the control pipe's access list"))?;
        let connected = Event::new(Reset::Manual).map_err(Error::io("create an event"))?;
        let listener = Self {
            path: path.to_owned(),
            attributes,
            waiting: Mutex::default(),
            connected: Arc::new(connected),
        };
        // The first instance, so that nobody else has the name, and nobody's list counts but ours.
        let first = listener.instance(true).map_err(|error| {
            // Another user's pipe of this name is "access denied" as well: in use in any case.
            match error.raw_os_error().map(|code| code as u32) {
                Some(ERROR_ACCESS_DENIED | ERROR_PIPE_BUSY) => Error::NameInUse {
                    path: path.to_owned(),
                },
                _ => Error::io("create the control pipe")(error),
            }
        })?;
        listener.lock().push(first);
        Ok(listener)
    }

    /// Makes an end of the pipe and waits for a client to take the other.
    fn instance(&self, first: bool) -> io::Result<Instance> {
        let flags = if first {
            FILE_FLAG_FIRST_PIPE_INSTANCE
        } else {
            0
        };
        let pipe = create_pipe(
            &self.path,
            flags,
            PIPE_UNLIMITED_INSTANCES,
            &self.attributes,
        )?;
        let mut instance = Instance {
            connecting: Operation::new(self.connected.clone()),
            client: Client::Expected,
            pipe,
        };
        instance.expect_client();
        Ok(instance)
    }

    /// The next connection, or `None` if nobody is waiting.
    pub(crate) fn accept(&self) -> io::Result<Option<ControlSocket>> {
        let mut waiting = self.lock();
        // Before the look: a client that comes later signals again.
        self.connected.reset();
        let came = waiting
            .iter_mut()
            .position(|instance| instance.client() != Client::Expected)
            .map(|at| waiting.remove(at));
        while waiting.len() < WAITING {
            match self.instance(false) {
                Ok(instance) => waiting.push(instance),
                // The others do until the next accept, which tries again.
                Err(_) if !waiting.is_empty() => break,
                Err(error) => {
                    // Brings the next accept about.
                    self.connected.set();
                    if came.is_none() {
                        return Err(error);
                    }
                    tracing::error!(%error, "the control pipe has no end for the next client");
                    break;
                }
            }
        }
        // Each that began to wait has reset what the clients of others had signalled.
        if waiting
            .iter_mut()
            .any(|instance| instance.client() != Client::Expected)
        {
            self.connected.set();
        }
        drop(waiting);
        match came {
            Some(Instance {
                client: Client::There,
                pipe,
                ..
            }) => match hand_over(&pipe) {
                Ok(socket) => Ok(Some(socket)),
                // Its own affair. The next one has signalled, or will.
                Err(error) => {
                    tracing::warn!(%error, "a client was lost while it connected");
                    Ok(None)
                }
            },
            _ => Ok(None),
        }
    }

    /// The pipe's full name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Instance {
    fn expect_client(&mut self) {
        let begun = self.connecting.begin(&self.pipe, |pipe, _, overlapped| {
            // SAFETY: the pipe is open, and the structure stays where it is until the operation is
            // over (`Operation`).
            unsafe { ConnectNamedPipe(pipe, overlapped) }
        });
        self.client = match begun {
            Ok(()) => return,
            Err(ERROR_PIPE_CONNECTED) => Client::There,
            Err(_) => Client::Gone,
        };
        self.connecting.event.set();
    }

    fn client(&mut self) -> Client {
        while self.client == Client::Expected {
            self.client = match self.connecting.outcome(false) {
                Outcome::Running => return Client::Expected,
                Outcome::Done(_) => Client::There,
                // The thread that began to wait has ended, and its operations with it.
                Outcome::Failed(ERROR_OPERATION_ABORTED) => {
                    self.expect_client();
                    continue;
                }
                Outcome::Failed(_) => Client::Gone,
            }
        }
        self.client
    }
}

impl Watched for ControlListener {
    fn readable(&self) -> &Arc<Event> {
        &self.connected
    }
}

impl std::fmt::Debug for ControlListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlListener").field(&self.path).finish()
    }
}

/// Gives the client at the other end of `named` a pipe of its own.
fn hand_over(named: &OwnedHandle) -> io::Result<ControlSocket> {
    let mut pid = 0;
    // SAFETY: the pipe is open; the result goes to a variable of this function.
    check(unsafe { GetNamedPipeClientProcessId(named.as_raw_handle(), &mut pid) })?;
    let process = Process::open(pid, true);
    let offered = process.and_then(|process| {
        let (ours, theirs) = pair()?;
        let value = process.put(theirs.as_handle())?;
        Ok((ours, process, value))
    });
    let told = tell(named, offered.as_ref().map_or(0, |(_, _, value)| *value));
    let (ours, process, value) = offered?;
    if let Err(error) = told {
        // Gone, and it does not know of the handle.
        process.close(value);
        return Err(error);
    }
    ControlSocket::new(ours, End::Server, pid, process)
}

/// Says which handle is the client's, on the pipe with the name.
fn tell(named: &OwnedHandle, value: u64) -> io::Result<()> {
    let mut telling = Operation::new(Arc::new(Event::new(Reset::Manual)?));
    telling.buffer = value.to_le_bytes().to_vec();
    // Into an empty pipe: does not wait for anybody.
    telling.write(named).map_err(os_error)?;
    match telling.outcome(false) {
        Outcome::Done(_) => Ok(()),
        Outcome::Running => Err(io::ErrorKind::TimedOut.into()),
        Outcome::Failed(code) => Err(os_error(code)),
    }
}

/// The two ends of a new pipe, the server's first, that nobody else can find.
fn pair() -> io::Result<(OwnedHandle, OwnedHandle)> {
    let attributes = Attributes::only(&own_user())?;
    loop {
        let random = RandomState::new();
        let name = format!(
            r"\\.\pipe\nearwire-pair-{:016x}{:016x}",
            random.hash_one(0),
            random.hash_one(1)
        );
        let path = PathBuf::from(name);
        let ours = create_pipe(&path, FILE_FLAG_FIRST_PIPE_INSTANCE, 1, &attributes)?;
        match open_pipe(&path) {
            Ok(theirs) => return Ok((ours, theirs)),
            // Somebody of this user guessed the name or found it, and was faster.
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY as i32) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes an end of the pipe that is called `path`, for clients of this machine.
fn create_pipe(
    path: &Path,
    flags: u32,
    instances: u32,
    attributes: &Attributes,
) -> io::Result<OwnedHandle> {
    // SAFETY: the name ends with a zero, and the attributes live as long as the borrow.
    let pipe = unsafe {
        CreateNamedPipeW(
            wide(path).as_ptr(),
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | flags,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            instances,
            PIPE_BUFFER,
            PIPE_BUFFER,
            0,
            attributes.as_ptr(),
        )
    };
    if pipe == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just made the handle for us; nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(pipe) })
}
