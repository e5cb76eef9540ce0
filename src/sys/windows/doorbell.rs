//! Waking a sleeper in another process, and sleeping until woken or until the peer is gone.
//!
//! A doorbell is an auto-reset event that its owner waits for; the peer has a handle that can set it
//! and nothing else. `WaitOnAddress` would cost less but wakes threads of the same process only.
//!
//! An auto-reset event releases one waiter, but a doorbell may have two (the halves of a split
//! connection). So whoever is released tells the others ([`Subscriber`]): a ring reaches all of them.

use super::event::{Event, Reset, set_foreign, wait_for_any};
use super::watch::{Times, Watch};
use super::{Handle, Watched};
use crate::sys::Woken;
use std::io;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// Somebody who sleeps on a doorbell.
pub(super) trait Subscriber: Send + Sync {
    /// Called when somebody else was released by a ring. Remembered until the next sleep.
    fn rung(&self);
}

/// The means to wake one side of one connection.
#[derive(Debug)]
pub(crate) struct Doorbell(Arc<Bell>);

pub(super) struct Bell {
    event: Arc<Event>,
    subscribers: Mutex<Vec<Weak<dyn Subscriber>>>,
    /// Waits for the event on behalf of those who do not do so themselves.
    watch: Mutex<Weak<Watch>>,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Bell {
            event: Arc::new(Event::new(Reset::Auto)?),
            subscribers: Mutex::default(),
            watch: Mutex::default(),
        })))
    }

    /// What the peer rings this doorbell with.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        self.0.event.for_setting()
    }

    /// Wakes whoever sleeps on this doorbell. One system call; never blocks.
    pub(crate) fn ring(&self) {
        self.0.event.set();
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.0
    }
}

impl Watched for Doorbell {
    fn readable(&self) -> &Arc<Event> {
        &self.0.event
    }
}

impl Bell {
    /// From now on `subscriber` is told of rings that release others. If there were others before,
    /// it is told at once: one of them may have been released by a ring that was meant for it.
    fn subscribe(&self, subscriber: &Arc<dyn Subscriber>) {
        let mut subscribers = lock(&self.subscribers);
        let is_first = subscribers.is_empty();
        subscribers.retain(|other| other.strong_count() > 0);
        subscribers.push(Arc::downgrade(subscriber));
        drop(subscribers);
        if !is_first {
            subscriber.rung();
        }
    }

    /// From now on `subscriber` is told of every ring, as long as it keeps the watch.
    pub(super) fn watch(
        self: &Arc<Self>,
        subscriber: &Arc<dyn Subscriber>,
    ) -> io::Result<Arc<Watch>> {
        self.subscribe(subscriber);
        let mut current = lock(&self.watch);
        if let Some(watch) = current.upgrade() {
            return Ok(watch);
        }
        let bell = self.clone();
        let watch = Watch::new(&self.event, Times::Always, move || bell.tell_others(None))?;
        let watch = Arc::new(watch);
        *current = Arc::downgrade(&watch);
        Ok(watch)
    }

    /// A ring released `released`, or nobody in particular: the others are to know.
    fn tell_others(&self, released: Option<&Weak<dyn Subscriber>>) {
        // Told outside the lock: a task that is woken may run at once.
        let others: Vec<_> = lock(&self.subscribers)
            .iter()
            .filter(|other| !released.is_some_and(|it| other.ptr_eq(it)))
            .filter_map(Weak::upgrade)
            .collect();
        others.iter().for_each(|other| other.rung());
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bell").field(&self.event).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The means to wake the other side.
#[derive(Debug)]
pub(crate) struct PeerDoorbell(OwnedHandle);

impl PeerDoorbell {
    /// Takes a handle that a peer sent as its doorbell. It may be anything: it is only ever set, as
    /// an event, and what that does to a handle of the peer's own choosing is the peer's affair.
    pub(crate) fn open(handle: Handle) -> io::Result<Self> {
        Ok(Self(handle.into()))
    }

    /// Wakes the peer, if it sleeps. One system call; never blocks.
    pub(crate) fn ring(&self) {
        set_foreign(self.0.as_handle());
    }
}

/// A place to sleep for one thread.
pub(crate) struct Sleeper {
    bell: Arc<Bell>,
    control: Arc<Event>,
    relay: Arc<Relay>,
    subscriber: Weak<dyn Subscriber>,
}

/// Signalled when another sleeper was released by a ring.
struct Relay(Event);

impl Subscriber for Relay {
    fn rung(&self) {
        self.0.set();
    }
}

impl Sleeper {
    pub(crate) fn new(doorbell: &Doorbell, control: &impl Watched) -> io::Result<Self> {
        let relay = Arc::new(Relay(Event::new(Reset::Auto)?));
        let subscriber: Arc<dyn Subscriber> = relay.clone();
        doorbell.0.subscribe(&subscriber);
        Ok(Self {
            bell: doorbell.0.clone(),
            control: control.readable().clone(),
            relay,
            subscriber: Arc::downgrade(&subscriber),
        })
    }

    /// As [`new`](Self::new), for a control pipe that carries frames. What its owner holds back
    /// ([`ControlSocket::hold`](super::ControlSocket::hold)) wakes nobody.
    pub(crate) fn on_stream(doorbell: &Doorbell, control: &impl Watched) -> io::Result<Self> {
        Self::new(doorbell, control)
    }

    /// Sleeps until the doorbell rings, the control pipe has something, or `timeout` is over
    /// (`None`: for ever). May return early without a reason. The system counts in milliseconds.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        // A peer that is gone matters more than a ring, so it comes first: after it, nobody rings
        // again. What was published before is in the ring and is looked for first in any case.
        let events = [&*self.control, &*self.bell.event, &self.relay.0];
        Ok(match wait_for_any(&events, timeout)? {
            Some(0) => Woken::Control,
            Some(1) => {
                self.bell.tell_others(Some(&self.subscriber));
                Woken::Rung
            }
            Some(_) => Woken::Rung,
            None => Woken::TimedOut,
        })
    }
}

impl std::fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sleeper").field(&self.bell).finish()
    }
}
