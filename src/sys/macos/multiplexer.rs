//! Sleeping on many connections at once, for the threads that own them.

use super::doorbell::{Doorbell, SleepEnd};
use super::kqueue::{Interest, Queue, key};
use crate::sys;
use rustix::event::kqueue::{Event, EventFilter};
use rustix::fd::{AsFd, AsRawFd, RawFd};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Events taken from the kernel per call.
const BATCH: usize = 256;

/// Key of the multiplexer's own wake-up.
const WAKE: usize = usize::MAX;

/// The lowest bit of an event's key tells a doorbell from a socket.
const SOCKET_BIT: usize = 1;

/// A set of doorbells and sockets that one thread sleeps on.
#[derive(Debug)]
pub(crate) struct Multiplexer {
    queue: Arc<Queue>,
    /// The doorbells, to empty them.
    bells: Mutex<HashMap<RawFd, Arc<SleepEnd>>>,
}

/// Wakes the thread that sleeps on a [`Multiplexer`], from anywhere in this process.
#[derive(Debug, Clone)]
pub(crate) struct MultiplexerWaker(Arc<Queue>);

impl MultiplexerWaker {
    /// One system call; never blocks.
    pub(crate) fn wake(&self) {
        let _ = self.0.wake(WAKE);
    }
}

impl Multiplexer {
    pub(crate) fn new() -> io::Result<Self> {
        let queue = Queue::new()?;
        queue.add_wake(WAKE)?;
        Ok(Self {
            queue: Arc::new(queue),
            bells: Mutex::default(),
        })
    }

    pub(crate) fn waker(&self) -> MultiplexerWaker {
        MultiplexerWaker(self.queue.clone())
    }

    /// Watches a doorbell, edge by edge, until it is removed.
    pub(crate) fn add_doorbell(&self, number: usize, doorbell: &Doorbell) -> io::Result<()> {
        self.queue
            .add(doorbell, Interest::EachArrival, number << 1)?;
        let bell = doorbell.sleep_end().clone();
        self.bells().insert(bell.raw(), bell);
        Ok(())
    }

    /// Watches a socket for something to read, as long as there is something.
    pub(crate) fn add_socket(&self, number: usize, socket: &impl AsFd) -> io::Result<()> {
        Ok(self
            .queue
            .add(socket, Interest::Data, number << 1 | SOCKET_BIT)?)
    }

    /// Watches a socket that carries frames: each arrival is told of once, whether or not what
    /// arrived is taken.
    pub(crate) fn add_stream(&self, number: usize, socket: &impl AsFd) -> io::Result<()> {
        Ok(self
            .queue
            .add(socket, Interest::EachArrival, number << 1 | SOCKET_BIT)?)
    }

    /// Watches a socket that was not watched, for room to send.
    pub(crate) fn add_for_room(&self, number: usize, socket: &impl AsFd) -> io::Result<()> {
        Ok(self
            .queue
            .add(socket, Interest::Room, number << 1 | SOCKET_BIT)?)
    }

    /// Watches a socket for room to send instead.
    pub(crate) fn watch_for_room(&self, number: usize, socket: &impl AsFd) -> io::Result<()> {
        self.queue.remove(socket, Interest::Data);
        Ok(self
            .queue
            .add(socket, Interest::Room, number << 1 | SOCKET_BIT)?)
    }

    /// Watches a socket for something to read again.
    pub(crate) fn watch_for_data(&self, number: usize, socket: &impl AsFd) -> io::Result<()> {
        self.queue.remove(socket, Interest::Room);
        self.add_socket(number, socket)
    }

    /// Stops watching. Nothing happens if it was not watched.
    pub(crate) fn remove(&self, watched: &impl AsFd) {
        self.queue.remove(watched, Interest::Data);
        self.queue.remove(watched, Interest::Room);
        self.bells().remove(&watched.as_fd().as_raw_fd());
    }

    /// Sleeps until something happens or `timeout` is over (`None`: for ever), and hands each
    /// event to `visit`. May return early without any.
    pub(crate) fn sleep(
        &self,
        timeout: Option<Duration>,
        mut visit: impl FnMut(sys::Event),
    ) -> io::Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        for event in self.queue.wait(&mut events, timeout)? {
            visit(match key(event) {
                WAKE => sys::Event::Woken,
                key if key & SOCKET_BIT == 0 => {
                    if let EventFilter::Read(fd) = event.filter()
                        && let Some(bell) = self.bells().get(&fd)
                    {
                        bell.empty_if_full(event);
                    }
                    sys::Event::Rung(key >> 1)
                }
                key => sys::Event::Socket(key >> 1),
            });
        }
        Ok(())
    }

    fn bells(&self) -> std::sync::MutexGuard<'_, HashMap<RawFd, Arc<SleepEnd>>> {
        self.bells.lock().unwrap_or_else(|e| e.into_inner())
    }
}
