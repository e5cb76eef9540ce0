//! Waking a sleeper in another process, and sleeping until woken or until the peer is gone.
//!
//! A doorbell is a pair of Unix sockets through which no byte ever goes: the owner sleeps on one
//! end, the peer rings by shutting the other one down for sending, again and again. Each time the
//! kernel wakes whoever watches the owner's end, which has been readable (at its end of file) all
//! along, so that an edge-triggered watch sees an edge.
//!
//! # Why not an eventfd
//! It costs about the same, but there is one open file behind its descriptors in both
//! processes: the owner can make it a blocking one at any time (`O_NONBLOCK` belongs to the file)
//! and fill its counter, and whoever rings it then sleeps until the owner likes. A pipe is no
//! better: its owner holds the pipe's lock while it reads into memory that never arrives
//! (userfaultfd). A shutdown waits for nothing, allocates nothing and can fill nothing, whatever
//! is done to either end. A shared futex cannot be waited on together with the socket whose end
//! of file tells of the peer's death; this can, by `epoll`, by Tokio's reactor, and for any number
//! of connections at once.

use crate::sys::{Handle, Woken};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use std::io;
use std::sync::Mutex;
use std::time::Duration;

/// The means to wake one side of one connection.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Only this process has it, so nobody else can change how it behaves.
    sleep_end: OwnedFd,
    /// Until it is given away.
    ring_end: Mutex<Option<OwnedFd>>,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (sleep_end, ring_end) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // From now on the kernel refuses whatever is sent into the other end. Nothing can pile up
        // here, descriptors included, which closing this end would then have to close.
        rustix::net::shutdown(&sleep_end, Shutdown::Read)?;
        Ok(Self {
            sleep_end,
            ring_end: Mutex::new(Some(ring_end)),
        })
    }

    /// What the peer rings this doorbell with. There is one.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        let mut ring_end = self.ring_end.lock().unwrap_or_else(|e| e.into_inner());
        let given_away = || io::Error::other("the doorbell's handle was given away before");
        Ok(ring_end.take().ok_or_else(given_away)?.into())
    }

    /// Wakes whoever sleeps on this doorbell. One system call; never blocks.
    pub(crate) fn ring(&self) {
        // It is shut down since `new`; the kernel wakes its watchers all the same.
        let _ = rustix::net::shutdown(&self.sleep_end, Shutdown::Read);
    }
}

/// The means to wake the other side.
#[derive(Debug)]
pub(crate) struct PeerDoorbell(Handle);

impl PeerDoorbell {
    /// Takes a descriptor that a peer sent as its doorbell.
    ///
    /// It must be a Unix stream socket, of which shutting it down is known not to wait. With other
    /// kinds it may: a TCP socket's lock can be held by its owner for as long as that likes. What
    /// the shutdown does to a socket of the peer's choosing is the peer's affair.
    pub(crate) fn open(handle: Handle) -> io::Result<Self> {
        let refused = |what: &str| {
            let text = format!("the peer's doorbell is {what}, no end of a pair of stream sockets");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        match sockopt::socket_domain(&handle) {
            Err(Errno::NOTSOCK) => return Err(refused("no socket")),
            Ok(AddressFamily::UNIX) => {}
            Ok(_) => return Err(refused("a socket of another family")),
            Err(error) => return Err(error.into()),
        }
        if sockopt::socket_type(&handle)? != SocketType::STREAM {
            return Err(refused("a socket of another type"));
        }
        Ok(Self(handle))
    }

    /// Wakes the peer, if it sleeps. One system call; never blocks.
    ///
    /// Errors are of no use to the caller: they mean that the owner broke its own doorbell.
    pub(crate) fn ring(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sleep_end.as_fd()
    }
}

const DOORBELL: u64 = 0;
const CONTROL: u64 = 1;

/// A place to sleep for one thread.
///
/// The doorbell is watched edge-triggered and never read: each ring is a new edge. That saves a
/// system call per sleep, and lets two sleepers (the halves of a split connection) share one
/// doorbell, for an edge reaches both. A new sleeper's first sleep ends at once, as if somebody had
/// rung before: somebody may have.
#[derive(Debug)]
pub(crate) struct Sleeper(OwnedFd);

impl Sleeper {
    pub(crate) fn new(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::watching(doorbell, control, epoll::EventFlags::empty())
    }

