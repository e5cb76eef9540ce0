//! Two samples of a server's metrics, and what happened in between.

use std::time::Duration;

use anyhow::{Result, bail};
use nearwire::metrics::{ConnectionSnapshot, Counter, Distribution, Histogram, Snapshot};
use nearwire::{Observer, metrics};
use serde::Serialize;

/// What happened between two samples.
#[derive(Debug, Clone)]
pub struct Interval {
    pub earlier: Snapshot,
    pub now: Snapshot,
}

impl Interval {
    /// Samples now, and once more after a while.
    ///
    /// # Errors
    /// If the server ends meanwhile.
    pub fn watch(observer: &Observer, time: Duration) -> Result<Self> {
        Self::after(observer, observer.snapshot(), time)
    }

    /// Samples again, a while after an earlier sample.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn after(observer: &Observer, earlier: Snapshot, time: Duration) -> Result<Self> {
        std::thread::sleep(time.saturating_sub(earlier.taken.elapsed()));
        if !observer.is_alive() {
            bail!("the server is gone");
        }
        let now = observer.snapshot();
        Ok(Self { earlier, now })
    }

    /// How long it was.
    pub fn seconds(&self) -> f64 {
        self.now
            .taken
            .duration_since(self.earlier.taken)
            .as_secs_f64()
            .max(1e-6)
    }

    fn rate(&self, earlier: u64, now: u64) -> f64 {
        now.saturating_sub(earlier) as f64 / self.seconds()
    }

    /// A counter's growth per second.
    pub fn per_second(&self, counter: Counter) -> f64 {
        self.rate(self.earlier.total(counter), self.now.total(counter))
    }

    /// Calls answered per second, however they were.
    pub fn calls_per_second(&self) -> f64 {
        self.rate(self.earlier.calls(), self.now.calls())
    }

    /// What was sampled meanwhile.
    pub fn distribution(&self, which: Distribution) -> Histogram {
        let now = self.now.distribution(which);
        now.since(&self.earlier.distribution(which))
    }

    /// How a connection is, in a word.
    pub fn state(&self, connection: &ConnectionSnapshot) -> ConnectionState {
        let held_up = self.now.held_up_since(&self.earlier);
        if connection.is_stuck(self.now.uptime) || held_up.contains(&connection.worker) {
            return ConnectionState::Stuck;
        }
        match connection.state {
            metrics::State::Parked => ConnectionState::Parked,
            metrics::State::Throttled => ConnectionState::Throttled,
            _ => ConnectionState::Active,
        }
    }
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    Active,
    Parked,
    /// It has used up its message rate.
    Throttled,
    /// Its client takes no replies, or its worker does not come round.
    Stuck,
}

impl ConnectionState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Parked => "parked",
            Self::Throttled => "throttled",
            Self::Stuck => "stuck",
        }
    }
}

/// Nanoseconds as people write them: `740 ns`, `1.24 µs`, `31.0 ms`.
pub fn human_nanos(nanos: u64) -> String {
    let value = nanos as f64;
    let (scaled, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    match scaled {
        0.0..10.0 => format!("{scaled:.2} {unit}"),
        0.0..100.0 => format!("{scaled:.1} {unit}"),
        _ => format!("{scaled:.0} {unit}"),
    }
}

/// A number as people read it: `742`, `18.3 k`, `2.41 M`.
pub fn human_number(value: f64) -> String {
    let (scaled, unit) = match value {
        1e9.. => (value / 1e9, " G"),
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => return format!("{value:.0}"),
    };
    match scaled {
        0.0..10.0 => format!("{scaled:.2}{unit}"),
        0.0..100.0 => format!("{scaled:.1}{unit}"),
        _ => format!("{scaled:.0}{unit}"),
    }
}

/// So many things: `1 worker`, `2 workers`.
pub fn human_count(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// A span of time in whole seconds: `3d 4h`, `12m 5s`.
pub fn human_span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_short() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_240, "1.24 µs"),
            (31_000_000, "31.0 ms"),
            (2_500_000_000, "2.50 s"),
            (120_000_000_000, "120 s"),
        ] {
            assert_eq!(human_nanos(nanos), text);
        }
        for (value, text) in [
            (0.4, "0"),
            (9_999.0, "9999"),
            (18_340.0, "18.3 k"),
            (2_412_000.0, "2.41 M"),
            (3.2e9, "3.20 G"),
        ] {
            assert_eq!(human_number(value), text);
        }
        for (seconds, text) in [
            (5, "5s"),
            (725, "12m 5s"),
            (7260, "2h 1m"),
            (273_600, "3d 4h"),
        ] {
            assert_eq!(human_span(Duration::from_secs(seconds)), text);
        }
    }
}
