//! What is measured, in one table: names, units and explanations. The counters page, the
//! command-line tool, the Prometheus exporter and the documentation are all made from it.

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Only grows, from zero at the server's start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A sampled distribution.
    Histogram,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Things; the name says which.
    Count,
    /// Bytes.
    Bytes,
    /// Time: nanoseconds in the page and in this library, exported as seconds.
    Seconds,
}

impl Unit {
    /// The suffix of an exported name.
    pub const fn suffix(self) -> Option<&'static str> {
        match self {
            Unit::Count => None,
            Unit::Bytes => Some("bytes"),
            Unit::Seconds => Some("seconds"),
        }
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name, without prefix, unit and `total`: several metrics of one name differ in `label`.
    pub name: &'static str,
    /// What tells it from others of its name: a label's name and value.
    pub label: Option<(&'static str, &'static str)>,
    /// What kind of value it is.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it says, in a sentence without its full stop.
    pub help: &'static str,
}

/// What every exported name begins with.
pub const PREFIX: &str = "nearwire";

impl Metric {
    const fn new(kind: Kind, name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            label: None,
            kind,
            unit,
            help,
        }
    }

    const fn labelled(mut self, name: &'static str, value: &'static str) -> Self {
        self.label = Some((name, value));
        self
    }

    /// A name for JSON and tables: `calls_ok`, `bytes_sent`. Times are nanoseconds there, and the
    /// name says so: `handler_time_ns`.
    pub fn key(&self) -> String {
        let unit = if self.unit == Unit::Seconds {
            "_ns"
        } else {
            ""
        };
        match self.label {
            Some((_, value)) => format!("{}_{value}{unit}", self.name),
            None => format!("{}{unit}", self.name),
        }
    }

    /// The exported name: `nearwire_calls_total`, `nearwire_handler_duration_seconds`.
    pub fn exported_name(&self) -> String {
        let mut name = format!("{PREFIX}_{}", self.name);
        if let Some(unit) = self.unit.suffix()
            && !name.ends_with(unit)
        {
            name = format!("{name}_{unit}");
        }
        if self.kind == Kind::Counter {
            name += "_total";
        }
        name
    }
}

