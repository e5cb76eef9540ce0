//! Waking a sleeper in another process, and sleeping until woken or until the peer is gone.
//!
//! A doorbell is a socket pair: the owner sleeps on one end, the peer sends single bytes into the
//! other. `os_sync_wait_on_address` and `__ulock_wait2` cost less to wake but cannot be waited on
//! together with the socket whose end of file tells of the peer's death, nor in Tokio's reactor,
//! nor for many connections at once; a descriptor can, by kqueue. A pipe would do the same, but
//! only a socket can be written to without blocking by the call alone (`MSG_DONTWAIT`), whatever
//! the peer makes of the descriptor's flags.
//!
//! Bytes are taken out only when many have come, and never the last one: an edge-triggered watch
//! tells of each byte as it arrives, but only while there is something to read, and there may be
//! two sleepers (the halves of a split connection).

use super::kqueue::{Interest, Queue, key};
use crate::sys::{Handle, Woken};
use rustix::event::kqueue::Event;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes after which a doorbell is emptied. The system's smallest buffer is several times that.
const MANY: usize = 1024;

/// The end of the pair that its owner sleeps on.
#[derive(Debug)]
pub(super) struct SleepEnd {
    socket: OwnedFd,
    /// Held while bytes are taken out, so that the last one stays.
    emptying: Mutex<()>,
}

impl SleepEnd {
    /// Takes out all bytes but one, if `event` says that there are many.
    pub(super) fn empty_if_full(&self, event: &Event) {
        if event.data() < MANY as i64 {
            return;
        }
        let _emptying = self.emptying.lock().unwrap_or_else(|e| e.into_inner());
        let Ok(there) = rustix::io::ioctl_fionread(&self.socket) else {
            return;
        };
        let mut left = there.saturating_sub(1) as usize;
        let mut buffer = [0u8; MANY];
        while left > 0 {
            let part = left.min(buffer.len());
            match rustix::net::recv(&self.socket, &mut buffer[..part], RecvFlags::DONTWAIT) {
                Ok((taken, _)) if taken > 0 => left -= taken.min(left),
                _ => return,
            }
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for SleepEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The means to wake one side of one connection.
#[derive(Debug)]
pub(crate) struct Doorbell {
    sleep_end: Arc<SleepEnd>,
    ring_end: OwnedFd,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        let (sleep_end, ring_end) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::empty(),
            None,
        )?;
        for end in [&sleep_end, &ring_end] {
            rustix::io::fcntl_setfd(end, FdFlags::CLOEXEC)?;
            rustix::net::sockopt::set_socket_nosigpipe(end, true)?;
        }
        let sleep_end = SleepEnd {
            socket: sleep_end,
            emptying: Mutex::new(()),
        };
        Ok(Self {
            sleep_end: Arc::new(sleep_end),
            ring_end,
        })
    }

    /// What the peer rings this doorbell with.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        Ok(self.ring_end.try_clone()?.into())
    }

    /// Wakes whoever sleeps on this doorbell. One system call; never blocks.
    pub(crate) fn ring(&self) {
        ring(&self.ring_end);
    }

    pub(super) fn sleep_end(&self) -> &Arc<SleepEnd> {
        &self.sleep_end
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sleep_end.as_fd()
    }
}

/// The means to wake the other side.
#[derive(Debug)]
pub(crate) struct PeerDoorbell(Handle);

impl PeerDoorbell {
    /// Takes a descriptor that a peer sent as its doorbell.
    ///
    /// It may be any socket: it is only ever sent single bytes, without blocking, and what that
    /// does to a socket of the peer's own choosing is the peer's affair.
    pub(crate) fn open(handle: Handle) -> io::Result<Self> {
        rustix::net::sockopt::set_socket_nosigpipe(&handle, true)?;
        Ok(Self(handle))
    }

    /// Wakes the peer, if it sleeps. One system call; never blocks.
    pub(crate) fn ring(&self) {
        ring(&self.0);
    }
}

/// Errors are of no use to the caller: a full buffer means that the owner was rung already,
/// anything else that the owner broke its own doorbell.
fn ring(bell: &impl AsFd) {
    let _ = rustix::net::send(bell, &[1], SendFlags::DONTWAIT);
}

const DOORBELL: usize = 0;
const CONTROL: usize = 1;

/// A place to sleep for one thread.
#[derive(Debug)]
pub(crate) struct Sleeper {
    queue: Queue,
    bell: Arc<SleepEnd>,
}

impl Sleeper {
    pub(crate) fn new(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::watching(doorbell, control, Interest::Data)
    }

    /// As [`new`](Self::new), for a control socket that carries frames: each arrival wakes once,
    /// whether or not what arrived is taken.
    pub(crate) fn on_stream(doorbell: &Doorbell, control: &impl AsFd) -> io::Result<Self> {
        Self::watching(doorbell, control, Interest::EachArrival)
    }

    fn watching(doorbell: &Doorbell, control: &impl AsFd, how: Interest) -> io::Result<Self> {
        let queue = Queue::new()?;
        queue.add(doorbell, Interest::EachArrival, DOORBELL)?;
        queue.add(control, how, CONTROL)?;
        Ok(Self {
            queue,
            bell: doorbell.sleep_end.clone(),
        })
    }

    /// Sleeps until the doorbell rings, the control socket has something, or `timeout` is over
    /// (`None`: for ever). May return early without a reason.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let mut events = [MaybeUninit::<Event>::uninit(); 2];
        let mut woken = Woken::TimedOut;
        for event in self.queue.wait(&mut events, timeout)? {
            // A peer that is gone matters more than a ring: after it, nobody rings again. What was
            // published before is in the ring and is looked for first in any case.
            if key(event) == CONTROL {
                woken = Woken::Control;
            } else {
                self.bell.empty_if_full(event);
                if woken == Woken::TimedOut {
                    woken = Woken::Rung;
                }
            }
        }
        Ok(woken)
    }
}

impl AsFd for Sleeper {
    /// The kqueue: readable while a sleep would end at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_socket_is_refused() {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(PeerDoorbell::open(pipe.into()).is_err());
    }
}
