//! The control pipe: the one thing with a name. It carries the handshake with its handles, then
//! rare messages, and its end is how a side learns that the other died.
//!
//! A pipe knows of no handles, so what is sent goes in chunks: how many bytes (`u32`), how many
//! handles (`u32`), the handles' values (`u64` each, values in the client's process in either
//! direction, see [`super`]), the bytes.
//!
//! The name is kept free of connections: a pipe's name is in use as long as any end of it is open, so
//! a server that is gone would leave it taken for as long as a client of its holds on. Whoever
//! connects gets a pipe of its own instead ([`hand_over`]), as a handle that the server puts into the
//! client's process, and the value of that handle (`u64`; 0: refused) is all that the named pipe ever
//! carries.
//!
//! Pipes tell of readiness only by finishing what was begun: there is always a read under way,
//! whose event is signalled when something has come, and a write goes on by itself.

use super::event::{Event, Reset};
use super::process::{Process, own_user};
use super::security::Attributes;
use super::{Handle, Watched, check};
use crate::error::{DirectoryFault, Error, Identity};
use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_FILE_NOT_FOUND, ERROR_IO_INCOMPLETE,
    ERROR_IO_PENDING, ERROR_NO_DATA, ERROR_OPERATION_ABORTED, ERROR_PIPE_BUSY,
    ERROR_PIPE_CONNECTED, ERROR_PIPE_NOT_CONNECTED, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, ReadFile,
    SECURITY_IDENTIFICATION, WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, GetNamedPipeClientProcessId, GetNamedPipeServerProcessId,
    PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES,
    PIPE_WAIT, WaitNamedPipeW,
};

/// Handles that one chunk may carry.
const MAX_HANDLES: usize = 4;

/// Bytes that one chunk may carry. More than any message that is sent in one piece has.
const MAX_CHUNK: usize = 16 << 10;

/// Bytes that the system keeps for a reader before a write has to wait.
const PIPE_BUFFER: u32 = 64 << 10;

/// Bytes that are read at a time.
const READ_BUFFER: usize = 4096;

/// Bytes before the handles of a chunk.
const CHUNK_HEAD: usize = 8;

/// The longest name of a pipe, in UTF-16 units.
const MAX_PATH: usize = 256;

/// How long a client waits at a time while the server has no free end for it.
const BUSY_WAIT: Duration = Duration::from_millis(50);

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

fn check_path(path: &Path) -> Result<(), Error> {
    let len = path.as_os_str().encode_wide().count();
    if len > MAX_PATH {
        return Err(Error::PathTooLong {
            path: path.to_owned(),
            len,
            max: MAX_PATH,
        });
    }
    Ok(())
}

fn os_error(code: u32) -> io::Error {
    io::Error::from_raw_os_error(code as i32)
}

/// The code of the last error.
fn last_error() -> u32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default() as u32
}

/// The peer's end of a pipe is closed, or was never there.
fn is_end(code: u32) -> bool {
    matches!(
        code,
        ERROR_BROKEN_PIPE | ERROR_NO_DATA | ERROR_PIPE_NOT_CONNECTED
    )
}

/// An operation of the system's that goes on by itself, with the memory that it uses.
struct Operation {
    overlapped: Box<OVERLAPPED>,
    buffer: Vec<u8>,
    /// Signalled when it is over.
    event: Arc<Event>,
    /// The pipe that it runs on, while it does.
    running: Option<RawHandle>,
}

// SAFETY: the raw pointers are the system's, to memory that this value owns and does not move
// (boxes and vectors are on the heap), and to a handle that is open as long as the operation runs.
unsafe impl Send for Operation {}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Running,
    /// It moved so many bytes.
    Done(usize),
    /// It failed with this code.
    Failed(u32),
}

impl Operation {
    fn new(event: Arc<Event>) -> Self {
        Self {
            overlapped: Box::default(),
            buffer: Vec::new(),
            event,
            running: None,
        }
    }

