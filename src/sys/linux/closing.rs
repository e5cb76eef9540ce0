//! Which descriptors close at once.

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Shutdown, SocketType, sockopt};

/// Whether closing `fd` waits for nothing, whoever made it. Nothing can be sent into a socket any
/// more afterwards.
///
/// Memory files do. So does a Unix stream socket with an empty queue: what is in its queue may
/// have descriptors with it, which are closed with the socket; a listening one has a queue of
/// connections, each with its own.
pub(in crate::sys) fn closes_at_once(fd: &OwnedFd) -> bool {
    if rustix::fs::fcntl_get_seals(fd).is_ok() {
        return true;
    }
    let is_stream = matches!(sockopt::socket_domain(fd), Ok(AddressFamily::UNIX))
        && matches!(sockopt::socket_type(fd), Ok(SocketType::STREAM))
        && matches!(sockopt::socket_acceptconn(fd), Ok(false));
    // First nothing more can come, then what has come is counted.
    is_stream
        && rustix::net::shutdown(fd, Shutdown::Read).is_ok()
        && matches!(rustix::io::ioctl_fionread(fd), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn only_what_is_known_does() {
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(closes_at_once(&memory));
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(closes_at_once(&one.into()));
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(!closes_at_once(&pipe));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(!closes_at_once(&file.into()));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!closes_at_once(&tcp.into()));
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        assert!(!closes_at_once(&datagrams.into()));
        let address = rustix::net::SocketAddrUnix::new_abstract_name(
            format!("nearwire-closing-{}", std::process::id()).as_bytes(),
        );
        let listener = crate::sys::os::socket::create().unwrap();
        rustix::net::bind(&listener, &address.unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let listener = UnixListener::from(listener);
        assert!(!closes_at_once(&listener.into()));
    }

    #[test]
    fn what_is_queued_counts_and_nothing_comes_after() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (hidden, _other) = rustix::pipe::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [rustix::fd::AsFd::as_fd(&hidden)];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let byte = [IoSlice::new(b"x")];
        rustix::net::sendmsg(&theirs, &byte, &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(!closes_at_once(&ours.into()));
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(closes_at_once(&ours.into()));
        let late = rustix::net::send(&theirs, b"x", SendFlags::NOSIGNAL);
        assert!(late.is_err());
    }
}
