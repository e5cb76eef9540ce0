//! The threads that own a server's connections.
//!
//! A worker sweeps its *active* connections: each has a turn, in which it takes what is in its
//! ring, runs sync handlers in place, and publishes the replies once. A connection in which
//! nothing happens for a while is *parked*: its data-parked word is set and its doorbell watched
//! in the multiplexer, and it costs nothing until its client rings. When all are parked the
//! worker sleeps.
//!
//! A connection that has used up its rate, if it has one, is *held back*: it is parked without being
//! watched for requests, and active again at a time. What it sends meanwhile stays in its ring.
//!
//! ```text
//!            rings, or mail
//!   parked ----------------> active
//!      ^                       |
//!      +--- quiet for a while -+
//! ```

mod allowance;
#[cfg(feature = "tokio")]
mod calls;
mod connection;
#[cfg(all(fuzzing, feature = "tokio", target_os = "linux"))]
pub(crate) mod fuzzing;
mod mail;
mod quiet;
#[cfg(all(test, not(shuttle)))]
mod tests;

#[cfg(feature = "tokio")]
pub(crate) use calls::RunningLimit;
#[cfg(feature = "tokio")]
pub(crate) use mail::{Address, CallEvent};
pub(crate) use mail::{Mail, Mailbox};

use crate::error::{CloseReason, Error, Result, Small};
#[cfg(feature = "mpmc_transport")]
use crate::link::RequestQueue;
use crate::link::{KEPT_BUFFER, Link, Shared};
use crate::metrics::{Counter, CountersPage, Gauge, Sampler, WorkerCounters, WorkerDistributions};
use crate::proto::handshake::CloseCode;
use crate::rate::RateLimit;
use crate::server::methods::Methods;
use crate::settings::Spin;
use crate::sys::{Event, Multiplexer, RunDelay};
use crate::waiter::{Fences, Spinner};
use connection::{Connection, Found};
use quiet::Quiet;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a busy worker looks at the kernel's events, about: rarely enough to cost little, often
/// enough that who rings a busy worker does not wait long.
const TICK: Duration = Duration::from_micros(50);

/// Connections and events for which there is room from the start.
const ROOM: usize = 64;

/// Turns, or empty sweeps, between two looks at the clock.
const TURNS_PER_CLOCK: usize = 16;

/// How much of the request queue a worker takes between two sweeps.
#[cfg(feature = "mpmc_transport")]
const PIECES_PER_SWEEP: usize = 256;

/// How many connections ahead of the one that has its turn lines are fetched (docs: tuning).
const PREFETCH_AHEAD: usize = 2;

/// A worker that did not come round for so long, time in which others had its processor not counted,
/// was held up by a handler that blocks (or by a system that does not tell who had the processor).
const STALL: Duration = Duration::from_millis(10);

/// How often the page says how active connections are.
const OBSERVATION: Duration = Duration::from_millis(100);

/// So many connections the page is told of before each sleep, which is cheaper than a timer to do it
/// later: that takes 0.2 µs of a round trip between sleepers (docs: tuning).
const SEEN_OFF: usize = 2;

/// Longest sleep when an announcement of it may have gone unseen.
const UNRELIABLE_SLEEP: Duration = Duration::from_millis(1);

/// What a worker does not learn from its connections.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSettings {
    pub(crate) spin: Spin,
    pub(crate) max_message: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_message_rate: Option<RateLimit>,
    pub(crate) pin_to: Option<usize>,
    pub(crate) page: Arc<CountersPage>,
    /// Where requests come from of clients that have no ring for them.
    #[cfg(feature = "mpmc_transport")]
    pub(crate) requests: Option<Arc<RequestQueue>>,
    #[cfg(feature = "tokio")]
    pub(crate) running: Arc<RunningLimit>,
    #[cfg(feature = "tokio")]
    pub(crate) runtime: Option<tokio::runtime::Handle>,
}

impl WorkerSettings {
    /// Whether there is something in the request queue, if there is one.
    #[inline(always)]
    fn is_queue_ready(&self) -> bool {
        #[cfg(feature = "mpmc_transport")]
        return self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.is_ready());
        #[cfg(not(feature = "mpmc_transport"))]
        false
    }

    /// Sees to it that nobody who is gone holds up the request queue.
    fn skip_strays(&self) {
        #[cfg(feature = "mpmc_transport")]
        if let Some(requests) = &self.requests {
            requests.skip_strays();
        }
    }
}