    /// Begins an operation. `begin` hands the buffer and the structure to the system.
    ///
    /// Whatever comes of it comes out of [`outcome`](Self::outcome), or is the error.
    fn begin(
        &mut self,
        pipe: &OwnedHandle,
        begin: impl FnOnce(RawHandle, &mut [u8], *mut OVERLAPPED) -> windows_sys::core::BOOL,
    ) -> Result<(), u32> {
        assert!(self.running.is_none(), "one operation at a time");
        *self.overlapped = OVERLAPPED {
            hEvent: self.event.raw(),
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
    fn read(&mut self, pipe: &OwnedHandle) -> Result<(), u32> {
        self.begin(pipe, |pipe, buffer, overlapped| {
            let len = buffer.len() as u32;
            // SAFETY: the pipe is open; buffer and structure stay where they are, untouched, until
            // the operation is over (`Operation`).
            unsafe { ReadFile(pipe, buffer.as_mut_ptr(), len, null_mut(), overlapped) }
        })
    }

    /// Begins to write the buffer.
    fn write(&mut self, pipe: &OwnedHandle) -> Result<(), u32> {
        self.begin(pipe, |pipe, buffer, overlapped| {
            let len = buffer.len() as u32;
            // SAFETY: as in `read`.
            unsafe { WriteFile(pipe, buffer.as_ptr(), len, null_mut(), overlapped) }
        })
    }

    /// How far it is. When it is over, the buffer may be used again.
    fn outcome(&mut self, wait: bool) -> Outcome {
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

    /// Ends it, if it runs. Must be called before the pipe is closed.
    fn cancel(&mut self) {
        if let Some(pipe) = self.running {
            // SAFETY: the pipe is open as long as the operation runs; the structure is its.
            unsafe { CancelIoEx(pipe, &raw const *self.overlapped) };
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

/// A name that accepts connections. It goes away when this is dropped.
pub(crate) struct ControlListener {
    path: PathBuf,
    attributes: Attributes,
    next: Mutex<Option<Instance>>,
    connected: Arc<Event>,
}

/// An end of the pipe for the next client. Fields in the order in which they must be dropped.
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
            next: Mutex::new(None),
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
        *listener.lock() = Some(first);
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
        let mut next = self.lock();
        // `None` if it could not be made the last time.
        if let Some(instance) = &mut *next {
            match instance.client() {
                Client::Expected => return Ok(None),
                Client::There => {}
                Client::Gone => *next = None,
            }
        }
        // Not signalled any more until the next one has a client.
        self.connected.reset();
        let client = next.take();
        match self.instance(false) {
            Ok(instance) => *next = Some(instance),
            Err(error) => {
                // Tried again with the next accept, which this brings about.
                self.connected.set();
                if client.is_none() {
                    return Err(error);
                }
                tracing::error!(%error, "the control pipe has no end for the next client");
            }
        }
        match client {
            None => Ok(None),
            Some(Instance { pipe, .. }) => match hand_over(&pipe) {
                Ok(socket) => Ok(Some(socket)),
                // Its own affair. The next one has signalled, or will.
                Err(error) => {
                    tracing::warn!(%error, "a client was lost while it connected");
                    Ok(None)
                }
            },
        }
    }

    /// The pipe's full name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instance>> {
        self.next.lock().unwrap_or_else(|e| e.into_inner())
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
    let offered = Process::open(pid, true).and_then(|process| {
        let (ours, theirs) = pair()?;
        let value = process.put(theirs.as_handle())?;
        Ok((ControlSocket::new(ours, End::Server, pid, process)?, value))
    });
    let value = match &offered {
        Ok((_, value)) => *value,
        Err(_) => 0,
    };
    let mut telling = Operation::new(Arc::new(Event::new(Reset::Manual)?));
    telling.buffer = value.to_le_bytes().to_vec();
    // Into an empty pipe: does not wait for anybody.
    telling.write(named).map_err(os_error)?;
    match telling.outcome(false) {
        Outcome::Done(_) => Ok(offered?.0),
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

/// Takes the other end of the pipe that is called `path`.
fn open_pipe(path: &Path) -> io::Result<OwnedHandle> {
    let pipe = OpenOptions::new()
        .read(true)
        .write(true)
        .share_mode(0)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        // Whoever has the name may learn who we are but not act as us.
        .security_qos_flags(SECURITY_IDENTIFICATION)
        .open(path)?;
    Ok(pipe.into())
}

/// Nothing to do: a pipe's name goes with the process.
pub(crate) fn sweep_dead_name(_: &Path) {}

/// What [`ControlSocket::receive`] got.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at the moment.
    Nothing,
    /// The peer is gone.
    EndOfFile,
}

/// Which end of the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// One connection's control pipe.
pub(crate) struct ControlSocket {
    pipe: Mutex<Pipe>,
    /// Signalled while something is there to receive, or the end.
    readable: Arc<Event>,
    /// Signalled while no write is under way.
    writable: Arc<Event>,
    end: End,
    /// The process at the other end. A server can put handles into it and take them out.
    process: Process,
    pid: u32,
}

/// Fields in the order in which they must be dropped.
struct Pipe {
    reading: Operation,
    writing: Operation,
    /// What was read and not taken: a part of the read's buffer.
    unread: std::ops::Range<usize>,
    /// Bytes of a chunk's head that have come.
    head: Vec<u8>,
    /// Bytes left in the current chunk.
    left: usize,
    ended: bool,
    /// `None` after the shut-down.
    handle: Option<OwnedHandle>,
}

impl ControlSocket {
    fn new(handle: OwnedHandle, end: End, pid: u32, process: Process) -> io::Result<Self> {
        let readable = Arc::new(Event::new(Reset::Manual)?);
        let writable = Arc::new(Event::new(Reset::Manual)?);
        writable.set();
        let mut pipe = Pipe {
            reading: Operation::new(readable.clone()),
            writing: Operation::new(writable.clone()),
            unread: 0..0,
            head: Vec::new(),
            left: 0,
            ended: false,
            handle: Some(handle),
        };
        pipe.reading.buffer = vec![0; READ_BUFFER];
        pipe.read_on();
        Ok(Self {
            pipe: Mutex::new(pipe),
            readable,
            writable,
            end,
            process,
            pid,
        })
    }

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
        match handed_over(&named, deadline) {
            Ok(Some(0)) => Err(Error::io(
                "connect: the server may not open this process (is it run with fewer rights?)",
            )(io::ErrorKind::PermissionDenied.into())),
            Ok(Some(value)) => adopt(value)
                .and_then(|pipe| Self::new(pipe, End::Client, pid, server))
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

    /// Who is at the other end: for a client, whoever made the pipe.
    pub(crate) fn peer(&self) -> io::Result<Identity> {
        Ok(Identity {
            pid: self.pid,
            sid: self.process.user()?,
        })
    }

    /// Who this process is.
    pub(crate) fn own_identity() -> Identity {
        Identity {
            pid: std::process::id(),
            sid: own_user(),
        }
    }

    /// Sends as much of `bytes` as the pipe takes; `handles` go with the first byte. Returns how
    /// much. Never blocks: zero if there is no room.
    ///
    /// A client must keep the handles until it knows that the server has them.
    pub(crate) fn send(&self, bytes: &[u8], handles: &[&Handle]) -> io::Result<usize> {
        if handles.len() > MAX_HANDLES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many handles",
            ));
        }
        let mut pipe = self.lock();
        if !pipe.has_room()? {
            return Ok(0);
        }
        let len = bytes.len().min(MAX_CHUNK);
        let mut chunk = Vec::with_capacity(CHUNK_HEAD + 8 * handles.len() + len);
        chunk.extend_from_slice(&(len as u32).to_le_bytes());
        chunk.extend_from_slice(&(handles.len() as u32).to_le_bytes());
        for handle in handles {
            let value = match self.end {
                End::Server => self.process.put(handle.as_handle())?,
                End::Client => handle.0.as_raw_handle().expose_provenance() as u64,
            };
            chunk.extend_from_slice(&value.to_le_bytes());
        }
        chunk.extend_from_slice(&bytes[..len]);
        pipe.write(chunk)?;
        Ok(len)
    }

    /// Receives into `buffer`, appending handles that come along to `handles`. Never blocks.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        handles: &mut Vec<Handle>,
    ) -> io::Result<Received> {
        loop {
            let values = {
                let mut pipe = self.lock();
                if pipe.left > 0 {
                    let Some(count) = pipe.take(buffer) else {
                        return Ok(pipe.nothing());
                    };
                    return Ok(Received::Bytes(count));
                }
                match pipe.take_head()? {
                    None => return Ok(pipe.nothing()),
                    Some(values) => values,
                }
            };
            for value in values {
                handles.push(Handle(match self.end {
                    End::Server => self.process.take(value)?,
                    End::Client => adopt(value)?,
                }));
            }
        }
    }

    /// Whether the system has all that was sent, so that a shut-down cuts nothing off.
    pub(crate) fn is_sent(&self) -> bool {
        self.lock().has_room().unwrap_or(true)
    }

    /// What is there to receive does not wake anybody until it is asked for again.
    pub(crate) fn hold(&self) {
        let pipe = self.lock();
        if !pipe.ended {
            self.readable.reset();
        }
    }

    /// Ends the connection in both directions; the peer gets what was sent, then the end of file.
    pub(crate) fn shut_down(&self) {
        let mut pipe = self.lock();
        pipe.reading.cancel();
        pipe.writing.cancel();
        pipe.handle = None;
        pipe.ended = true;
        pipe.unread = 0..0;
        self.readable.set();
        self.writable.set();
    }

    /// Blocks until there is something to receive (`for_sending`: room to send), or `timeout` is
    /// over. Returns whether there is.
    pub(crate) fn wait_ready(&self, for_sending: bool, timeout: Duration) -> io::Result<bool> {
        let event = if for_sending {
            &self.writable
        } else {
            &self.readable
        };
        event.wait(Some(timeout))
    }

    fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What the server says over the pipe with the name. `None`: nothing until the deadline.
fn handed_over(named: &OwnedHandle, deadline: Instant) -> io::Result<Option<u64>> {
    let event = Arc::new(Event::new(Reset::Manual)?);
    let mut reading = Operation::new(event.clone());
    reading.buffer = vec![0; 8];
    let failed = |code| {
        if is_end(code) {
            return io::ErrorKind::BrokenPipe.into();
        }
        os_error(code)
    };
    reading.read(named).map_err(failed)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if !event.wait(Some(left))? {
        return Ok(None);
    }
    match reading.outcome(true) {
        Outcome::Done(8) => {
            let value = reading.buffer[..].try_into().expect("eight bytes");
            Ok(Some(u64::from_le_bytes(value)))
        }
        Outcome::Done(_) | Outcome::Running => Err(io::ErrorKind::InvalidData.into()),
        Outcome::Failed(code) => Err(failed(code)),
    }
}

/// A handle that the server put into this process, the client's.
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

impl Pipe {
    /// Begins to read, for as long as there is a peer.
    fn read_on(&mut self) {
        let Some(pipe) = &self.handle else {
            return;
        };
        let begun = self.reading.read(pipe);
        if begun.is_err() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.reading.event.set();
    }

    /// What a receiver is told that found nothing.
    fn nothing(&self) -> Received {
        if self.ended {
            Received::EndOfFile
        } else {
            Received::Nothing
        }
    }

    /// Whether bytes are there, after a look at what the system has brought.
    fn has_bytes(&mut self) -> bool {
        while self.unread.is_empty() && !self.ended {
            match self.reading.outcome(false) {
                Outcome::Running => return false,
                Outcome::Done(0) => self.read_on(),
                Outcome::Done(count) => self.unread = 0..count,
                // The thread that began it has ended.
                Outcome::Failed(ERROR_OPERATION_ABORTED) => self.read_on(),
                Outcome::Failed(_) => self.end(),
            }
        }
        !self.unread.is_empty()
    }

    /// Takes up to `max` bytes that are there.
    fn bytes(&mut self, max: usize) -> std::ops::Range<usize> {
        let start = self.unread.start;
        let end = start + max.min(self.unread.len());
        self.unread.start = end;
        start..end
    }

    /// Reads on when all is taken. Only now may the buffer change.
    fn taken(&mut self) {
        if self.unread.is_empty() && !self.ended {
            self.read_on();
        }
    }

    /// Takes bytes of the current chunk, if any are there.
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.has_bytes() {
            return None;
        }
        let part = self.bytes(buffer.len().min(self.left));
        let count = part.len();
        buffer[..count].copy_from_slice(&self.reading.buffer[part]);
        self.left -= count;
        self.taken();
        Some(count)
    }

    /// Takes a chunk's head, if all of it is there; gives the handles' values.
    fn take_head(&mut self) -> io::Result<Option<Vec<u64>>> {
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        let word = |head: &[u8], at: usize| {
            let bytes = head[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes) as usize
        };
        loop {
            let mut wanted = CHUNK_HEAD;
            if self.head.len() >= CHUNK_HEAD {
                let (len, handles) = (word(&self.head, 0), word(&self.head, 4));
                if len == 0 || len > MAX_CHUNK {
                    return invalid("a chunk of no or too many bytes");
                }
                if handles > MAX_HANDLES {
                    return invalid("too many handles");
                }
                wanted += 8 * handles;
                if self.head.len() == wanted {
                    let values = self.head[CHUNK_HEAD..]
                        .chunks_exact(8)
                        .map(|value| u64::from_le_bytes(value.try_into().expect("eight bytes")));
                    let values = values.collect();
                    self.head.clear();
                    self.left = len;
                    return Ok(Some(values));
                }
            }
            if !self.has_bytes() {
                return Ok(None);
            }
            let part = self.bytes(wanted - self.head.len());
            self.head.extend_from_slice(&self.reading.buffer[part]);
            self.taken();
        }
    }

    /// Whether the last write is over.
    fn has_room(&mut self) -> io::Result<bool> {
        if self.handle.is_none() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.writing.running.is_none() {
            return Ok(true);
        }
        match self.writing.outcome(false) {
            Outcome::Running => Ok(false),
            Outcome::Done(_) => Ok(true),
            Outcome::Failed(code) => Err(self.write_error(code)),
        }
    }

    fn write(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let pipe = self.handle.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        self.writing.buffer = chunk;
        let begun = self.writing.write(pipe);
        begun.map_err(|code| self.write_error(code))
    }

    fn write_error(&self, code: u32) -> io::Error {
        // Whoever wants to send more must not wait for it.
        self.writing.event.set();
        if is_end(code) {
            return io::ErrorKind::BrokenPipe.into();
        }
        os_error(code)
    }
}

impl Watched for ControlSocket {
    fn readable(&self) -> &Arc<Event> {
        &self.readable
    }

    fn writable(&self) -> &Arc<Event> {
        &self.writable
    }
}

impl std::fmt::Debug for ControlSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlSocket").field(&self.end).finish()
    }
}