    /// As [`new`](Self::new), for a control socket that carries frames: each arrival wakes once,
    /// whether or not what arrived is taken.
    pub(crate) fn on_stream(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::watching(doorbell, control, epoll::EventFlags::ET)
    }

    fn watching(
        doorbell: &Doorbell,
        control: &impl AsFd,
        how: epoll::EventFlags,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            doorbell,
            epoll::EventData::new_u64(DOORBELL),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        epoll::add(
            &epoll,
            control,
            epoll::EventData::new_u64(CONTROL),
            epoll::EventFlags::IN | epoll::EventFlags::RDHUP | how,
        )?;
        Ok(Self(epoll))
    }

    /// Sleeps until the doorbell rings, the control socket has something, or `timeout` is over
    /// (`None`: for ever). May return early without a reason.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut events = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 2];
        let (events, _) = match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(Woken::TimedOut),
            other => other?,
        };
        // A peer that is gone matters more than a ring: after it, nobody rings again. What was
        // published before is in the ring and is looked for first in any case.
        Ok(match events.iter().map(|e| e.data.u64()).max() {
            Some(CONTROL) => Woken::Control,
            Some(_) => Woken::Rung,
            None => Woken::TimedOut,
        })
    }
}

impl AsFd for Sleeper {
    /// The epoll descriptor: readable while a sleep would end at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::SendFlags;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    const NO_TIME: Option<Duration> = Some(Duration::ZERO);

    /// A sleeper that has had its first, short sleep.
    fn sleeper(bell: &Doorbell, control: &UnixStream) -> Sleeper {
        let sleeper = Sleeper::new(bell, control).unwrap();
        assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::Rung);
        sleeper
    }

    #[test]
    fn a_ring_wakes_who_sleeps_already() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let bell = Doorbell::new().unwrap();
        let peer = PeerDoorbell::open(bell.handle().unwrap()).unwrap();
        let sleeper = sleeper(&bell, &ours);
        std::thread::scope(|threads| {
            let asleep = threads.spawn(|| sleeper.sleep(None).unwrap());
            // It sleeps by then, or finds the ring at once: right either way.
            std::thread::sleep(Duration::from_millis(20));
            peer.ring();
            assert_eq!(asleep.join().unwrap(), Woken::Rung);
        });
    }

    #[test]
    fn a_bell_whose_peer_is_gone_still_rings_for_this_side() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let bell = Doorbell::new().unwrap();
        let peer = PeerDoorbell::open(bell.handle().unwrap()).unwrap();
        let sleeper = sleeper(&bell, &ours);
        drop(peer);
        assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::Rung);
        assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::TimedOut);
        bell.ring();
        assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::Rung);
    }

    #[test]
    fn nothing_can_be_sent_into_a_doorbell() {
        let bell = Doorbell::new().unwrap();
        let ring_end = bell.handle().unwrap();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        assert_eq!(
            rustix::net::send(&ring_end, b"x", flags).unwrap_err(),
            Errno::PIPE
        );
        assert!(bell.handle().is_err(), "there is more than one handle");
    }

    #[test]
    fn what_could_block_is_refused() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (what, bell) in [
            ("a pipe", pipe),
            ("an eventfd", eventfd),
            ("a file", file.into()),
            ("a datagram socket", datagrams.into()),
            ("a TCP socket", tcp.into()),
        ] {
            let error = PeerDoorbell::open(Handle::from(bell)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{what}: {error}");
        }
    }
}
