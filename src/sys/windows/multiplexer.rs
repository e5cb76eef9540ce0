//! Sleeping on many connections at once, for the threads that own them.
//!
//! `WaitForMultipleObjects` stops at 64 handles, so the system's thread pool waits ([`Watch`]); its
//! callbacks put events into an inbox, for which the owner sleeps.

use super::Watched;
use super::doorbell::{Doorbell, Subscriber};
use super::event::{self, Reset};
use super::watch::{Times, Watch};
use crate::sys::Event;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A set of doorbells and pipes that one thread sleeps on.
#[derive(Debug)]
pub(crate) struct Multiplexer {
    inbox: Arc<Inbox>,
    /// By the event that is watched.
    watched: Mutex<HashMap<usize, Entry>>,
    /// Pipes whose watch must be set up anew, by their event: their last call was told of.
    due: Mutex<Vec<usize>>,
}

#[derive(Debug)]
enum Entry {
    Doorbell {
        _subscriber: Arc<Bells>,
        _watch: Arc<Watch>,
    },
    Pipe {
        number: usize,
        event: Arc<event::Event>,
        _watch: Watch,
    },
}

#[derive(Debug)]
struct Inbox {
    mail: Mutex<Mail>,
    /// Set when the inbox was empty and is not any more.
    arrived: event::Event,
}

#[derive(Debug, Default)]
struct Mail {
    events: Vec<Event>,
    /// Pipes whose watch has called, by their event.
    called: Vec<usize>,
}

impl Inbox {
    fn put(&self, event: Event, called: Option<usize>) {
        let mut mail = lock(&self.mail);
        mail.events.push(event);
        mail.called.extend(called);
        if mail.events.len() == 1 {
            self.arrived.set();
        }
    }
}

/// Puts a doorbell's rings into an inbox.
#[derive(Debug)]
struct Bells {
    number: usize,
    inbox: Arc<Inbox>,
}

impl Subscriber for Bells {
    fn rung(&self) {
        self.inbox.put(Event::Rung(self.number), None);
    }
}

/// Wakes the thread that sleeps on a [`Multiplexer`], from anywhere in this process.
#[derive(Debug, Clone)]
pub(crate) struct MultiplexerWaker(Arc<Inbox>);

impl MultiplexerWaker {
    /// At most one system call; never blocks.
    pub(crate) fn wake(&self) {
        self.0.put(Event::Woken, None);
    }
}

impl Multiplexer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            inbox: Arc::new(Inbox {
                mail: Mutex::default(),
                arrived: event::Event::new(Reset::Auto)?,
            }),
            watched: Mutex::default(),
            due: Mutex::default(),
        })
    }

    pub(crate) fn waker(&self) -> MultiplexerWaker {
        MultiplexerWaker(self.inbox.clone())
    }

    /// Watches a doorbell, ring by ring, until it is removed.
    pub(crate) fn add_doorbell(&self, number: usize, doorbell: &Doorbell) -> io::Result<()> {
        let subscriber = Arc::new(Bells {
            number,
            inbox: self.inbox.clone(),
        });
        let watching: Arc<dyn Subscriber> = subscriber.clone();
        let watch = doorbell.bell().watch(&watching)?;
        let entry = Entry::Doorbell {
            _subscriber: subscriber,
            _watch: watch,
        };
        lock(&self.watched).insert(id(doorbell.readable()), entry);
        Ok(())
    }

    /// Watches a pipe for something to read, as long as there is something.
    pub(crate) fn add_socket(&self, number: usize, pipe: &impl Watched) -> io::Result<()> {
        self.watch(number, pipe.readable())
    }

    /// Watches a pipe that carries frames. What its owner holds back
    /// ([`ControlSocket::hold`](super::ControlSocket::hold)) is not told of.
    pub(crate) fn add_stream(&self, number: usize, pipe: &impl Watched) -> io::Result<()> {
        self.watch(number, pipe.readable())
    }

    /// Watches a pipe that was not watched, for room to send.
    pub(crate) fn add_for_room(&self, number: usize, pipe: &impl Watched) -> io::Result<()> {
        self.watch(number, pipe.writable())
    }

    /// Watches a pipe for room to send instead.
    pub(crate) fn watch_for_room(&self, number: usize, pipe: &impl Watched) -> io::Result<()> {
        self.remove(pipe);
        self.watch(number, pipe.writable())
    }

    /// Watches a pipe for something to read again.
    pub(crate) fn watch_for_data(&self, number: usize, pipe: &impl Watched) -> io::Result<()> {
        self.remove(pipe);
        self.watch(number, pipe.readable())
    }

    /// Stops watching. Nothing happens if it was not watched.
    pub(crate) fn remove(&self, watched: &impl Watched) {
        for event in [watched.readable(), watched.writable()] {
            // Dropped outside the lock: the end of a watch waits for its callback.
            let removed = lock(&self.watched).remove(&id(event));
            drop(removed);
        }
    }

    fn watch(&self, number: usize, event: &Arc<event::Event>) -> io::Result<()> {
        let (inbox, id) = (self.inbox.clone(), id(event));
        let watch = Watch::new(event, Times::Once, move || {
            inbox.put(Event::Socket(number), Some(id));
        })?;
        let entry = Entry::Pipe {
            number,
            event: event.clone(),
            _watch: watch,
        };
        let replaced = lock(&self.watched).insert(id, entry);
        drop(replaced);
        Ok(())
    }

    /// Sleeps until something happens or `timeout` is over (`None`: for ever), and hands each
    /// event to `visit`. May return early without any. The system counts in milliseconds.
    pub(crate) fn sleep(
        &self,
        timeout: Option<Duration>,
        visit: impl FnMut(Event),
    ) -> io::Result<()> {
        let due = std::mem::take(&mut *lock(&self.due));
        for id in due {
            let entry = match lock(&self.watched).get(&id) {
                Some(Entry::Pipe { number, event, .. }) => Some((*number, event.clone())),
                _ => None,
            };
            if let Some((number, event)) = entry {
                self.watch(number, &event)?;
            }
        }
        let mut events = self.take();
        if events.is_empty() && timeout != Some(Duration::ZERO) {
            self.inbox.arrived.wait(timeout)?;
            events = self.take();
        }
        events.into_iter().for_each(visit);
        Ok(())
    }

    fn take(&self) -> Vec<Event> {
        let mut mail = lock(&self.inbox.mail);
        lock(&self.due).append(&mut mail.called);
        std::mem::take(&mut mail.events)
    }
}

fn id(event: &Arc<event::Event>) -> usize {
    event.raw().addr()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
