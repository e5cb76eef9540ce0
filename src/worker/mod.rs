//! The threads that own a server's connections.
//!
//! A worker sweeps its *active* connections: each has a turn, in which it takes what is in its
//! ring, runs sync handlers in place, and publishes the replies once. A connection in which
//! nothing happens for a while is *parked*: its data-parked word is set and its doorbell watched
//! in the multiplexer, and it costs nothing until its client rings. When all are parked the
//! worker sleeps.
//!
//! ```text
//!            rings, or mail
//!   parked ----------------> active
//!      ^                       |
//!      +--- quiet for a while -+
//! ```

mod connection;
mod mailbox;

#[cfg(feature = "tokio")]
pub(crate) use mailbox::Item;
pub(crate) use mailbox::{Answer, Mail, Mailbox};

use crate::error::{CloseReason, Error, Result, Small};
use crate::link::Link;
use crate::server::methods::Methods;
use crate::settings::Spin;
use crate::sys::{Event, Multiplexer};
use crate::waiter::Spinner;
use connection::{Bench, Connection};
use slab::Slab;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Sweeps between two looks at the clock and the kernel's events while connections are busy.
const SWEEPS_PER_TICK: u32 = 64;

/// Longest sleep when an announcement of it may have gone unseen.
const UNRELIABLE_SLEEP: Duration = Duration::from_millis(1);

/// What a worker does not learn from its connections.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSettings {
    pub(crate) spin: Spin,
    pub(crate) max_message: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) pin_to: Option<usize>,
    #[cfg(feature = "tokio")]
    pub(crate) runtime: Option<tokio::runtime::Handle>,
}

/// A running worker, seen from outside.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Connections that it owns or was sent.
    pub(crate) load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts a worker.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread or descriptor.
    pub(crate) fn start(
        number: usize,
        methods: Arc<Methods>,
        settings: WorkerSettings,
    ) -> Result<Self> {
        let multiplexer = Multiplexer::new().map_err(Error::io("create a worker's poller"))?;
        let mailbox = Arc::new(Mailbox::new(multiplexer.waker()));
        let load = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            connections: Slab::new(),
            active: Vec::new(),
            multiplexer,
            bench: Bench {
                methods,
                mailbox: mailbox.clone(),
                request: Vec::new(),
                reply: Vec::new(),
                #[cfg(feature = "tokio")]
                runtime: settings.runtime.clone(),
            },
            spinner: Spinner::new(settings.spin),
            load: load.clone(),
            drain_until: None,
            tick: 0,
            settings,
        };
        let thread = std::thread::Builder::new()
            .name(format!("nearwire-{number}"))
            .spawn(move || worker.run())
            .map_err(Error::io("start a worker thread"))?;
        Ok(Self {
            mailbox,
            load,
            thread: Some(thread),
        })
    }

    /// Blocks until the worker has ended, which it does after [`Mail::Drain`].
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker thread panicked");
        }
    }
}

struct Worker {
    connections: Slab<Connection>,
    /// Keys of the connections that are swept.
    active: Vec<usize>,
    multiplexer: Multiplexer,
    bench: Bench,
    spinner: Spinner,
    load: Arc<AtomicUsize>,
    /// Set while draining: when to end at the latest.
    drain_until: Option<Instant>,
    /// Counts looks at the clock, to tell which connections have been quiet.
    tick: u64,
    settings: WorkerSettings,
}

impl Worker {
    fn run(mut self) {
        if let Some(cpu) = self.settings.pin_to {
            match crate::sys::pin_to(cpu) {
                Ok(placement) => tracing::debug!(?placement, "worker pinned"),
                Err(error) => tracing::warn!(cpu, %error, "worker not pinned"),
            }
        }
        #[cfg(feature = "tokio")]
        let runtime = self.settings.runtime.clone();
        #[cfg(feature = "tokio")]
        let _in_runtime = runtime.as_ref().map(|runtime| runtime.enter());

        let mut mail = Vec::new();
        let mut sweeps = 0;
        loop {
            let busy = self.sweep();
            if self.bench.mailbox.has_mail() {
                self.bench.mailbox.collect(&mut mail);
                mail.drain(..).for_each(|mail| self.take_mail(mail));
            }
            if busy {
                sweeps += 1;
                if sweeps >= SWEEPS_PER_TICK {
                    sweeps = 0;
                    self.tick();
                }
                continue;
            }
            if self.is_drained() {
                break;
            }
            let Self {
                active,
                connections,
                bench,
                spinner,
                ..
            } = &mut self;
            let found = spinner.spin(|| {
                bench.mailbox.has_mail() || active.iter().any(|&key| connections[key].is_ready())
            });
            if !found {
                self.sleep();
            }
        }
        for (_, connection) in std::mem::take(&mut self.connections) {
            self.load.fetch_sub(1, Relaxed);
            connection.close(CloseReason::Local);
        }
    }

    /// Gives each active connection a turn. Returns whether any had something.
    #[inline(always)]
    fn sweep(&mut self) -> bool {
        let mut busy = false;
        let mut place = 0;
        while let Some(&key) = self.active.get(place) {
            let connection = &mut self.connections[key];
            match connection.turn(&mut self.bench) {
                Ok(false) => place += 1,
                Ok(true) => {
                    connection.last_busy = self.tick;
                    busy = true;
                    place += 1;
                }
                Err(error) => {
                    self.active.swap_remove(place);
                    self.remove(key, *error);
                }
            }
        }
        busy
    }

