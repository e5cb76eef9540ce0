//! What Linux's Unix sockets have of their own.

use crate::error::Identity;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::unix::net::UnixStream;

/// The longest path that a socket address can hold.
pub(in crate::sys) const MAX_PATH: usize = 107;

pub(in crate::sys) const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
pub(in crate::sys) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC.union(RecvFlags::DONTWAIT);

/// A socket that blocks nobody and is not inherited.
pub(in crate::sys) fn create() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Linux takes the mode of the socket's file from the socket, so that it is never open to others,
/// not even for a moment.
pub(in crate::sys) fn close_to_others(socket: &OwnedFd) -> io::Result<()> {
    rustix::fs::fchmod(socket, Mode::RUSR | Mode::WUSR)
}

/// Nothing to do: [`SEND`] says it per call.
pub(in crate::sys) fn set_up(_: &UnixStream) -> io::Result<()> {
    Ok(())
}

/// Nothing to do: [`RECEIVE`] does it.
pub(in crate::sys) fn close_on_exec(_: &impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Who connected, or started to listen.
pub(in crate::sys) fn peer(socket: &impl AsFd) -> std::io::Result<Identity> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Identity {
        pid: credentials.pid.as_raw_nonzero().get() as u32,
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}
