//! Sleeping on many connections at once, for the threads that own them.

use super::doorbell::Doorbell;
use crate::sys::Event;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

/// Events taken from the kernel per call.
const BATCH: usize = 256;

/// Key of the multiplexer's own wake-up.
const WAKE: u64 = u64::MAX;

/// The lowest bit of an event's value tells a doorbell from a socket.
const SOCKET_BIT: u64 = 1;

/// A set of doorbells and sockets that one thread sleeps on.
#[derive(Debug)]
pub(crate) struct Multiplexer {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
}

/// Wakes the thread that sleeps on a [`Multiplexer`], from anywhere in this process.
#[derive(Debug, Clone)]
pub(crate) struct MultiplexerWaker(Arc<OwnedFd>);

impl MultiplexerWaker {
    /// One system call; never blocks.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Multiplexer {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), flags)?;
        Ok(Self {
            epoll,
            wake: Arc::new(wake),
        })
    }

    pub(crate) fn waker(&self) -> MultiplexerWaker {
        MultiplexerWaker(self.wake.clone())
    }

    /// Watches a doorbell, edge by edge, until it is closed or removed. The first edge is there at
    /// once: somebody may have rung before.
    pub(crate) fn add_doorbell(&self, key: usize, doorbell: &Doorbell) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, doorbell, data, flags)?)
    }

    /// Watches a socket for something to read, as long as there is something.
    pub(crate) fn add_socket(&self, key: usize, socket: &impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1 | SOCKET_BIT);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Watches a socket that carries frames: each arrival is told of once, whether or not what
    /// arrived is taken.
    pub(crate) fn add_stream(&self, key: usize, socket: &impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1 | SOCKET_BIT);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, data, flags)?)
    }

    /// Watches a socket that was not watched, for room to send.
    pub(crate) fn add_for_room(&self, key: usize, socket: &impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1 | SOCKET_BIT);
        Ok(epoll::add(
            &self.epoll,
            socket,
            data,
            epoll::EventFlags::OUT,
        )?)
    }

    /// Watches a socket for room to send instead.
    pub(crate) fn watch_for_room(&self, key: usize, socket: &impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1 | SOCKET_BIT);
        Ok(epoll::modify(
            &self.epoll,
            socket,
            data,
            epoll::EventFlags::OUT,
        )?)
    }

    /// Watches a socket for something to read again.
    pub(crate) fn watch_for_data(&self, key: usize, socket: &impl AsFd) -> io::Result<()> {
        let data = epoll::EventData::new_u64((key as u64) << 1 | SOCKET_BIT);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        Ok(epoll::modify(&self.epoll, socket, data, flags)?)
    }

    /// Stops watching. Nothing happens if it was not watched.
    pub(crate) fn remove(&self, watched: &impl AsFd) {
        let _ = epoll::delete(&self.epoll, watched);
    }

    /// Sleeps until something happens or `timeout` is over (`None`: for ever), and hands each
    /// event to `visit`. May return early without any.
    pub(crate) fn sleep(
        &self,
        timeout: Option<Duration>,
        mut visit: impl FnMut(Event),
    ) -> io::Result<()> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); BATCH];
        let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            other => other?.0,
        };
        for event in events {
            let value = event.data.u64();
            visit(match value {
                WAKE => Event::Woken,
                _ if value & SOCKET_BIT == 0 => Event::Rung((value >> 1) as usize),
                _ => Event::Socket((value >> 1) as usize),
            });
        }
        Ok(())
    }
}
