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

#[cfg(feature = "tokio")]
mod calls;
mod connection;
mod mailbox;

#[cfg(feature = "tokio")]
pub(crate) use calls::RunningLimit;
#[cfg(feature = "tokio")]
pub(crate) use mailbox::{Address, CallEvent};
pub(crate) use mailbox::{Mail, Mailbox};

use crate::error::{CloseReason, Error, Result, Small};
use crate::link::Link;
use crate::proto::handshake::CloseCode;
use crate::server::methods::Methods;
use crate::settings::Spin;
use crate::sys::{Event, Multiplexer};
use crate::waiter::{Fences, Spinner};
use connection::Connection;
use slab::Slab;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a busy worker looks at the kernel's events, about: rarely enough to cost little, often
/// enough that who rings a busy worker does not wait long.
const TICK: Duration = Duration::from_micros(50);

/// Connections and events for which there is room from the start.
const ROOM: usize = 64;

/// Turns, or empty sweeps, between two looks at the clock.
const TURNS_PER_CLOCK: usize = 16;

/// After so long without anything a connection is parked while others are busy. Sweeping over an
/// idle connection costs a few nanoseconds; parking one costs a fence and, when it comes back, a
/// system call on either side.
const QUIET: Duration = Duration::from_millis(1);

/// How many connections ahead of the one that has its turn lines are fetched (docs: tuning).
const PREFETCH_AHEAD: usize = 2;

/// A worker that did not come round for so long was held up by a handler that blocks (or by a
/// system that did not let it run).
const STALL: Duration = Duration::from_millis(10);

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
    pub(crate) running: Arc<RunningLimit>,
    #[cfg(feature = "tokio")]
    pub(crate) runtime: Option<tokio::runtime::Handle>,
}

