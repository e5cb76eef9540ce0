//! The counters page of a server, as the server has it.

use super::histogram::{self, HistogramWriter, nanos};
use super::layout::{self, COUNTER_WORDS, Geometry, MAX_SLOTS, header};
use super::names::{Counter, Distribution, Gauge};
use super::slots::{ConnectionSlot, Slots};
use crate::layout::WORD;
use crate::segment::{Block, OwnPage, PageView};
use crate::sys::{Handle, monotonic};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// A server's counters page.
#[derive(Debug)]
pub(crate) struct CountersPage {
    page: OwnPage,
    geometry: Geometry,
    header: Block<{ header::WORDS }>,
    /// What readers get. `None`: the page is private.
    handle: Option<Arc<Handle>>,
    slots: Arc<Slots>,
    started: Instant,
    one_in: u32,
}

impl CountersPage {
    /// Makes the page. One call in `one_in` will be sampled.
    pub(crate) fn create(workers: usize, connections: usize, one_in: u32, label: &str) -> Self {
        let geometry = Geometry {
            workers,
            slots: connections.min(MAX_SLOTS),
        };
        let (page, handle) = OwnPage::create(geometry.len());
        let header: Block<{ header::WORDS }> = page.block(0);
        let put = |at: usize, value: u64| header[at].store(value, Relaxed);
        put(header::MAGIC, layout::MAGIC);
        put(header::LAYOUT, layout::layout_hash());
        put(header::PID, std::process::id().into());
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        put(header::STARTED, nanos(epoch.unwrap_or_default()));
        put(header::STARTED_MONOTONIC, nanos(monotonic()));
        put(header::SAMPLING, one_in.into());
        for (at, value) in geometry.words() {
            put(at, value as u64);
        }
        put_text(&header[header::LABEL..], label);
        let slots = Slots::new(geometry.slots, header.clone());
        Self {
            slots: Arc::new(slots),
            page,
            geometry,
            header,
            handle: handle.map(Arc::new),
            started: Instant::now(),
            one_in,
        }
    }

    /// What a worker writes.
    pub(crate) fn worker(&self, number: usize) -> WorkerCounters {
        WorkerCounters(self.page.block(self.geometry.worker_at(number)))
    }

    /// What a worker samples.
    pub(crate) fn distributions(&self, number: usize) -> WorkerDistributions {
        let first = self.geometry.worker_at(number) + COUNTER_WORDS * WORD;
        let histogram = |which: Distribution| {
            let at = first + which as usize * histogram::WORDS * WORD;
            HistogramWriter(self.page.block(at))
        };
        WorkerDistributions {
            handler_duration: histogram(Distribution::HandlerDuration),
            batch_size: histogram(Distribution::BatchSize),
            queue_depth: histogram(Distribution::QueueDepth),
        }
    }

    /// A slot for a connection; `None` if there are more connections than slots.
    pub(crate) fn open_slot(&self) -> Option<ConnectionSlot> {
        let number = self.slots.take()?;
        let block = self.page.block(self.geometry.slot_at(number));
        Some(ConnectionSlot::new(block, self.slots.clone(), number))
    }

    /// The page's own time: since the server's start.
    pub(crate) fn at(&self, time: Instant) -> u64 {
        nanos(time.saturating_duration_since(self.started))
    }

    /// How many calls one sampled call stands for.
    pub(crate) fn one_in(&self) -> u32 {
        self.one_in
    }

    /// The server shuts down.
    pub(crate) fn set_draining(&self) {
        self.header[header::DRAINING].store(1, Relaxed);
    }

    pub(crate) fn view(&self) -> &PageView {
        self.page.view()
    }

    /// What an observer gets, and how long it is; `None` if it can get nothing.
    pub(crate) fn handle(&self) -> Option<(Arc<Handle>, u64)> {
        let handle = self.handle.clone()?;
        Some((handle, self.page.view().len() as u64))
    }
}

/// One worker's counters and gauges. It alone stores to them, so that counting is a load and a store
/// of a line that nobody else writes.
#[derive(Debug, Clone)]
pub(crate) struct WorkerCounters(Block<COUNTER_WORDS>);

impl WorkerCounters {
    /// Counts.
    #[inline(always)]
    pub(crate) fn add(&self, counter: Counter, more: u64) {
        let word = &self.0[counter as usize];
        word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Takes over what is counted elsewhere.
    #[inline(always)]
    pub(crate) fn set(&self, counter: Counter, value: u64) {
        self.0[counter as usize].store(value, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    #[inline(always)]
    fn gauge(&self, gauge: Gauge) -> &std::sync::atomic::AtomicU64 {
        &self.0[Counter::COUNT + gauge as usize]
    }

    #[inline(always)]
    pub(crate) fn set_gauge(&self, gauge: Gauge, value: u64) {
        self.gauge(gauge).store(value, Relaxed);
    }

    /// Replaces `before`, a part of the gauge, by `now`.
    #[inline(always)]
    pub(crate) fn replace(&self, gauge: Gauge, before: u64, now: u64) {
        let word = self.gauge(gauge);
        let value = word.load(Relaxed).wrapping_sub(before).wrapping_add(now);
        word.store(value, Relaxed);
    }
}

/// One worker's histograms.
#[derive(Debug)]
pub(crate) struct WorkerDistributions {
    handler_duration: HistogramWriter,
    pub(crate) batch_size: HistogramWriter,
    pub(crate) queue_depth: HistogramWriter,
}

impl WorkerDistributions {
    /// A sampled handler's time, which stands for those of `one_in` calls.
    pub(crate) fn handler_took(&self, took: Duration, one_in: u32, counters: &WorkerCounters) {
        let took = nanos(took);
        self.handler_duration.record(took);
        counters.add(Counter::HandlerTime, took.saturating_mul(one_in.into()));
    }
}

/// Writes up to 64 bytes of text.
pub(super) fn put_text(words: &[std::sync::atomic::AtomicU64], text: &str) {
    let mut bytes = [0; 64];
    let len = text.len().min(bytes.len());
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    for (word, chunk) in words.iter().zip(bytes.chunks(WORD)) {
        let chunk = chunk.try_into().expect("chunks of eight");
        word.store(u64::from_ne_bytes(chunk), Relaxed);
    }
}
