//! What a counters page says at a moment.

use super::histogram::{self, Histogram};
use super::layout::{
    self, COUNTER_WORDS, Geometry, MAX_SLOTS, MAX_WORKERS, header, layout_hash, slot,
};
use super::names::{Counter, Distribution, Gauge};
use super::slots::{self, State};
use crate::layout::WORD;
use crate::proto::handshake::{FEATURE_MPMC_TRANSPORT, FEATURE_SOCKET_TRANSPORT};
use crate::segment::PageView;
use crate::settings::Transport;
use crate::sys::monotonic;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// Answers that have waited so long without one leaving, or a worker that has not come round for so
/// long: stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Why a counters page cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// This build has no shared memory to read it from.
    #[error(
        "a server's counters are read from shared memory, of which this program has none: build it \
         with nearwire's feature spsc_transport"
    )]
    NoSharedMemory,
    /// It is none.
    #[error("what the server sent is no counters page")]
    NotAPage,
    /// Its words mean something else than this build thinks.
    #[error(
        "the server's counters are laid out differently: use the nearwire command that was built \
         with the server's version of the library"
    )]
    OtherLayout,
    /// Places that do not fit into it.
    #[error("the server's counters page is broken: {0}")]
    Broken(&'static str),
}

/// A counters page whose header was checked. All that is read later stays inside the page, whatever
/// its writer does.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    view: PageView,
    geometry: Geometry,
}

impl Reader {
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn new(view: PageView) -> Result<Self, PageError> {
        if view.len() < header::WORDS * WORD {
            return Err(PageError::NotAPage);
        }
        let word = |at: usize| view.word(at * WORD).load(Relaxed);
        if word(header::MAGIC) != layout::MAGIC {
            return Err(PageError::NotAPage);
        }
        if word(header::LAYOUT) != layout_hash() {
            return Err(PageError::OtherLayout);
        }
        let (workers, slots) = (word(header::WORKERS), word(header::SLOTS));
        if workers > MAX_WORKERS as u64 || slots > MAX_SLOTS as u64 {
            return Err(PageError::Broken("more workers or connections than can be"));
        }
        let geometry = Geometry {
            workers: workers as usize,
            slots: slots as usize,
        };
        if geometry.len() > view.len() {
            return Err(PageError::Broken("it is too short for what it should hold"));
        }
        if geometry
            .words()
            .iter()
            .any(|&(at, value)| word(at) != value as u64)
        {
            return Err(PageError::Broken("its offsets are wrong"));
        }
        Ok(Self { view, geometry })
    }

    fn word(&self, at: usize) -> u64 {
        self.view.word(at).load(Relaxed)
    }

    /// What the page says now. Takes some microseconds, more with many connections; the server does
    /// nothing for it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let header = |at: usize| self.word(at * WORD);
        let started = SystemTime::UNIX_EPOCH + Duration::from_nanos(header(header::STARTED));
        let used = (header(header::SLOTS_USED) as usize).min(self.geometry.slots);
        Snapshot {
            label: text(|at| header(header::LABEL + at)),
            pid: header(header::PID) as u32,
            started,
            uptime: monotonic()
                .saturating_sub(Duration::from_nanos(header(header::STARTED_MONOTONIC))),
            sampling: header(header::SAMPLING) as u32,
            is_draining: header(header::DRAINING) != 0,
            workers: (0..self.geometry.workers).map(|n| self.worker(n)).collect(),
            connections: (0..used).filter_map(|n| self.connection(n)).collect(),
            taken: Instant::now(),
        }
    }

    fn worker(&self, number: usize) -> WorkerSnapshot {
        let first = self.geometry.worker_at(number);
        let word = |at: usize| self.word(first + at * WORD);
        let histogram = |which: &Distribution| {
            let at = COUNTER_WORDS + *which as usize * histogram::WORDS;
            Histogram::of_words(which.metric().unit, |n| word(at + n))
        };
        WorkerSnapshot {
            counters: (0..Counter::COUNT).map(word).collect(),
            gauges: (Counter::COUNT..Counter::COUNT + Gauge::COUNT)
                .map(word)
                .collect(),
            distributions: Distribution::ALL.iter().map(histogram).collect(),
        }
    }

    fn connection(&self, number: usize) -> Option<ConnectionSnapshot> {
        let first = self.geometry.slot_at(number);
        let word = |at: usize| self.word(first + at * WORD);
        let words = slots::read(word, self.view.word(first + slot::ID * WORD))?;
        Some(ConnectionSnapshot::of(&words))
    }
}

