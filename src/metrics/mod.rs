//! Metrics: counters that cost next to nothing, in a page that other processes can read.
//!
//! A [`Server`](crate::Server) has one *counters page*: an anonymous shared segment that it alone can
//! write. Each worker counts in cache lines of its own, with plain stores, once per batch; nothing on
//! the way of a call is shared, locked or read back. Whoever may connect to the server may also read
//! the page ([`Observer`](crate::Observer), `nearwire top`), which costs the server nothing.
//!
//! # Sampling
//! Times and sizes are sampled: one call, or batch, in 1000, unless
//! [`ServerBuilder::sampling`](crate::ServerBuilder::sampling) says otherwise. Each has the same
//! probability, whatever came before, so that no periodic pattern hides. What the numbers mean:
//!
//! - A [`Histogram`] holds what was sampled. Its quantiles and its mean are those of all, as well as so
//!   many samples can tell; its count and sum are about one thousandth of all.
//! - [`Counter::HandlerTime`] is scaled up already.
//! - `handler_duration` is sampled by *calls*: its mean is that of a call. `batch_size` and
//!   `queue_depth` are sampled by *batches*: the mean of `batch_size` is frames per batch. The batch
//!   that an average call finds itself in is larger, for large batches have more calls.
//! - The time of an async handler that is not ready at once goes to its end, waiting included.
//!
//! Counters that are not sampled are exact, and lag by a batch at most. What the page says about single
//! connections lags by some tens of milliseconds.
//!
//! All that is counted, with names and units, is in [`Counter`], [`Gauge`] and [`Distribution`].

mod client;
mod histogram;
pub(crate) mod layout;
mod names;
mod page;
mod sampler;
mod slots;
mod snapshot;

pub use client::ClientMetrics;
pub(crate) use client::Latencies;
pub use histogram::Histogram;
pub use names::{
    CALL_DURATION, Counter, Distribution, Gauge, Kind, Metric, PREFIX, SAMPLING, START_TIME, Unit,
    exported,
};
pub(crate) use page::{CountersPage, WorkerCounters, WorkerDistributions};
pub(crate) use sampler::Sampler;
pub use slots::State;
pub(crate) use slots::{ConnectionSlot, Observed, Opened};
pub(crate) use snapshot::Reader;
pub use snapshot::{
    ConnectionSnapshot, PageError, RingSnapshot, STUCK_AFTER, Snapshot, WorkerSnapshot,
};

/// One call in so many is sampled, unless a setting says otherwise.
pub(crate) const DEFAULT_SAMPLING: u32 = 1000;

#[cfg(test)]
mod tests;