/// A running worker, seen from outside.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Connections that it owns or was sent.
    pub(crate) load: Arc<AtomicUsize>,
    /// What it counts; to be read only.
    pub(crate) counters: WorkerCounters,
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
        let mut worker = Worker::new(number, methods, settings)?;
        let (mailbox, load) = (worker.mailbox.clone(), worker.load.clone());
        let counters = worker.counters.clone();
        let (pinned, placement) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("nearwire-{number}"))
            .spawn(move || {
                // Before anybody may count this process's descriptors.
                worker.run_delay = RunDelay::of_this_thread();
                let _ = pinned.send(worker.pin());
                worker.run();
            })
            .map_err(Error::io("start a worker thread"))?;
        Ok(Self {
            mailbox,
            load,
            counters,
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
    /// The worker's time.
    now: Instant,
    counters: WorkerCounters,
    distributions: WorkerDistributions,
    /// Which frames' calls are sampled: a turn counts its frames.
    sampler: Sampler,
    /// Which turns are.
    turns: Sampler,
    /// Which calls that had to wait are.
    #[cfg_attr(not(feature = "tokio"), expect(dead_code))]
    deferred: Sampler,
    /// When the call that is being started came, if it is sampled.
    began: Option<Instant>,
    #[cfg(feature = "tokio")]
    mailbox: Arc<Mailbox>,
    /// Where requests are copied to.
    request: Vec<u8>,
    /// Where sync handlers write replies to.
    reply: Vec<u8>,
    /// For the next request that comes in fragments. The connection whose turn it is has it.
    spare: Vec<u8>,
    #[cfg(feature = "tokio")]
    running: Arc<RunningLimit>,
    #[cfg(feature = "tokio")]
    runtime: Option<tokio::runtime::Handle>,
}

impl Bench {
    /// Takes back the buffer of a reply that was sent, for the next one.
    fn keep_reply(&mut self, mut spent: Vec<u8>) {
        if spent.capacity() > self.reply.capacity() && spent.capacity() <= KEPT_BUFFER {
            spent.clear();
            self.reply = spent;
        }
    }

    /// A sampled call's handler has come to its end: when that was.
    #[cold]
    fn handler_ended(&mut self, began: Instant) -> Instant {
        let (ended, one_in) = (Instant::now(), self.sampler.one_in());
        self.distributions
            .handler_took(ended - began, one_in, &self.counters);
        ended
    }
}

struct Worker {
    number: usize,
    connections: Slab<Connection>,
    /// Keys of the connections that are swept; those and no others are marked `is_active`.
    active: Vec<usize>,
    /// Kept from use to use, so that sleeping and waking allocate nothing: connections to be
    /// parked, and what the kernel said.
    parking: Vec<usize>,
    /// Likewise: those that were active when the worker fell asleep.
    resting: Vec<usize>,
    /// Parked since the page was told last how connections are.
    unobserved: Vec<usize>,
    events: Vec<Event>,
    /// Until when connections are held back, and which: those that say so of themselves.
    held_back: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Connections for which something came through the request queue.
    #[cfg(feature = "mpmc_transport")]
    fed: Vec<usize>,
    multiplexer: Multiplexer,
    bench: Bench,
    mailbox: Arc<Mailbox>,
    spinner: Spinner,
    quiet: Quiet,
    load: Arc<AtomicUsize>,
    counters: WorkerCounters,
    /// Set while draining: when to end at the latest.
    drain_until: Option<Instant>,
    /// The time when the kernel's events were looked at last.
    now: Instant,
    /// When the page was told last how the active connections are.
    observed: Instant,
    /// When the worker had nothing to do last, if it had time to look at the clock.
    rested: Instant,
    /// How long others had its processor, and what that said when it was asked last.
    run_delay: RunDelay,
    delayed: Duration,
    settings: WorkerSettings,
}

impl Worker {
    /// A worker without connections, for the thread that is to run it.
    fn new(number: usize, methods: Arc<Methods>, settings: WorkerSettings) -> Result<Self> {
        let multiplexer = Multiplexer::new().map_err(Error::io("create a worker's poller"))?;
        let mailbox = Arc::new(Mailbox::new(multiplexer.waker()));
        let page = &settings.page;
        let (counters, one_in) = (page.worker(number), page.one_in());
        let now = Instant::now();
        Ok(Self {
            connections: Slab::new(),
            active: Vec::with_capacity(ROOM),
            parking: Vec::with_capacity(ROOM),
            resting: Vec::with_capacity(ROOM),
            unobserved: Vec::with_capacity(ROOM),
            events: Vec::with_capacity(ROOM),
            held_back: BinaryHeap::with_capacity(ROOM),
            #[cfg(feature = "mpmc_transport")]
            fed: Vec::with_capacity(ROOM),
            multiplexer,
            bench: Bench {
                methods,
                draining: false,
                alone: false,
                now,
                counters: counters.clone(),
                distributions: page.distributions(number),
                sampler: Sampler::new(one_in),
                turns: Sampler::new(one_in),
                deferred: Sampler::new(one_in),
                began: None,
                #[cfg(feature = "tokio")]
                mailbox: mailbox.clone(),
                request: Vec::new(),
                reply: Vec::new(),
                spare: Vec::new(),
                #[cfg(feature = "tokio")]
                running: settings.running.clone(),
                #[cfg(feature = "tokio")]
                runtime: settings.runtime.clone(),
            },
            mailbox,
            spinner: Spinner::new(settings.spin),
            quiet: Quiet::default(),
            load: Arc::default(),
            number,
            counters,
            drain_until: None,
            now,
            observed: now,
            rested: now,
            run_delay: RunDelay::default(),
            delayed: Duration::ZERO,
            settings,
        })
    }

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
        self.counters.set_gauge(Gauge::Awake, 1);
        loop {
            self.counters.add(Counter::Sweeps, 1);
            let drained = self.drain_queue();
            let busy_connections = self.sweep();
            let mut busy = busy_connections > 0 || drained;
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
                settings,
                ..
            } = &mut self;
            let found = match active[..] {
                // Who is told of everything by the kernel need not look.
                [] => false,
                [alone] => {
                    let connection = &mut connections[alone];
                    spinner.spin(|| {
                        connection.watch() || mailbox.has_mail() || settings.is_queue_ready()
                    })
                }
                _ => spinner.spin(|| {
                    mailbox.has_mail()
                        || settings.is_queue_ready()
                        || active.iter().any(|&key| connections[key].is_ready())
                }),
            };
            let (paid, wasted) = self.spinner.record();
            self.counters.set(Counter::SpinsPaid, paid);
            self.counters.set(Counter::SpinsWasted, wasted);
            if let Some((began, ended)) = self.spinner.take_times() {
                self.look_for_stall(began);
                self.rested = ended;
            }
            // Parking all that is active takes a heavy fence, and undoing it a ring for each. So the
            // rings of those that are parked already are asked for first.
            if !found {
                self.look_for_stall(Instant::now());
                if !self.has_events() {
                    self.sleep();
                }
            }
        }
        for (_, connection) in std::mem::take(&mut self.connections) {
            self.load.fetch_sub(1, Relaxed);
            self.counters.add(Counter::ClosedOther, 1);
            let code = match connection.in_flight() {
                0 => CloseCode::Drained,
                _ => CloseCode::Shutdown,
            };
            connection.close(code, CloseReason::Local);
        }
        self.counters.set_gauge(Gauge::Connections, 0);
        self.counters.set_gauge(Gauge::ConnectionsActive, 0);
        self.counters.set_gauge(Gauge::Awake, 0);
    }

    /// Takes what is in the request queue to the connections that it is for, up to a bound. Whether
    /// there was anything.
    #[inline(always)]
    fn drain_queue(&mut self) -> bool {
        #[cfg(feature = "mpmc_transport")]
        if let Some(requests) = &self.settings.requests {
            let taken = requests.drain(PIECES_PER_SWEEP, self.number, &mut self.fed);
            while let Some(key) = self.fed.pop() {
                if !self.stays_held_back(key) {
                    self.activate(key);
                }
            }
            return taken > 0;
        }
        false
    }

    /// Gives each active connection a turn. Returns how many had something; one that used up its
    /// turn counts for as many as may pass between two looks at the clock.
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
                Ok(Found::TooMuch) if connection.is_over_socket_that_ends() => {
                    // The end lies behind what was sent.
                    self.lift_rate(key);
                    busy += 1;
                }
                Ok(Found::TooMuch) => {
                    if let Some(until) = connection.hold_back() {
                        self.held_back.push(Reverse((until, key)));
                    }
                    // Only those that had their turn move up.
                    self.active.remove(place);
                    self.parking.push(key);
                }
                Ok(Found::Nothing) if connection.is_over_socket() => {
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
                Ok(Found::Nothing) if connection.is_finishing() => {
                    let error = connection.link().shared.closed_error();
                    self.remove(key, error);
                }
                Ok(Found::Nothing) => {}
                Ok(found) => {
                    connection.last_busy = self.now;
                    busy += match found {
                        Found::More => TURNS_PER_CLOCK,
                        _ => 1,
                    };
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
        let before = self.now;
        self.listen(Some(Duration::ZERO));
        self.release();
        self.settings.skip_strays();
        if now.saturating_duration_since(self.observed) >= OBSERVATION {
            self.observe();
        }
        let connections = &mut self.connections;
        let limit = self.quiet.limit();
        // Who was busy since the last look at the clock bears that look's time, however long ago it is:
        // a worker that was off its processor meanwhile must not take it for quiet.
        let quiet = |c: &Connection| {
            c.last_busy < before && now.saturating_duration_since(c.last_busy) > limit
        };
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

    /// Says in the page how those connections are that are active, or were parked since the last
    /// time.
    #[cold]
    fn observe(&mut self) {
        self.observed = self.now;
        self.delay();
        self.quiet.forget();
        let page = &self.settings.page;
        for &key in &self.active {
            self.connections[key].observe(page, self.now);
        }
        self.observe_parked();
    }

    /// The same, of those alone that were parked.
    fn observe_parked(&mut self) {
        for key in self.unobserved.drain(..) {
            // Another connection may have the place by now, which does no harm.
            if let Some(connection) = self.connections.get_mut(key) {
                connection.is_unobserved = false;
                connection.observe(&self.settings.page, self.now);
            }
        }
    }

    /// How long others had the worker's processor since this was asked last: a moment ago, or up to
    /// [`OBSERVATION`] (asking takes a system call).
    fn delay(&mut self) -> Duration {
        let so_far = self.run_delay.so_far().unwrap_or_default();
        let before = std::mem::replace(&mut self.delayed, so_far);
        so_far.saturating_sub(before)
    }

    /// Counts it if the connections were kept waiting for long.
    fn look_for_stall(&mut self, now: Instant) {
        let busy = now.saturating_duration_since(self.now.max(self.rested));
        if busy > STALL && busy.saturating_sub(self.delay()) > STALL {
            self.counters.add(Counter::Stalls, 1);
            if self.counters.get(Counter::Stalls) == 1 {
                tracing::warn!(?busy, "a worker was held up: does a sync handler block?");
            }
        }
    }

    /// Parks the connections in `parking`, which the caller has taken off the active list:
    /// announces it, then looks once more. Those that have something after all become active
    /// again. False if the announcement may have gone unseen.
    fn park(&mut self) -> bool {
        let (mut symmetric, mut asymmetric) = (false, false);
        let mut quiet = 0;
        for &key in &self.parking {
            let connection = &mut self.connections[key];
            connection.is_active = false;
            quiet += u64::from(!connection.is_held_back());
            for fences in connection.announce().into_iter().flatten() {
                symmetric |= fences == Fences::Symmetric;
                asymmetric |= fences == Fences::Asymmetric;
            }
            if !connection.is_unobserved {
                connection.is_unobserved = true;
                self.unobserved.push(key);
            }
        }
        self.counters.add(Counter::Parks, quiet);
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

    /// A client has rung for a connection.
    fn rung(&mut self, key: usize) {
        if self.stays_held_back(key) {
            return;
        }
        if let Some(connection) = self.connections.get(key)
            && !connection.is_active
        {
            let idle = self.now.saturating_duration_since(connection.last_busy);
            self.quiet.rung_after(idle);
        }
        self.activate(key);
    }

    /// Whether a connection is held back, so that there is no point in a turn: it has nothing to send.
    fn stays_held_back(&self, key: usize) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|c| c.is_held_back() && !c.is_blocked())
    }

    /// Has those connections go on whose time to be held back is over. Returns how many.
    fn release(&mut self) -> usize {
        let mut released = 0;
        while let Some(&Reverse((until, key))) = self.held_back.peek()
            && until <= self.now
        {
            self.held_back.pop();
            self.connections[key].release();
            self.activate(key);
            released += 1;
        }
        released
    }

    /// Has a connection go on for good: its client is at its end, and what it has sent is the last.
    fn lift_rate(&mut self, key: usize) {
        if self.connections[key].is_held_back() {
            self.held_back.retain(|Reverse((_, held))| *held != key);
        }
        self.connections[key].lift_rate();
    }

    fn activate(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_active
        {
            connection.last_busy = self.now;
            self.resume(key);
        }
    }

    /// Makes a parked connection active. It counts as busy when it last was.
    fn resume(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.is_active
        {
            connection.disarm();
            connection.is_active = true;
            self.active.push(key);
        }
    }

    /// Whether nothing has happened in a connection for so long that it is to be parked.
    fn is_quiet(&self, connection: &Connection) -> bool {
        self.now.saturating_duration_since(connection.last_busy) > self.quiet.limit()
    }

    /// After a sleep from which somebody has rung: those that were active before it and would be now, had
    /// there been none, are active again. A client that was kept off its processor for a moment
    /// would otherwise have a ring to pay for each of its connections.
    fn resume_all(&mut self) {
        if self.active.is_empty() {
            return;
        }
        while let Some(key) = self.resting.pop() {
            let connection = self.connections.get(key);
            if connection.is_some_and(|connection| !self.is_quiet(connection)) {
                self.resume(key);
            }
        }
    }

    /// Takes what the kernel has to say right now, if there are active connections to be kept from
    /// parking, and parked ones that may ring. Whether it was anything.
    fn has_events(&mut self) -> bool {
        if self.active.is_empty() || self.active.len() == self.connections.len() {
            return false;
        }
        self.listen(Some(Duration::ZERO)) + self.release() > 0
    }

    /// Parks everything and sleeps until something happens.
    #[cold]
    fn sleep(&mut self) {
        std::mem::swap(&mut self.active, &mut self.parking);
        self.resting.clone_from(&self.parking);
        let reliable = self.park();
        if reliable && !self.active.is_empty() {
            return;
        }
        self.settings.skip_strays();
        // Of any connection: who pushed it saw that its own worker was awake, which may be this one.
        if self.settings.is_queue_ready() {
            return;
        }
        if !self.mailbox.fall_asleep() {
            return;
        }
        let mut timeout = None;
        if !self.unobserved.is_empty() {
            let since = self.now.saturating_duration_since(self.observed);
            if since >= OBSERVATION {
                self.observe();
            } else if self.unobserved.len() <= SEEN_OFF {
                self.observe_parked();
            } else {
                // Once more, to say how the connections were left.
                timeout = Some(OBSERVATION);
            }
        }
        self.counters.add(Counter::Sleeps, 1);
        self.counters.set_gauge(Gauge::ConnectionsActive, 0);
        self.counters.set_gauge(Gauge::Awake, 0);
        let released = self.held_back.peek().map(|&Reverse((until, _))| until);
        for until in [self.drain_until, released].into_iter().flatten() {
            let left = until.saturating_duration_since(Instant::now());
            timeout = Some(timeout.map_or(left, |timeout: Duration| timeout.min(left)));
        }
        if !reliable {
            timeout = Some(timeout.unwrap_or(UNRELIABLE_SLEEP).min(UNRELIABLE_SLEEP));
        }
        self.listen(timeout);
        self.resume_all();
        self.release();
        self.counters.set_gauge(Gauge::Awake, 1);
        self.mailbox.wake_up();
    }

    /// Takes the kernel's events. Returns how many there were.
    fn listen(&mut self, timeout: Option<Duration>) -> usize {
        let events = &mut self.events;
        let listened = self.multiplexer.sleep(timeout, |event| events.push(event));
        self.now = Instant::now();
        self.bench.now = self.now;
        let since_start = self.settings.page.at(self.now);
        self.counters.set_gauge(Gauge::LastTick, since_start);
        self.counters
            .set_gauge(Gauge::ConnectionsActive, self.active.len() as u64);
        if let Err(error) = listened {
            // Cannot happen with a valid descriptor; do not spin on it if it does.
            tracing::error!(%error, "a worker cannot sleep");
            std::thread::sleep(UNRELIABLE_SLEEP);
        }
        let mut events = std::mem::take(&mut self.events);
        let count = events.len();
        for event in events.drain(..) {
            match event {
                Event::Rung(key) => self.rung(key),
                Event::Socket(key) => self.read_control(key),
                Event::Woken => {}
            }
        }
        self.events = events;
        count
    }

    /// Something came over a connection's control socket, or its end.
    fn read_control(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let shared = connection.link().shared.clone();
        shared.read_control();
        if connection.is_over_socket() {
            if connection.is_blocked() && shared.control().is_peer_gone() {
                // Replies wait for space that nobody will make, and requests for them.
                shared.close(CloseReason::PeerGone);
                let error = shared.closed_error();
                self.remove(key, error);
                return;
            }
            if connection.is_held_back() {
                if connection.is_over_socket_that_ends() {
                    self.lift_rate(key);
                } else if !connection.is_blocked() {
                    return;
                }
            }
            // What came has its turn, and behind it the end, if that came too.
            self.activate(key);
            return;
        }
        match shared.closed() {
            None => {}
            Some(CloseReason::Finished) if !connection.is_finished() => {
                if !connection.is_finishing() {
                    connection.finish();
                    self.lift_rate(key);
                    self.settle_queue(&shared);
                }
                self.activate(key);
            }
            Some(_) => self.remove(key, shared.closed_error()),
        }
    }

    /// Takes what a client has put into the request queue, if it puts it there, to its ring.
    fn settle_queue(&mut self, _client: &Shared) {
        #[cfg(feature = "mpmc_transport")]
        if let Some(requests) = &self.settings.requests
            && _client.is_fed_by_queue()
        {
            requests.settle(self.number, &mut self.fed);
            while let Some(key) = self.fed.pop() {
                self.activate(key);
            }
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
        let connection = entry.insert(Connection::new(
            link,
            key,
            settings.max_message,
            settings.max_in_flight,
            settings.max_message_rate,
            self.counters.clone(),
        ));
        connection.show(&settings.page, self.number);
        self.counters.add(Counter::ConnectionsOpened, 1);
        self.counters
            .set_gauge(Gauge::Connections, self.connections.len() as u64);
        if self.bench.draining {
            let told = self.connections[key].go_away();
            self.follow_up(key, told);
        } else {
            self.activate(key);
        }
        #[cfg(feature = "mpmc_transport")]
        if let Some(connection) = self.connections.get(key) {
            let shared = connection.link().shared.clone();
            if let Err(error) = shared.adopt_requests(self.number, key) {
                self.remove(key, error);
            }
        }
    }

    /// Takes a connection out, active or not, and closes it.
    fn remove(&mut self, key: usize, error: Error) {
        let connection = self.connections.remove(key);
        if connection.is_held_back() {
            self.held_back.retain(|Reverse((_, held))| *held != key);
        }
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
                let counter = match reason {
                    CloseReason::PeerGone => Counter::ClosedGone,
                    CloseReason::Finished => Counter::ClosedFinished,
                    _ => Counter::ClosedOther,
                };
                self.counters.add(counter, 1);
                (CloseCode::Finished, reason)
            }
            Error::Protocol(violation) => {
                tracing::warn!(peer.pid, peer.user = %peer.user(), %violation, "connection closed");
                self.counters.add(Counter::ClosedViolation, 1);
                (CloseCode::Violation, CloseReason::Violation(violation))
            }
            other => {
                tracing::error!(peer.pid, error = %other, "connection closed");
                self.counters.add(Counter::ClosedOther, 1);
                (CloseCode::Internal, CloseReason::Local)
            }
        };
        connection.close(code, reason);
        // Who sees the number finds what the page says of this connection gone.
        self.counters
            .set_gauge(Gauge::Connections, self.connections.len() as u64);
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