/// Makes an enum whose members are places in a table.
macro_rules! table {
    ($(#[$about:meta])* $enum:ident, $($member:ident => $metric:expr;)+) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(usize)]
        #[allow(missing_docs)] // `metric().help` says it
        pub enum $enum { $($member,)+ }

        impl $enum {
            /// All, in the order of the page.
            pub const ALL: &'static [$enum] = &[$($enum::$member,)+];

            /// How many there are.
            pub(crate) const COUNT: usize = Self::ALL.len();

            /// Name, unit and explanation.
            pub const fn metric(self) -> Metric {
                match self { $($enum::$member => $metric,)+ }
            }
        }
    };
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric::new(Kind::Counter, name, Unit::Count, help)
}

const fn call(outcome: &'static str) -> Metric {
    let help = "Requests that were answered, by how";
    counter("calls", help).labelled("outcome", outcome)
}

const fn spin(result: &'static str) -> Metric {
    let help = "Times a worker with nothing to do looked at the rings for a while, by whether something came";
    counter("spins", help).labelled("result", result)
}

const fn closed(reason: &'static str) -> Metric {
    let help = "Connections that ended, by why";
    counter("connections_closed", help).labelled("reason", reason)
}

table! {
    /// What each worker of a server counts. The first ones change with every batch and stand
    /// together.
    Counter,
    MessagesReceived => counter("messages_received", "Frames taken out of clients' rings");
    MessagesSent => counter("messages_sent", "Messages handed to clients: replies, stream items, the ends of streams and so on");
    BytesReceived => Metric::new(Kind::Counter, "received", Unit::Bytes, "Bytes of records received, their overhead included");
    BytesSent => Metric::new(Kind::Counter, "sent", Unit::Bytes, "Bytes of records sent, their overhead included");
    CallsOk => call("ok");
    Turns => counter("turns", "Times a connection was served that had something: batches");
    WakeupsSent => counter("wakeups_sent", "System calls made to wake a client that slept");
    WakeupsSaved => counter("wakeups_saved", "Publications that woke nobody because the client was awake");
    Sweeps => counter("sweeps", "Rounds over the active connections");
    HandlerTime => Metric::new(Kind::Counter, "handler_time", Unit::Seconds, "Time spent in handlers, estimated from the sampled calls; zero without sampling");
    SpinsPaid => spin("paid");
    SpinsWasted => spin("wasted");
    Sleeps => counter("sleeps", "Times a worker slept in the kernel");
    Parks => counter("parks", "Times a connection went quiet and was parked");
    FullRingWaits => counter("full_ring_waits", "Messages that found no space in a client's ring and had to wait");
    Throttled => counter("throttled", "Times a connection had used up its message rate and was held back for a while");
    Stalls => counter("stalls", "Times a worker was held up for more than 10 ms, as a handler that blocks does; waiting for a processor is not counted on Linux");
    CallsFailed => call("failed");
    CallsPanicked => call("panicked");
    CallsCancelled => call("cancelled");
    CallsDeadline => call("deadline_exceeded");
    CallsRefused => call("refused");
    ConnectionsOpened => counter("connections_opened", "Connections that were taken on");
    ClosedFinished => closed("finished");
    ClosedGone => closed("peer_gone");
    ClosedViolation => closed("violation");
    ClosedOther => closed("other");
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric::new(Kind::Gauge, name, Unit::Count, help)
}

table! {
    /// What each worker of a server knows of the moment.
    Gauge,
    Connections => gauge("connections", "Open connections");
    ConnectionsActive => gauge("connections_active", "Connections that are swept, not parked");
    CallsInFlight => gauge("calls_in_flight", "Calls that are not answered yet, and answers that have not left");
    Awake => gauge("worker_awake", "1 while the worker runs, 0 while it sleeps");
    LastTick => Metric::new(Kind::Gauge, "last_tick", Unit::Seconds, "When the worker last looked at the clock, from the server's start");
}

table! {
    /// What is sampled.
    Distribution,
    HandlerDuration => Metric::new(Kind::Histogram, "handler_duration", Unit::Seconds, "How long a handler took, from its start to its result; sampled by calls");
    BatchSize => Metric::new(Kind::Histogram, "batch_size", Unit::Count, "Frames that a connection had when it was served; sampled by batches");
    QueueDepth => Metric::new(Kind::Histogram, "queue_depth", Unit::Count, "Calls and answers that a connection had waiting after it was served; sampled by batches");
}

/// How long a call took, from the request to the reply, as the client sees it; sampled by calls.
pub const CALL_DURATION: Metric = Metric::new(
    Kind::Histogram,
    "call_duration",
    Unit::Seconds,
    "How long a call took as the client sees it; sampled by calls",
);

/// What is exported besides the counters of workers.
pub const START_TIME: Metric = Metric::new(
    Kind::Gauge,
    "start_time",
    Unit::Seconds,
    "When the server started, since the Unix epoch",
);
/// One call in so many is sampled.
pub const SAMPLING: Metric = Metric::new(
    Kind::Gauge,
    "sampling_interval",
    Unit::Count,
    "One call or batch in so many is sampled, 0 for none",
);

/// All that a server exports.
pub fn exported() -> impl Iterator<Item = Metric> {
    let counters = Counter::ALL.iter().map(|counter| counter.metric());
    let gauges = Gauge::ALL.iter().map(|gauge| gauge.metric());
    let histograms = Distribution::ALL.iter().map(|d| d.metric());
    counters
        .chain(gauges)
        .chain(histograms)
        .chain([START_TIME, SAMPLING])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn names_follow_the_conventions() {
        for metric in exported().chain([CALL_DURATION]) {
            let name = metric.exported_name();
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{name}"
            );
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            assert!(
                !metric.help.ends_with('.') && metric.help.len() > 10,
                "{name}"
            );
        }
    }

    #[test]
    fn metrics_of_one_name_agree_and_differ_in_their_label() {
        let mut families = HashMap::new();
        let mut keys = HashSet::new();
        for metric in exported() {
            let label = metric.label.map(|(name, _)| name);
            let family = (metric.kind, metric.unit, metric.help, label);
            let known = *families.entry(metric.exported_name()).or_insert(family);
            assert_eq!(known, family, "{}", metric.name);
            assert!(keys.insert(metric.key()), "{} twice", metric.key());
        }
    }
}
