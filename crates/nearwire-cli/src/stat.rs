//! `nearwire stat`: what a server counts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use nearwire::Observer;
use nearwire::metrics::{Counter, Distribution, Gauge, Histogram, Snapshot, Unit};
use serde::Serialize;

use crate::arguments;
use crate::output::{print_json, print_json_line, print_text};
use crate::rates::{Interval, human_count, human_nanos, human_number, human_span};

/// Print what a server counts: totals, rates, sampled times.
///
/// The server's counters page is read, read-only; the server does nothing for it. Rates are those of
/// a short interval. What the numbers mean is in the documentation of the library's module `metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire stat demo                        # totals, and rates over 200 ms
  nearwire stat demo --json | jq .counters.calls_ok.per_second
  nearwire stat demo --watch --interval 1s  # a line per second, until Ctrl-C")]
pub struct Stat {
    /// The server's name, or the path of its socket.
    pub name: String,
    /// Print a JSON object; with --watch one per line.
    #[arg(long)]
    json: bool,
    /// Go on, a line per interval, until the server ends.
    #[arg(long)]
    watch: bool,
    /// Rates are those of so long an interval [default: 200ms, with --watch 1s].
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    interval: Option<Duration>,
}

/// A sample as JSON.
#[derive(Serialize)]
struct Sample {
    server: ServerOut,
    /// Of which the rates are, in seconds.
    interval: f64,
    counters: BTreeMap<String, CounterOut>,
    gauges: BTreeMap<String, u64>,
    /// Since the server's start.
    distributions: BTreeMap<String, DistributionOut>,
    /// Of the interval.
    recent: BTreeMap<String, DistributionOut>,
    workers: Vec<WorkerOut>,
}

#[derive(Serialize)]
struct ServerOut {
    label: String,
    pid: u32,
    uptime_seconds: f64,
    /// One call, or batch, in so many is sampled.
    sampling: u32,
    draining: bool,
}

#[derive(Serialize)]
struct CounterOut {
    total: u64,
    per_second: f64,
}

/// A worker's counters and gauges.
#[derive(Serialize)]
struct WorkerOut {
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, u64>,
    held_up: bool,
}

/// A sampled distribution. Times in nanoseconds.
#[derive(Serialize)]
struct DistributionOut {
    samples: u64,
    mean: Option<f64>,
    p50: Option<u64>,
    p90: Option<u64>,
    p99: Option<u64>,
    max: Option<u64>,
}

impl DistributionOut {
    fn of(histogram: &Histogram) -> Self {
        Self {
            samples: histogram.count(),
            mean: histogram.mean(),
            p50: histogram.quantile(0.5),
            p90: histogram.quantile(0.9),
            p99: histogram.quantile(0.99),
            max: histogram.quantile(1.0),
        }
    }
}

impl Stat {
    /// Reads and prints.
    ///
    /// # Errors
    /// If the server cannot be looked at, or ends meanwhile.
    pub fn run(&self) -> Result<()> {
        let observer = Observer::connect(&self.name)?;
        let usual = Duration::from_millis(if self.watch { 1000 } else { 200 });
        let time = self.interval.unwrap_or(usual);
        if !self.watch {
            let interval = Interval::watch(&observer, time)?;
            return match self.json {
                true => print_json(&sample(&interval)),
                false => print_text(&table(&interval)),
            };
        }
        if !self.json {
            print_text(&line_head())?;
        }
        let mut earlier = observer.snapshot();
        loop {
            let interval = Interval::after(&observer, earlier, time)?;
            match self.json {
                true => print_json_line(&sample(&interval))?,
                false => print_text(&line(&interval))?,
            }
            earlier = interval.now;
        }
    }
}

fn sample(interval: &Interval) -> Sample {
    let now = &interval.now;
    let counter = |&counter: &Counter| {
        let value = CounterOut {
            total: now.total(counter),
            per_second: interval.per_second(counter),
        };
        (counter.metric().key(), value)
    };
    let distributions = |of: &dyn Fn(Distribution) -> Histogram| {
        let all = Distribution::ALL.iter();
        all.map(|&which| (which.metric().key(), DistributionOut::of(&of(which))))
            .collect()
    };
    let held_up = now.held_up_since(&interval.earlier);
    let workers = now.workers.iter().enumerate().map(|(number, worker)| {
        let counters = Counter::ALL.iter();
        let gauges = Gauge::ALL.iter();
        WorkerOut {
            counters: counters
                .map(|&c| (c.metric().key(), worker.counter(c)))
                .collect(),
            gauges: gauges
                .map(|&g| (g.metric().key(), worker.gauge(g)))
                .collect(),
            held_up: held_up.contains(&number),
        }
    });
    Sample {
        server: ServerOut {
            label: now.label.clone(),
            pid: now.pid,
            uptime_seconds: now.uptime.as_secs_f64(),
            sampling: now.sampling,
            draining: now.is_draining,
        },
        interval: interval.seconds(),
        counters: Counter::ALL.iter().map(counter).collect(),
        gauges: sums()
            .map(|gauge| (gauge.metric().key(), now.gauge(gauge)))
            .collect(),
        distributions: distributions(&|which| now.distribution(which)),
        recent: distributions(&|which| interval.distribution(which)),
        workers: workers.collect(),
    }
}