    /// Once in a while between busy sweeps: looks what the kernel has to say, and parks the
    /// connections that were quiet for a whole tick.
    #[cold]
    fn tick(&mut self) {
        self.listen(Some(Duration::ZERO));
        let tick = self.tick;
        let quiet = |c: &Connection| c.last_busy + 1 < tick;
        let (connections, mut parked) = (&mut self.connections, Vec::new());
        self.active.retain(|&key| {
            let park = quiet(&connections[key]);
            if park {
                parked.push(key);
            }
            !park
        });
        self.park(parked);
        self.tick += 1;
    }

    /// Parks connections: announces it, then looks once more. Those that have something after all
    /// become active again. False if the announcement may have gone unseen.
    fn park(&mut self, keys: Vec<usize>) -> bool {
        let mut reliable = true;
        for &key in &keys {
            reliable &= self.connections[key].arm();
        }
        for key in keys {
            if self.connections[key].is_ready() || !reliable {
                self.activate(key);
            }
        }
        reliable
    }

    fn activate(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.disarm();
            connection.last_busy = self.tick;
            if !self.active.contains(&key) {
                self.active.push(key);
            }
        }
    }

    /// Parks everything and sleeps until something happens.
    #[cold]
    fn sleep(&mut self) {
        let keys = std::mem::take(&mut self.active);
        let reliable = self.park(keys);
        if reliable && !self.active.is_empty() {
            return;
        }
        if !self.bench.mailbox.fall_asleep() {
            return;
        }
        let mut timeout = self
            .drain_until
            .map(|until| until.saturating_duration_since(Instant::now()));
        if !reliable {
            timeout = Some(timeout.unwrap_or(UNRELIABLE_SLEEP).min(UNRELIABLE_SLEEP));
        }
        self.listen(timeout);
        self.bench.mailbox.wake_up();
    }

    /// Takes the kernel's events.
    fn listen(&mut self, timeout: Option<Duration>) {
        let mut rung = Vec::new();
        let mut sockets = Vec::new();
        let listened = self.multiplexer.sleep(timeout, |event| match event {
            Event::Rung(key) => rung.push(key),
            Event::Socket(key) => sockets.push(key),
            Event::Woken => {}
        });
        if let Err(error) = listened {
            // Cannot happen with a valid descriptor; do not spin on it if it does.
            tracing::error!(%error, "a worker cannot sleep");
            std::thread::sleep(UNRELIABLE_SLEEP);
        }
        rung.into_iter().for_each(|key| self.activate(key));
        for key in sockets {
            let Some(connection) = self.connections.get(key) else {
                continue;
            };
            let shared = &connection.link().shared;
            shared.read_control();
            if shared.closed().is_some() {
                let error = shared.closed_error();
                self.active.retain(|&other| other != key);
                self.remove(key, error);
            }
        }
    }

    fn take_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Connection(link) => self.adopt(*link),
            #[cfg(feature = "tokio")]
            Mail::Answer(answer) => {
                let (key, id) = (answer.key, answer.connection);
                self.with_connection(key, id, |connection| connection.answer_late(answer));
            }
            #[cfg(feature = "tokio")]
            Mail::Item(item) => {
                let (key, id) = (item.key, item.connection);
                self.with_connection(key, id, |connection| connection.send_item(item));
            }
            #[cfg(not(feature = "tokio"))]
            Mail::Answer(_) => {}
            Mail::Drain(until) => self.drain_until = Some(until),
        }
    }
    /// Does something with a connection, if it is still there, and has it swept again.
    #[cfg(feature = "tokio")]
    fn with_connection(
        &mut self,
        key: usize,
        id: u64,
        work: impl FnOnce(&mut Connection) -> Small<()>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.id() != id {
            return;
        }
        match work(connection) {
            Ok(()) => self.activate(key),
            Err(error) => {
                self.active.retain(|&other| other != key);
                self.remove(key, *error);
            }
        }
    }

    fn adopt(&mut self, link: Link) {
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let watched = self
            .multiplexer
            .add_doorbell(key, link.shared.bell())
            .and_then(|()| self.multiplexer.add_socket(key, link.shared.control()));
        if let Err(error) = watched {
            tracing::error!(%error, "a connection cannot be watched");
            self.multiplexer.remove(link.shared.bell());
            self.load.fetch_sub(1, Relaxed);
            return;
        }
        let settings = &self.settings;
        entry.insert(Connection::new(
            link,
            key,
            settings.max_message,
            settings.max_in_flight,
        ));
        self.activate(key);
    }

    /// Takes a connection out, active or not. The caller has taken it off the active list.
    fn remove(&mut self, key: usize, error: Error) {
        let connection = self.connections.remove(key);
        self.load.fetch_sub(1, Relaxed);
        let shared = &connection.link().shared;
        self.multiplexer.remove(shared.bell());
        self.multiplexer.remove(shared.control());
        let peer = shared.peer;
        let reason = match error {
            Error::Closed { reason } => {
                tracing::debug!(peer.pid, %reason, "connection closed");
                reason
            }
            Error::Protocol(violation) => {
                tracing::warn!(peer.pid, peer.user = %peer.user(), %violation, "connection closed");
                CloseReason::Violation(violation)
            }
            other => {
                tracing::error!(peer.pid, error = %other, "connection closed");
                CloseReason::Local
            }
        };
        connection.close(reason);
    }

    fn is_drained(&self) -> bool {
        self.drain_until.is_some_and(|until| {
            Instant::now() >= until || self.connections.iter().all(|(_, c)| c.in_flight() == 0)
        })
    }
}
