//! Safe wrappers of kqueue for descriptors that stay open while they are watched.

use rustix::event::Timespec;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, kevent_timespec, kqueue};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{self, Errno, FdFlags};
use std::mem::MaybeUninit;
use std::time::Duration;

/// A queue of kernel events.
#[derive(Debug)]
pub(super) struct Queue(OwnedFd);

/// What to watch a descriptor for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interest {
    /// Something to read, or the end: as long as it is so.
    Data,
    /// Something to read: once for each time that more comes.
    EachArrival,
    /// Room to send.
    Room,
}

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        let queue = kqueue()?;
        rustix::io::fcntl_setfd(&queue, FdFlags::CLOEXEC)?;
        Ok(Self(queue))
    }

    /// Watches `watched` until it is closed or removed; events carry `key`.
    pub(super) fn add(
        &self,
        watched: &impl AsFd,
        interest: Interest,
        key: usize,
    ) -> io::Result<()> {
        let flags = match interest {
            Interest::EachArrival => EventFlags::ADD | EventFlags::CLEAR,
            Interest::Data | Interest::Room => EventFlags::ADD,
        };
        self.change(filter(watched, interest), flags, key)
    }

    /// Stops watching. Nothing happens if it was not watched.
    pub(super) fn remove(&self, watched: &impl AsFd, interest: Interest) {
        let _ = self.change(filter(watched, interest), EventFlags::DELETE, 0);
    }

    /// Makes room for [`wake`](Self::wake), whose events carry `key`.
    pub(super) fn add_wake(&self, key: usize) -> io::Result<()> {
        self.change(user(false), EventFlags::ADD | EventFlags::CLEAR, key)
    }

    /// Wakes whoever sleeps on this queue, or is about to.
    pub(super) fn wake(&self, key: usize) -> io::Result<()> {
        self.change(user(true), EventFlags::empty(), key)
    }

    fn change(&self, filter: EventFilter, flags: EventFlags, key: usize) -> io::Result<()> {
        let change = Event::new(filter, flags, std::ptr::without_provenance_mut(key));
        let nothing: &mut [MaybeUninit<Event>] = &mut [];
        // SAFETY: the descriptors that a change names are open: they come from a borrow (`filter`)
        // or are none (`user`). Closing them later takes them out of the queue.
        unsafe { kevent_timespec(&self.0, &[change], nothing, Some(&ZERO))? };
        Ok(())
    }

    /// Sleeps until something happens or `timeout` is over (`None`: for ever). Fills the front of
    /// `events`; nothing if a signal came.
    pub(super) fn wait<'a>(
        &self,
        events: &'a mut [MaybeUninit<Event>],
        timeout: Option<Duration>,
    ) -> io::Result<&'a [Event]> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        // SAFETY: no changes are made, so no descriptors are named.
        match unsafe { kevent_timespec(&self.0, &[], events, timeout.as_ref()) } {
            Err(Errno::INTR) => Ok(&[]),
            other => Ok(other?.0),
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The key that an event's watch was added with.
pub(super) fn key(event: &Event) -> usize {
    event.udata().addr()
}

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn filter(watched: &impl AsFd, interest: Interest) -> EventFilter {
    let fd = watched.as_fd().as_raw_fd();
    match interest {
        Interest::Data | Interest::EachArrival => EventFilter::Read(fd),
        Interest::Room => EventFilter::Write(fd),
    }
}

fn user(trigger: bool) -> EventFilter {
    use rustix::event::kqueue::{UserDefinedFlags, UserFlags};
    EventFilter::User {
        ident: 0,
        flags: if trigger {
            UserFlags::TRIGGER
        } else {
            UserFlags::empty()
        },
        user_flags: UserDefinedFlags::new(0),
    }
}