/// Gauges of which the sum over workers says something.
fn sums() -> impl Iterator<Item = Gauge> {
    let gauges = Gauge::ALL.iter().copied();
    gauges.filter(|gauge| gauge.metric().unit == Unit::Count)
}

/// A server in a line: who it is, since when.
pub fn headline(now: &Snapshot) -> String {
    let draining = if now.is_draining {
        ", shutting down"
    } else {
        ""
    };
    format!(
        "{} · process {} · up {} · {} · {}{draining}",
        now.label,
        now.pid,
        human_span(now.uptime),
        human_count(now.workers.len() as u64, "worker"),
        human_count(now.gauge(Gauge::Connections), "connection"),
    )
}

fn value(unit: Unit, value: u64) -> String {
    match unit {
        Unit::Seconds => human_nanos(value),
        _ => value.to_string(),
    }
}

fn table(interval: &Interval) -> String {
    let now = &interval.now;
    let mut text = headline(now) + "\n\n";
    let put = |text: &mut String, key: &str, total: String, rate: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key:<28} {total:>16} {rate:>14}");
    };
    put(&mut text, "counter", "total".into(), "per second".into());
    for &counter in Counter::ALL {
        let metric = counter.metric();
        let rate = interval.per_second(counter);
        let rate = match metric.unit {
            Unit::Seconds => human_nanos(rate as u64),
            _ => human_number(rate),
        };
        let name = metric.key();
        let name = name.trim_end_matches("_ns");
        put(
            &mut text,
            name,
            value(metric.unit, now.total(counter)),
            rate,
        );
    }
    text += "\n";
    for gauge in sums() {
        let total = now.gauge(gauge).to_string();
        put(&mut text, &gauge.metric().key(), total, String::new());
    }
    let _ = writeln!(
        text,
        "\n{:<20} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "sampled", "samples", "mean", "p50", "p99", "max"
    );
    for &which in Distribution::ALL {
        let (metric, all) = (which.metric(), now.distribution(which));
        let at = |q| {
            all.quantile(q)
                .map_or("-".into(), |v| value(metric.unit, v))
        };
        let mean = all.mean().map_or("-".into(), |mean| match metric.unit {
            Unit::Seconds => human_nanos(mean as u64),
            _ => format!("{mean:.1}"),
        });
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>10} {:>10} {:>10} {:>10}",
            metric.name,
            all.count(),
            mean,
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    match now.sampling {
        0 => text += "nothing is sampled\n",
        one_in => {
            let _ = writeln!(text, "one call, or batch, in {one_in} is sampled");
        }
    }
    text
}

fn line_head() -> String {
    format!(
        "{:>9} {:>9} {:>9} {:>9} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "calls/s",
        "errors/s",
        "in B/s",
        "out B/s",
        "conns",
        "active",
        "flight",
        "wakes/s",
        "saved/s",
        "hand p50",
        "hand p99"
    )
}

fn line(interval: &Interval) -> String {
    let now = &interval.now;
    let rate = |counter| human_number(interval.per_second(counter));
    let errors = interval.calls_per_second() - interval.per_second(Counter::CallsOk);
    let handlers = interval.distribution(Distribution::HandlerDuration);
    let at = |q| handlers.quantile(q).map_or("-".into(), human_nanos);
    format!(
        "{:>9} {:>9} {:>9} {:>9} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9} {:>9}",
        human_number(interval.calls_per_second()),
        human_number(errors.max(0.0)),
        rate(Counter::BytesReceived),
        rate(Counter::BytesSent),
        now.gauge(Gauge::Connections),
        now.gauge(Gauge::ConnectionsActive),
        now.gauge(Gauge::CallsInFlight),
        rate(Counter::WakeupsSent),
        rate(Counter::WakeupsSaved),
        at(0.5),
        at(0.99)
    )
}
