//! Waking a sleeper in another process, and sleeping until woken or until the peer is gone.
//!
//! A doorbell is an eventfd that its owner sleeps on and its peer writes to. A shared futex costs
//! the same to wake (docs: tuning) but cannot be waited on together with the socket whose end of
//! file tells of the peer's death; an eventfd can, by `epoll`, by Tokio's reactor, and for any
//! number of connections at once.

use crate::sys::{Handle, Woken};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// The means to wake one side of one connection.
#[derive(Debug)]
pub(crate) struct Doorbell(OwnedFd);

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// What the peer rings this doorbell with.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        Ok(self.0.try_clone()?.into())
    }

    /// Wakes whoever sleeps on this doorbell. One system call; never blocks.
    pub(crate) fn ring(&self) {
        ring(&self.0);
    }
}

/// The means to wake the other side.
#[derive(Debug)]
pub(crate) struct PeerDoorbell(OwnedFd);

impl PeerDoorbell {
    /// Takes a descriptor that a peer sent as its doorbell.
    ///
    /// It may be anything: it is only ever written eight bytes to, without blocking, and what that
    /// does to a descriptor of the peer's own choosing is the peer's affair.
    pub(crate) fn open(handle: Handle) -> io::Result<Self> {
        let fd = OwnedFd::from(handle);
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the peer's doorbell is a blocking descriptor",
            ));
        }
        Ok(Self(fd))
    }

    /// Wakes the peer, if it sleeps. One system call; never blocks.
    pub(crate) fn ring(&self) {
        ring(&self.0);
    }
}

/// Errors are of no use to the caller: a full counter means that the owner was rung already,
/// anything else that the owner broke its own doorbell.
fn ring(bell: &OwnedFd) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const DOORBELL: u64 = 0;
const CONTROL: u64 = 1;

/// A place to sleep for one thread.
///
/// The doorbell is watched edge-triggered and never read: each ring is a new edge. That saves a
/// system call per sleep, and lets two sleepers (the halves of a split connection) share one
/// doorbell, for an edge reaches both.
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
    use std::os::unix::net::UnixStream;

    #[test]
    fn each_ring_wakes_once_and_an_end_of_file_always() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let bell = Doorbell::new().unwrap();
        let sleeper = Sleeper::new(&bell, &ours).unwrap();
        let no_time = Some(Duration::ZERO);
        assert_eq!(sleeper.sleep(no_time).unwrap(), Woken::TimedOut);
        bell.ring();
        assert_eq!(sleeper.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(sleeper.sleep(no_time).unwrap(), Woken::TimedOut);
        bell.ring();
        bell.ring();
        assert_eq!(sleeper.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(sleeper.sleep(no_time).unwrap(), Woken::TimedOut);
        drop(theirs);
        bell.ring();
        assert_eq!(sleeper.sleep(None).unwrap(), Woken::Control);
        assert_eq!(sleeper.sleep(None).unwrap(), Woken::Control);
    }

    #[test]
    fn one_ring_reaches_both_sleepers() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let bell = Doorbell::new().unwrap();
        let one = Sleeper::new(&bell, &ours).unwrap();
        let two = Sleeper::new(&bell, &ours).unwrap();
        bell.ring();
        assert_eq!(one.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(two.sleep(None).unwrap(), Woken::Rung);
    }

    #[test]
    fn a_blocking_doorbell_is_refused() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(PeerDoorbell::open(pipe.into()).is_err());
    }
}