/// Text that another process wrote: control characters and what is not UTF-8 are replaced.
fn text(word: impl Fn(usize) -> u64) -> String {
    let bytes: Vec<u8> = (0..8).flat_map(|at| word(at).to_ne_bytes()).collect();
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).replace(char::is_control, "\u{fffd}")
}

/// A server's metrics at a moment. Words of different workers and connections, and those of one,
/// need not be of exactly the same moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// What the server calls itself.
    pub label: String,
    /// Its process.
    pub pid: u32,
    /// When it started, as the clock stood then.
    pub started: SystemTime,
    /// How long ago that is, by a clock that nobody sets.
    pub uptime: Duration,
    /// One call, or batch, in so many is sampled for the histograms; 0: none.
    pub sampling: u32,
    /// Whether it shuts down.
    pub is_draining: bool,
    /// Its I/O threads.
    pub workers: Vec<WorkerSnapshot>,
    /// Its connections, in no order.
    pub connections: Vec<ConnectionSnapshot>,
    /// When this was read.
    pub taken: Instant,
}

impl Snapshot {
    /// A counter, of all workers together.
    pub fn total(&self, counter: Counter) -> u64 {
        let workers = self.workers.iter();
        workers.fold(0, |sum, worker| sum.wrapping_add(worker.counter(counter)))
    }

    /// A gauge, of all workers together.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        let workers = self.workers.iter();
        workers.fold(0, |sum, worker| sum.wrapping_add(worker.gauge(gauge)))
    }

    /// Calls that were answered, however.
    pub fn calls(&self) -> u64 {
        let calls = Counter::ALL.iter().filter(|c| c.metric().name == "calls");
        calls.fold(0, |sum, &counter| sum.wrapping_add(self.total(counter)))
    }

    /// A distribution, of all workers together.
    pub fn distribution(&self, which: Distribution) -> Histogram {
        let mut all = Histogram::new(which.metric().unit);
        for worker in &self.workers {
            all.merge(worker.distribution(which));
        }
        all
    }

    /// The workers that were awake in both samples and made no round in between: a handler blocks
    /// them, or the system does not let them run. By their number.
    pub fn held_up_since(&self, earlier: &Snapshot) -> Vec<usize> {
        let pairs = self.workers.iter().zip(&earlier.workers).enumerate();
        let held_up = |now: &WorkerSnapshot, then: &WorkerSnapshot| {
            let awake = |worker: &WorkerSnapshot| worker.gauge(Gauge::Awake) == 1;
            let progress = |worker: &WorkerSnapshot| {
                [Counter::Sweeps, Counter::SpinsPaid, Counter::Sleeps].map(|c| worker.counter(c))
            };
            awake(now) && awake(then) && progress(now) == progress(then)
        };
        pairs
            .filter(|(_, (now, then))| held_up(now, then))
            .map(|(number, _)| number)
            .collect()
    }
}

/// One worker's metrics.
#[derive(Debug, Clone)]
pub struct WorkerSnapshot {
    counters: Box<[u64]>,
    gauges: Box<[u64]>,
    distributions: Box<[Histogram]>,
}

impl WorkerSnapshot {
    /// A counter; times in nanoseconds.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// A gauge; times in nanoseconds.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize]
    }

    /// A distribution.
    pub fn distribution(&self, which: Distribution) -> &Histogram {
        &self.distributions[which as usize]
    }
}

