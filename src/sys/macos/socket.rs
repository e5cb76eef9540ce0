//! What macOS's Unix sockets have of their own.
//!
//! Descriptors cannot be made close-on-exec in the same step that creates or receives them: a child
//! that another thread starts in between inherits them.

use crate::error::Identity;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::{self, FdFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::unix::net::UnixStream;

/// The longest path that a socket address can hold.
pub(in crate::sys) const MAX_PATH: usize = 103;

pub(in crate::sys) const SEND: SendFlags = SendFlags::DONTWAIT;
pub(in crate::sys) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

/// A socket that blocks nobody and is not inherited.
pub(in crate::sys) fn create() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::empty(),
        None,
    )?;
    close_on_exec(&socket)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Nothing to do: the mode is the file's, which comes with `bind`.
pub(in crate::sys) fn close_to_others(_: &OwnedFd) -> io::Result<()> {
    Ok(())
}

/// A peer that is gone must not kill this process by SIGPIPE.
pub(in crate::sys) fn set_up(socket: &UnixStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_nosigpipe(socket, true)
}

pub(in crate::sys) fn close_on_exec(received: &impl AsFd) -> io::Result<()> {
    rustix::io::fcntl_setfd(received, FdFlags::CLOEXEC)
}

/// Who connected, or started to listen.
pub(in crate::sys) fn peer(socket: &impl AsFd) -> std::io::Result<Identity> {
    let check = |failed: libc::c_int| match failed {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    let fd = socket.as_fd().as_raw_fd();
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the descriptor is open, and both results are written to variables of this function.
    check(unsafe { libc::getpeereid(fd, &mut uid, &mut gid) })?;
    let mut pid: libc::pid_t = 0;
    let mut len = size_of_val(&pid) as libc::socklen_t;
    // SAFETY: the descriptor is open; the option's value is a pid_t, which `pid` has room for, and
    // `len` says so.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            (&raw mut pid).cast(),
            &mut len,
        )
    })?;
    Ok(Identity {
        pid: pid as u32,
        uid,
        gid,
    })
}