/// A running worker, seen from outside.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Connections that it owns or was sent.
    pub(crate) load: Arc<AtomicUsize>,
    /// Times that it was held up for longer than [`STALL`].
    pub(crate) stalls: Arc<AtomicU64>,
    /// The processors that it was pinned to, as the system reports them; `None` if it was not.
    pub(crate) processors: Option<Vec<usize>>,
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
        let stalls = Arc::new(AtomicU64::new(0));
        let now = Instant::now();
        let worker = Worker {
            connections: Slab::new(),
            active: Vec::with_capacity(ROOM),
            parking: Vec::with_capacity(ROOM),
            events: Vec::with_capacity(ROOM),
            multiplexer,
            bench: Bench {
                methods,
                draining: false,
                alone: false,
                #[cfg(feature = "tokio")]
                mailbox: mailbox.clone(),
                request: Vec::new(),
                reply: Vec::new(),
                #[cfg(feature = "tokio")]
                running: settings.running.clone(),
                #[cfg(feature = "tokio")]
                runtime: settings.runtime.clone(),
            },
            mailbox: mailbox.clone(),
            spinner: Spinner::new(settings.spin),
            load: load.clone(),
            stalls: stalls.clone(),
            drain_until: None,
            now,
            rested: now,
            settings,
        };
        let (pinned, placement) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("nearwire-{number}"))
            .spawn(move || {
                let _ = pinned.send(worker.pin());
                worker.run();
            })
            .map_err(Error::io("start a worker thread"))?;
        Ok(Self {
            mailbox,
            load,
            stalls,
            processors: placement.recv().unwrap_or_default(),
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

/// What serving a connection needs of the worker.
struct Bench {
    /// Empty while draining, so that no request finds its handler.
    methods: Arc<Methods>,
    draining: bool,
    /// Whether one connection is swept and no other.
    alone: bool,
    #[cfg(feature = "tokio")]
    mailbox: Arc<Mailbox>,
    /// Where requests are copied to.
    request: Vec<u8>,
    /// Where sync handlers write replies to.
    reply: Vec<u8>,
    #[cfg(feature = "tokio")]
    running: Arc<RunningLimit>,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
}

struct Worker {
    connections: Slab<Connection>,
    /// Keys of the connections that are swept; those and no others are marked `is_active`.
    active: Vec<usize>,
    /// Kept from use to use, so that sleeping and waking allocate nothing: connections to be
    /// parked, and what the kernel said.
    parking: Vec<usize>,
    events: Vec<Event>,
    multiplexer: Multiplexer,
    bench: Bench,
    mailbox: Arc<Mailbox>,
    spinner: Spinner,
    load: Arc<AtomicUsize>,
    stalls: Arc<AtomicU64>,
    /// Set while draining: when to end at the latest.
    drain_until: Option<Instant>,
    /// The time when the kernel's events were looked at last.
    now: Instant,
    /// When the worker had nothing to do last, if it had time to look at the clock.
    rested: Instant,
    settings: WorkerSettings,
}

impl Worker {
    /// Pins this thread, if it is to be. Returns what the system reports.
    fn pin(&self) -> Option<Vec<usize>> {
        let cpu = self.settings.pin_to?;
        match crate::sys::pin_to(cpu) {
            Ok(placement) => {
                tracing::debug!(?placement, "worker pinned");
                placement.processors()
            }
            Err(error) => {
                tracing::warn!(cpu, %error, "worker not pinned");
                None
            }
        }
    }

    fn run(mut self) {
        #[cfg(feature = "tokio")]
        let runtime = self.settings.runtime.clone();
        #[cfg(feature = "tokio")]
        let _in_runtime = runtime.as_ref().map(|runtime| runtime.enter());

        let mut mail = Vec::new();
        let mut turns = 0;
        loop {
            let busy_connections = self.sweep();
            let mut busy = busy_connections > 0;
            if self.mailbox.has_mail() {
                // Whatever comes of it is published by a turn.
                busy = true;
                self.mailbox.collect(&mut mail);
                mail.drain(..).for_each(|mail| self.take_mail(mail));
            }
            if busy {
                turns += busy_connections.max(1);
                if turns < TURNS_PER_CLOCK {
                    continue;
                }
                turns = 0;
                self.tick();
            }
            if self.is_drained() {
                break;
            }
            if busy {
                continue;
            }
            let Self {
                active,
                connections,
                mailbox,
                spinner,
                ..
            } = &mut self;
            let found = match active[..] {
                // Who is told of everything by the kernel need not look.
                [] => false,
                [alone] => {
                    let connection = &mut connections[alone];
                    spinner.spin(|| connection.watch() || mailbox.has_mail())
                }
                _ => spinner.spin(|| {
                    mailbox.has_mail() || active.iter().any(|&key| connections[key].is_ready())
                }),
            };
            if let Some((began, ended)) = self.spinner.take_times() {
                self.look_for_stall(began);
                self.rested = ended;
            }
            // Parking all that is active takes a heavy fence, and undoing it a ring for each. So the
            // rings of those that are parked already are asked for first.
            if !found && !self.has_events() {
                self.look_for_stall(Instant::now());
                self.sleep();
            }
        }
        for (_, connection) in std::mem::take(&mut self.connections) {
            self.load.fetch_sub(1, Relaxed);
            let code = match connection.in_flight() {
                0 => CloseCode::Drained,
                _ => CloseCode::Shutdown,
            };
            connection.close(code, CloseReason::Local);
        }
    }

    /// Gives each active connection a turn. Returns how many had something.
    #[inline(always)]
    fn sweep(&mut self) -> usize {
        let mut busy = 0;
        // Backwards: a client that calls over many connections goes over them in the order in which
        // it made them, and a worker that follows on its heels takes every line from it before it
        // is written (docs: tuning).
        let mut place = self.active.len();
        self.bench.alone = place == 1;
        while place > 0 {
            place -= 1;
            if let Some(later) = place.checked_sub(PREFETCH_AHEAD) {
                self.connections[self.active[later]].prefetch();
            }
            let key = self.active[place];
            let connection = &mut self.connections[key];
            match connection.turn(&mut self.bench) {
                Ok(false) if connection.is_over_socket() => {
                    let shared = &connection.link().shared;
                    if shared.closed().is_some() {
                        let error = shared.closed_error();
                        self.remove(key, error);
                    } else {
                        // Only those that had their turn move up.
                        self.active.remove(place);
                        self.parking.push(key);
                    }
                }
                Ok(false) => {}
                Ok(true) => {
                    connection.last_busy = self.now;
                    busy += 1;
                }
                // Takes it off the list, in which only later ones move up.
                Err(error) => self.remove(key, *error),
            }
        }
        if !self.parking.is_empty() {
            self.park();
        }
        busy
    }

    /// Now and then between busy sweeps, once per [`TICK`]: looks what the kernel has to say, and
    /// parks the connections that have been quiet.
    #[cold]
    fn tick(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.now);
        if took < TICK {
            return;
        }
        self.look_for_stall(now);
        self.listen(Some(Duration::ZERO));
        let connections = &mut self.connections;
        let quiet = |c: &Connection| now.saturating_duration_since(c.last_busy) > QUIET;
        if self.active.iter().any(|&key| quiet(&connections[key])) {
            let parking = &mut self.parking;
            self.active.retain(|&key| {
                let quiet = quiet(&connections[key]);
                if quiet {
                    parking.push(key);
                }
                !quiet
            });
            self.park();
        }
    }

    /// Counts it if the connections were kept waiting for long.
    fn look_for_stall(&mut self, now: Instant) {
        let busy = now.saturating_duration_since(self.now.max(self.rested));
        if busy > STALL {
            let stalls = self.stalls.load(Relaxed);
            self.stalls.store(stalls + 1, Relaxed);
            if stalls == 0 {
                tracing::warn!(?busy, "a worker was held up: does a sync handler block?");
            }
        }
    }

    /// Parks the connections in `parking`, which the caller has taken off the active list:
    /// announces it, then looks once more. Those that have something after all become active
    /// again. False if the announcement may have gone unseen.
    fn park(&mut self) -> bool {
        let (mut symmetric, mut asymmetric) = (false, false);
        for &key in &self.parking {
            let connection = &mut self.connections[key];
            connection.is_active = false;
            match connection.announce() {
                Fences::Symmetric => symmetric = true,
                Fences::Asymmetric => asymmetric = true,
            }
        }
        // One fence of each kind serves all announcements.
        let reliable = (!symmetric || Fences::Symmetric.sleeper())
            & (!asymmetric || Fences::Asymmetric.sleeper());
        while let Some(key) = self.parking.pop() {
            if !reliable || self.connections[key].is_ready() {
                self.activate(key);
            }
        }
        reliable
    }

    fn activate(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_active
        {
            connection.disarm();
            connection.last_busy = self.now;
            connection.is_active = true;
            self.active.push(key);
        }
    }

    /// Takes what the kernel has to say right now. Whether it was anything.
    fn has_events(&mut self) -> bool {
        if self.active.is_empty() {
            return false;
        }
        self.listen(Some(Duration::ZERO)) > 0
    }

    /// Parks everything and sleeps until something happens.
    #[cold]
    fn sleep(&mut self) {
        std::mem::swap(&mut self.active, &mut self.parking);
        let reliable = self.park();
        if reliable && !self.active.is_empty() {
            return;
        }
        if !self.mailbox.fall_asleep() {
            return;
        }
        let mut timeout = self
            .drain_until
            .map(|until| until.saturating_duration_since(Instant::now()));
        if !reliable {
            timeout = Some(timeout.unwrap_or(UNRELIABLE_SLEEP).min(UNRELIABLE_SLEEP));
        }
        self.listen(timeout);
        self.mailbox.wake_up();
    }

    /// Takes the kernel's events. Returns how many there were.
    fn listen(&mut self, timeout: Option<Duration>) -> usize {
        let events = &mut self.events;
        let listened = self.multiplexer.sleep(timeout, |event| events.push(event));
        self.now = Instant::now();
        if let Err(error) = listened {
            // Cannot happen with a valid descriptor; do not spin on it if it does.
            tracing::error!(%error, "a worker cannot sleep");
            std::thread::sleep(UNRELIABLE_SLEEP);
        }
        let mut events = std::mem::take(&mut self.events);
        let count = events.len();
        for event in events.drain(..) {
            match event {
                Event::Rung(key) => self.activate(key),
                Event::Socket(key) => self.read_control(key),
                Event::Woken => {}
            }
        }
        self.events = events;
        count
    }

    /// Something came over a connection's control socket, or its end.
    fn read_control(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let shared = &connection.link().shared;
        shared.read_control();
        if connection.is_over_socket() {
            // What came has its turn, and behind it the end, if that came too.
            self.activate(key);
        } else if shared.closed().is_some() {
            let error = shared.closed_error();
            self.remove(key, error);
        }
    }

    fn take_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Connection(link) => self.adopt(*link),
            #[cfg(feature = "tokio")]
            Mail::Call {
                key,
                connection: id,
                request,
                event,
            } => {
                let Self {
                    connections, bench, ..
                } = self;
                // Keys are used again.
                let connection = connections.get_mut(key).filter(|c| c.id() == id);
                let Some(connection) = connection else {
                    return;
                };
                let taken = match event {
                    CallEvent::Ended(result) => connection.answer_late(bench, request, result),
                    CallEvent::Item(item) => connection.send_item(request, item),
                    CallEvent::Credits(credits) => connection.send_credits(request, credits),
                };
                self.follow_up(key, taken);
            }
            Mail::Drain(until) => self.drain(until),
        }
    }

    /// Takes no more requests; calls in flight go on.
    fn drain(&mut self, until: Instant) {
        self.drain_until = Some(until);
        self.bench.draining = true;
        self.bench.methods = Arc::default();
        let keys: Vec<_> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let told = self.connections[key].go_away();
            self.follow_up(key, told);
        }
    }

    /// After something was done to a connection outside of its turn: it gets one, or is closed.
    fn follow_up(&mut self, key: usize, done: Small<()>) {
        match done {
            Ok(()) => self.activate(key),
            Err(error) => self.remove(key, *error),
        }
    }

    fn adopt(&mut self, link: Link) {
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let watched = self
            .multiplexer
            .add_doorbell(key, link.shared.bell())
            .and_then(|()| {
                let socket = link.shared.control();
                if link.shared.is_over_socket() {
                    return self.multiplexer.add_stream(key, socket);
                }
                self.multiplexer.add_socket(key, socket)
            });
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
        if self.bench.draining {
            let told = self.connections[key].go_away();
            self.follow_up(key, told);
        } else {
            self.activate(key);
        }
    }

    /// Takes a connection out, active or not, and closes it.
    fn remove(&mut self, key: usize, error: Error) {
        let connection = self.connections.remove(key);
        if connection.is_active {
            self.active.retain(|&other| other != key);
        }
        let shared = &connection.link().shared;
        self.multiplexer.remove(shared.bell());
        self.multiplexer.remove(shared.control());
        let peer = shared.peer;
        let (code, reason) = match error {
            Error::Closed { reason, .. } => {
                tracing::debug!(peer.pid, %reason, "connection closed");
                (CloseCode::Finished, reason)
            }
            Error::Protocol(violation) => {
                tracing::warn!(peer.pid, peer.user = %peer.user(), %violation, "connection closed");
                (CloseCode::Violation, CloseReason::Violation(violation))
            }
            other => {
                tracing::error!(peer.pid, error = %other, "connection closed");
                (CloseCode::Internal, CloseReason::Local)
            }
        };
        connection.close(code, reason);
        // Last: its memory is given back now, and a client that is refused for want of a place or
        // of memory may count on either.
        self.load.fetch_sub(1, Relaxed);
    }

    fn is_drained(&self) -> bool {
        self.drain_until.is_some_and(|until| {
            Instant::now() >= until || self.connections.iter().all(|(_, c)| c.in_flight() == 0)
        })
    }
}
