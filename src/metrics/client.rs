//! What a client counts.

use super::histogram::Histogram;
use super::names::CALL_DURATION;
use super::sampler::Sampler;
use std::time::Instant;

/// What a client has counted so far. See [`metrics`](crate::metrics) for what sampling means.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientMetrics {
    /// Calls that were begun.
    pub calls: u64,
    /// Calls in flight.
    pub in_flight: usize,
    /// Bytes of records sent, their overhead included.
    pub bytes_sent: u64,
    /// Bytes of records received, their overhead included.
    pub bytes_received: u64,
    /// System calls made to wake the server.
    pub wakeups_sent: u64,
    /// Publications that woke nobody because the server was awake.
    pub wakeups_saved: u64,
    /// Times it announced that it sleeps.
    pub sleeps: u64,
    /// Spins that found something.
    pub spins_paid: u64,
    /// Spins that did not.
    pub spins_wasted: u64,
    /// How long calls took, in nanoseconds, from the request to the reply: those that were sampled.
    pub call_duration: Histogram,
    /// One call in so many is sampled; 0: none.
    pub sampling: u32,
}

/// A client's call times.
#[derive(Debug)]
pub(crate) struct Latencies {
    sampler: Sampler,
    /// Made when there is something to put in.
    histogram: Option<Box<Histogram>>,
}

impl Latencies {
    pub(crate) fn new(one_in: u32) -> Self {
        Self {
            sampler: Sampler::new(one_in),
            histogram: None,
        }
    }

    /// A call begins: whether it is sampled.
    #[inline(always)]
    pub(crate) fn is_due(&mut self) -> bool {
        self.sampler.is_due()
    }

    /// A call begins: the time, if it is sampled.
    #[inline(always)]
    pub(crate) fn begin(&mut self) -> Option<Instant> {
        self.is_due().then(Instant::now)
    }

    /// A sampled call has ended.
    #[cold]
    pub(crate) fn end(&mut self, began: Instant) {
        self.histogram
            .get_or_insert_with(|| Box::new(Histogram::new(CALL_DURATION.unit)))
            .record_time(began.elapsed());
    }

    pub(crate) fn histogram(&self) -> Histogram {
        match &self.histogram {
            Some(histogram) => (**histogram).clone(),
            None => Histogram::new(CALL_DURATION.unit),
        }
    }

    pub(crate) fn one_in(&self) -> u32 {
        self.sampler.one_in()
    }
}