/// One connection of a server. What changes is written when the connection is parked and, while it
/// is active, some times a second: `observed` says when.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionSnapshot {
    /// The server's number for it.
    pub id: u64,
    /// The client's process.
    pub pid: u32,
    /// What the client calls itself.
    pub label: String,
    /// The worker that owns it, by number.
    pub worker: usize,
    /// When it began, from the server's start.
    pub since: Duration,
    /// Whether the worker looks at it in every round.
    pub state: State,
    /// Frames from the client.
    pub messages_received: u64,
    /// Messages to the client.
    pub messages_sent: u64,
    /// Calls that are not answered, and answers that have not left.
    pub in_flight: u64,
    /// Calls that may be in flight.
    pub max_in_flight: u64,
    /// Answers that found no space in the client's ring.
    pub waiting: u64,
    /// Since when answers have waited without one leaving, from the server's start: the client does
    /// not take its replies.
    pub blocked_since: Option<Duration>,
    /// When something happened last, from the server's start.
    pub busy: Duration,
    /// When this was written, from the server's start.
    pub observed: Duration,
    /// The ring that the client fills.
    pub requests: RingSnapshot,
    /// The ring that the server fills.
    pub replies: RingSnapshot,
    /// The feature bits in use, see [`feature_names`](crate::feature_names).
    pub features: u64,
    /// What carries the frames. Over the socket the rings are the server's own, of which the client
    /// knows nothing: they are the space between its worker and the socket.
    pub transport: Transport,
    /// Whether the server's ring lies in huge pages.
    pub huge_pages: bool,
}

/// A ring, as the server sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingSnapshot {
    /// Bytes of ring.
    pub capacity: u64,
    /// How far it is produced: bytes since the connection began. What the client says about its own
    /// ring lags behind, until it goes to sleep or rings. Over the socket: what was received.
    pub produced: u64,
    /// How far it is consumed. What the client says lags behind by up to a quarter of the ring.
    /// Over the socket: what was handed to the system.
    pub consumed: u64,
    /// How far the producer may know that it is consumed: the head.
    pub head: u64,
    /// Whether the consumer sleeps until there is data.
    pub consumer_parked: bool,
    /// Whether the producer sleeps until there is space.
    pub producer_parked: bool,
}

impl RingSnapshot {
    /// Bytes that were produced and not consumed, as far as the server knows.
    pub fn occupied(&self) -> u64 {
        self.produced
            .saturating_sub(self.consumed)
            .min(self.capacity)
    }
}

impl ConnectionSnapshot {
    fn of(words: &[u64; slot::WORDS]) -> Self {
        let time = |at: usize| Duration::from_nanos(words[at]);
        let parked = |bit: u32| words[slot::PARKED] >> bit & 1 == 1;
        let consumed = words[slot::CONSUMED];
        Self {
            id: words[slot::ID],
            pid: words[slot::PID] as u32,
            label: text(|at| words[slot::LABEL + at]),
            worker: words[slot::WORKER] as usize,
            since: time(slot::SINCE),
            state: match words[slot::STATE] {
                0 => State::Active,
                2 => State::Throttled,
                _ => State::Parked,
            },
            messages_received: words[slot::MESSAGES_RECEIVED],
            messages_sent: words[slot::MESSAGES_SENT],
            in_flight: words[slot::IN_FLIGHT],
            max_in_flight: words[slot::MAX_IN_FLIGHT],
            waiting: words[slot::WAITING],
            blocked_since: (words[slot::BLOCKED_SINCE] != 0).then(|| time(slot::BLOCKED_SINCE)),
            busy: time(slot::BUSY_AT),
            observed: time(slot::OBSERVED_AT),
            requests: RingSnapshot {
                capacity: words[slot::RING_IN],
                produced: words[slot::PEER_TAIL].max(consumed),
                consumed,
                head: words[slot::HEAD],
                consumer_parked: parked(0),
                producer_parked: parked(3),
            },
            replies: RingSnapshot {
                capacity: words[slot::RING_OUT],
                produced: words[slot::PRODUCED],
                consumed: words[slot::PEER_HEAD],
                head: words[slot::PEER_HEAD],
                consumer_parked: parked(2),
                producer_parked: parked(1),
            },
            features: words[slot::FEATURES],
            transport: match words[slot::FEATURES] {
                features if features & FEATURE_SOCKET_TRANSPORT != 0 => Transport::Socket,
                features if features & FEATURE_MPMC_TRANSPORT != 0 => Transport::Mpmc,
                _ => Transport::SharedMemory,
            },
            huge_pages: words[slot::HUGE_PAGES] != 0,
        }
    }

    /// Whether its client has not taken its replies for [`STUCK_AFTER`], at `uptime` of the server.
    pub fn is_stuck(&self, uptime: Duration) -> bool {
        self.blocked_since
            .is_some_and(|since| uptime.saturating_sub(since) >= STUCK_AFTER)
    }
}
