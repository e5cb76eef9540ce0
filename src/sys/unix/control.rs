//! The control socket: the one thing with a name. It carries the handshake with its descriptors,
//! then rare messages, and its end of file is how a side learns that the other died.

use super::closing::Foreign;
use super::directory::Directory;
use super::{Handle, own_uid};
use crate::error::{DirectoryFault, Error, Identity};
use crate::sys::os::socket;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer, SendAncillaryMessage,
    SocketAddrUnix,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted. The kernel caps it (Linux: `net.core.somaxconn`,
/// macOS: `kern.ipc.somaxconn`).
const BACKLOG: i32 = 4096;

/// Descriptors that one message may carry before the surplus is refused.
const MAX_DESCRIPTORS: usize = 4;

/// Descriptors that one message can carry at all. There is room for as many, so that the kernel
/// closes none of them for want of it: that would be done by the thread that receives.
const MOST_DESCRIPTORS: usize = 253;

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
        let socket = socket::create().map_err(io("create the control socket"))?;
        socket::close_to_others(&socket).map_err(io("set the control socket's mode"))?;
        rustix::net::bind(&socket, &address).map_err(|error| match error {
            Errno::ADDRINUSE => Error::NameInUse {
                path: path.to_owned(),
            },
            other => Error::io("bind the control socket")(other.into()),
        })?;
        // Nobody can connect before the next call, whatever the mode was until now.
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
            Ok((socket, _)) => ControlSocket::new(socket).map(Some),
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
    if len > socket::MAX_PATH {
        return Err(Error::PathTooLong {
            path: path.to_owned(),
            len,
            max: socket::MAX_PATH,
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
    let probe = socket::create().map_err(|e| Error::io("create a socket")(e.into()))?;
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
        && directory.try_lock()
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
    /// The peer may leave descriptors in its queue.
    socket: Foreign,
}

impl ControlSocket {
    /// One end of a connection.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket::set_up(&socket)?;
        let socket = Foreign::from(OwnedFd::from(socket));
        Ok(Self { socket })
    }

    /// Connects to the server at `path`. Blocks until `deadline` while the server's backlog is
    /// full.
    pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<Self, Error> {
        let address = address(path)?;
        let set_up = |error| Error::io("set up the control socket")(error);
        let socket = UnixStream::from(socket::create().map_err(|e| set_up(e.into()))?);
        socket.set_nonblocking(false).map_err(set_up)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // What limits a send limits a connect as well. Zero would mean no limit.
            let left = left.max(Duration::from_micros(1));
            socket.set_write_timeout(Some(left)).map_err(set_up)?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) => return Self::new(socket).map_err(set_up),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Error::no_answer()),
                Err(Errno::NOENT) => {
                    return Err(Error::NoServer {
                        path: path.to_owned(),
                        dead: false,
                    });
                }
                Err(Errno::CONNREFUSED) => {
                    return Err(Error::NoServer {
                        path: path.to_owned(),
                        dead: true,
                    });
                }
                Err(Errno::ACCESS | Errno::PERM) => {
                    return Err(Error::Directory {
                        path: path.to_owned(),
                        fault: DirectoryFault::NoAccess,
                    });
                }
                Err(error) => return Err(Error::io("connect to the server")(error.into())),
            }
        }
    }

    /// Who is at the other end: for a client, whoever started to listen there.
    pub(crate) fn peer(&self) -> io::Result<Identity> {
        socket::peer(&self.socket)
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
    pub(crate) fn send(&self, bytes: &[u8], handles: &[&Handle]) -> io::Result<usize> {
        let handles: Vec<_> = handles.iter().map(|handle| handle.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !handles.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&handles)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors",
            ));
        }
        loop {
            let bytes = [IoSlice::new(bytes)];
            match rustix::net::sendmsg(&self.socket, &bytes, &mut control, socket::SEND) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    /// Receives into `buffer`, appending descriptors that come along to `handles`. Never blocks.
    ///
    /// A message with more descriptors than any carries is refused as
    /// [`io::ErrorKind::InvalidData`]. So is one whose descriptors this process has no room for any
    /// more; then the error is that of a process that has too many files open.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        handles: &mut Vec<Handle>,
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                socket::RECEIVE,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::CONNRESET) => return Ok(Received::EndOfFile),
                other => break other?,
            }
        };
        let mut received = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                for fd in fds {
                    let fd = Foreign::from(fd);
                    socket::close_on_exec(&fd)?;
                    received.push(Handle::Foreign(fd));
                }
            }
        }
        let cut = message.flags.contains(rustix::net::ReturnFlags::CTRUNC);
        // The kernel says no more than that some are missing, and leaves out those that would be too
        // many for the buffer, or for the process.
        if cut && received.len() <= MAX_DESCRIPTORS {
            return Err(Errno::MFILE.into());
        }
        if received.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too many descriptors",
            ));
        }
        handles.append(&mut received);
        Ok(match message.bytes {
            0 => Received::EndOfFile,
            n => Received::Bytes(n),
        })
    }

    /// Tells a server that the handles that it has sent have arrived: nothing to do, they are the
    /// system's meanwhile. False if there is no room for it.
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    pub(crate) fn confirm(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Whether the client gets the handles that were sent, whatever becomes of this side.
    pub(crate) fn is_handed_over(&self) -> bool {
        true
    }

    /// Whether the system has all that was sent, so that a shut-down cuts nothing off.
    pub(crate) fn is_sent(&self) -> bool {
        true
    }

    /// Has whatever the peer has sent by now be there to receive, and its end: nothing to do, it is.
    pub(crate) fn settle(&self) {}

    /// What is there to receive does not wake anybody until it is asked for again: nothing to do,
    /// streams are watched arrival by arrival.
    pub(crate) fn hold(&self) {}

    /// Ends the connection in both directions; the peer sees the end of file.
    pub(crate) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
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

    /// Whether the peer has closed its end, so that nothing that is sent arrives any more. What it sent
    /// before may still be there. False if that is not known.
    pub(crate) fn is_peer_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
