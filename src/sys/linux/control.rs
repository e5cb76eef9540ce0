//! The control socket: the one thing with a name. It carries the handshake with its descriptors,
//! then rare messages, and its end of file is how a side learns that the other died.

use crate::error::{DirectoryFault, Error, Identity};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Descriptors that one message may carry before the surplus is refused.
const MAX_DESCRIPTORS: usize = 4;

/// Longest pause between two tries to connect to a server whose backlog is full.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// The longest path that a Unix socket address can hold.
const MAX_PATH: usize = 107;

/// The error for a server that is there but does not react in time.
pub(crate) fn no_answer() -> Error {
    Error::io("finish the handshake: the server does not answer")(io::ErrorKind::TimedOut.into())
}

/// Where servers with a plain name live: `$NEARWIRE_DIR`, else `$XDG_RUNTIME_DIR/nearwire`, else
/// `/tmp/nearwire-UID`.
pub(crate) fn default_directory() -> PathBuf {
    if let Some(dir) = std::env::var_os("NEARWIRE_DIR").filter(|d| !d.is_empty()) {
        return dir.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        Some(dir) => Path::new(&dir).join("nearwire"),
        None => format!("/tmp/nearwire-{}", own_uid()).into(),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The directory of a socket, opened and found private. Locked while a name is taken or freed.
#[derive(Debug)]
struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`, which must be a real directory of this user's (or root's) that nobody else
    /// may write. `create`: make it, 0700, if it is missing. `private`: nobody else may even
    /// enter it.
    fn open(path: &Path, create: bool, private: bool) -> Result<Self, Error> {
        if create {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Err(Errno::NOENT) => {
                    if let Some(parent) = path.parent() {
                        std::fs::create_dir_all(parent).map_err(Error::io("create directory"))?;
                    }
                    rustix::fs::mkdir(path, Mode::RWXU)
                        .map_err(|e| Error::io("create the socket directory")(e.into()))?;
                }
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("create the socket directory")(error.into())),
            }
        }
        let fault = |fault| Error::Directory {
            path: path.to_owned(),
            fault,
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(fault(DirectoryFault::SymbolicLink)),
            // With O_DIRECTORY a symbolic link is "not a directory".
            Err(Errno::NOTDIR) => {
                let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
                return Err(fault(if link {
                    DirectoryFault::SymbolicLink
                } else {
                    DirectoryFault::NotADirectory
                }));
            }
            Err(Errno::ACCESS) => return Err(fault(DirectoryFault::NoAccess)),
            Err(Errno::NOENT) => return Err(fault(DirectoryFault::Missing)),
            other => other.map_err(|e| Error::io("open the socket directory")(e.into()))?,
        };
        let stat = rustix::fs::fstat(&fd)
            .map_err(|e| Error::io("check the socket directory")(e.into()))?;
        let mine = own_uid();
        if stat.st_uid != mine && (private || stat.st_uid != 0) {
            return Err(fault(DirectoryFault::Owner {
                is: stat.st_uid,
                me: mine,
            }));
        }
        let forbidden = if private { 0o077 } else { 0o022 };
        if stat.st_mode & forbidden != 0 {
            return Err(fault(DirectoryFault::Mode {
                is: stat.st_mode & 0o7777,
            }));
        }
        Ok(Self(fd))
    }

    /// Keeps other servers of this directory from taking or freeing a name meanwhile. Released
    /// when the directory is closed.
    fn lock(&self) -> Result<(), Error> {
        loop {
            match rustix::fs::flock(&self.0, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => {
                    return other.map_err(|e| Error::io("lock the socket directory")(e.into()));
                }
            }
        }
    }
}

/// A named socket that accepts connections. The name goes away when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    socket: UnixListener,
    path: PathBuf,
    private: bool,
    inode: (u64, u64),
}

impl ControlListener {
    /// Takes the name `path`. `private`: the directory is Nearwire's own, made if missing and
    /// closed to everybody else.
    ///
    /// A socket file that a killed server left behind is replaced; one that somebody listens on is
    /// not.
    pub(crate) fn bind(path: &Path, private: bool) -> Result<Self, Error> {
        let address = address(path)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = Directory::open(parent, private, private)?;
        directory.lock()?;
        remove_if_stale(path, &address)?;
        let io = |doing| move |e: Errno| Error::io(doing)(e.into());
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(io("create the control socket"))?;
        // Linux takes the file's mode from the socket, so that it is never open to others, not
        // even for a moment.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(io("set the control socket's mode"))?;
        rustix::net::bind(&socket, &address).map_err(|error| match error {
            Errno::ADDRINUSE => Error::NameInUse {
                path: path.to_owned(),
            },
            other => Error::io("bind the control socket")(other.into()),
        })?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)
            .map_err(io("set the control socket's mode"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(io("listen on the control socket"))?;
        let stat = rustix::fs::lstat(path).map_err(io("check the control socket"))?;
        #[allow(clippy::unnecessary_cast)] // the fields' types differ by architecture
        let inode = (stat.st_dev as u64, stat.st_ino as u64);
        Ok(Self {
            socket: socket.into(),
            path: path.to_owned(),
            private,
            inode,
        })
    }

    /// The next connection, or `None` if nobody is waiting.
    pub(crate) fn accept(&self) -> io::Result<Option<ControlSocket>> {
        match self.socket.accept() {
            Ok((socket, _)) => Ok(Some(ControlSocket::new(socket)?)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The client gave up while it was waiting.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file that is the name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for ControlListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // Under the lock, and only if the name is still this socket's: a successor may have it.
        let parent = self.path.parent().unwrap_or(Path::new("."));
        let Ok(directory) = Directory::open(parent, false, self.private) else {
            return;
        };
        if directory.lock().is_ok()
            && let Ok(stat) = rustix::fs::lstat(&self.path)
        {
            #[allow(clippy::unnecessary_cast)]
            let inode = (stat.st_dev as u64, stat.st_ino as u64);
            if inode == self.inode {
                let _ = rustix::fs::unlink(&self.path);
            }
        }
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, Error> {
    let len = path.as_os_str().len();
    if len > MAX_PATH {
        return Err(Error::PathTooLong {
            path: path.to_owned(),
            len,
            max: MAX_PATH,
        });
    }
    SocketAddrUnix::new(path).map_err(|e| Error::io("form a socket address")(e.into()))
}

/// Removes the socket file at `path` if nobody listens on it. The directory is locked.
fn remove_if_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|e| Error::io("check the socket's name")(e.into()))?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Error::NotASocket {
            path: path.to_owned(),
        });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| Error::io("create a socket")(e.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path)
            .map_err(|e| Error::io("remove a dead server's socket")(e.into())),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ACCESS) => Err(Error::Directory {
            path: path.to_owned(),
            fault: DirectoryFault::NoAccess,
        }),
        // Connected, or the backlog is full: alive.
        _ => Err(Error::NameInUse {
            path: path.to_owned(),
        }),
    }
}

/// Removes the socket file that a killed server left at `path`. Does nothing while anybody listens
/// there, and nothing if it cannot be done at once.
pub(crate) fn sweep_dead_name(path: &Path) {
    let parent = path.parent().unwrap_or(Path::new("."));
    if let Ok(directory) = Directory::open(parent, false, false)
        && rustix::fs::flock(&directory.0, FlockOperation::NonBlockingLockExclusive).is_ok()
        && let Ok(address) = address(path)
    {
        let _ = remove_if_stale(path, &address);
    }
}

/// What [`ControlSocket::receive`] got.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at the moment (or until the timeout).
    Nothing,
    /// The peer is gone.
    EndOfFile,
}

/// One connection's control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    socket: UnixStream,
}

impl ControlSocket {
    fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Connects to the server at `path`. Blocks while the server's backlog is full, until
    /// `deadline` at most.
    pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<Self, Error> {
        let address = address(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|e| Error::io("create a socket")(e.into()))?;
        let mut pause = Duration::from_micros(100);
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => {
                    return Ok(Self {
                        socket: socket.into(),
                    });
                }
                Err(Errno::INTR) => {}
                // The backlog is full; the system has no way to wait for a place with a time-out.
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(
                        pause.min(deadline.saturating_duration_since(Instant::now())),
                    );
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(Errno::AGAIN) => return Err(no_answer()),
                Err(error @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                    return Err(Error::NoServer {
                        path: path.to_owned(),
                        dead: error == Errno::CONNREFUSED,
                    });
                }
                Err(Errno::ACCESS) => {
                    return Err(Error::Directory {
                        path: path.to_owned(),
                        fault: DirectoryFault::NoAccess,
                    });
                }
                Err(other) => return Err(Error::io("connect to the server")(other.into())),
            }
        }
    }

    /// Who is at the other end: for a client, whoever started to listen there.
    pub(crate) fn peer(&self) -> io::Result<Identity> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.socket)?;
        Ok(Identity {
            pid: credentials.pid.as_raw_nonzero().get() as u32,
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
        })
    }

    /// Who this process is.
    pub(crate) fn own_identity() -> Identity {
        Identity {
            pid: std::process::id(),
            uid: own_uid(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Sends as much of `bytes` as the socket takes; `handles` go with the first byte. Returns how
    /// much. Never blocks: zero if there is no room.
    pub(crate) fn send(&self, bytes: &[u8], handles: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !handles.is_empty() && !control.push(SendAncillaryMessage::ScmRights(handles)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors",
            ));
        }
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    /// Receives into `buffer`, appending descriptors that come along to `handles`. Never blocks.
    ///
    /// Descriptors beyond what any message carries are closed by the kernel, and the message is
    /// refused as [`io::ErrorKind::InvalidData`].
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        handles: &mut Vec<OwnedFd>,
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = loop {
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                flags,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET) => return Ok(Received::EndOfFile),
                other => break other?,
            }
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                handles.extend(fds);
            }
        }
        if message.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too many descriptors",
            ));
        }
        Ok(match message.bytes {
            0 => Received::EndOfFile,
            n => Received::Bytes(n),
        })
    }

    /// Ends the connection in both directions; the peer sees the end of file.
    pub(crate) fn shut_down(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Blocks until there is something to receive (`for_sending`: room to send), or `timeout` is
    /// over. Returns whether there is.
    pub(crate) fn wait_ready(&self, for_sending: bool, timeout: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let wanted = if for_sending {
            PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.socket, wanted)], Some(&timeout)) {
            Err(Errno::INTR) => Ok(false),
            other => Ok(other? > 0),
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
