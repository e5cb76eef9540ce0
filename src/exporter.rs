//! A server's metrics for Prometheus.

use crate::error::{Error, Result};
use crate::metrics::{
    Counter, Distribution, Gauge, Histogram, Kind, Metric, Reader, SAMPLING, START_TIME, Snapshot,
    Unit, WorkerSnapshot,
};
use crate::observer::Observer;
use crate::server::Server;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

/// Puts a server's metrics into a Prometheus [`Registry`].
///
/// A task of the runtime, and none of the server's workers, reads the counters page every so often;
/// a scrape gets what was read last. Names and units follow Prometheus's conventions:
/// `nearwire_calls_total{outcome="ok"}`, `nearwire_handler_duration_seconds`. Every sample has the
/// labels `server`, with the server's label, and `worker`.
///
/// Clones share the task, which ends with the last of them; a registry holds one.
///
/// ```no_run
/// # async fn example(server: nearwire::Server) -> Result<(), Box<dyn std::error::Error>> {
/// use nearwire::Exporter;
///
/// let exporter = Exporter::new(&server)?;
/// // the registry of one's own endpoint
/// let registry = prometheus::Registry::new();
/// registry.register(Box::new(exporter.clone()))?;
/// // or, where there is none, the text for a `/metrics` page
/// println!("{}", exporter.text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
}

struct Shared {
    snapshot: Arc<Mutex<Snapshot>>,
    families: Vec<Family>,
    task: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Metrics of one name.
struct Family {
    metric: Metric,
    description: Desc,
    members: Vec<Member>,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy)]
enum Member {
    Counter(Counter),
    Gauge(Gauge),
    Distribution(Distribution),
    StartTime,
    Sampling,
}

impl Member {
    fn all() -> impl Iterator<Item = (Member, Metric)> {
        let counters = Counter::ALL
            .iter()
            .map(|&c| (Member::Counter(c), c.metric()));
        let gauges = Gauge::ALL.iter().map(|&g| (Member::Gauge(g), g.metric()));
        let distributions = Distribution::ALL.iter();
        let distributions = distributions.map(|&d| (Member::Distribution(d), d.metric()));
        let others = [
            (Member::StartTime, START_TIME),
            (Member::Sampling, SAMPLING),
        ];
        counters.chain(gauges).chain(distributions).chain(others)
    }
}

impl Exporter {
    /// How often the page is read, unless told otherwise.
    pub const INTERVAL: Duration = Duration::from_millis(500);

    /// Exports this server's metrics, read every 500 ms by a task of the runtime that this is called
    /// in.
    ///
    /// # Errors
    /// [`Error::Io`] outside a Tokio runtime.
    pub fn new(server: &Server) -> Result<Self> {
        Self::start(server.reader(), Self::INTERVAL)
    }

    /// As [`new`](Self::new), read every `interval`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Setting`] if the interval is zero.
    pub fn with_interval(server: &Server, interval: Duration) -> Result<Self> {
        Self::start(server.reader(), interval)
    }

    /// Exports the metrics of a server in another process. Of one that is gone it goes on to export
    /// what it said last: see [`Observer::is_alive`].
    ///
    /// # Errors
    /// As [`with_interval`](Self::with_interval).
    pub fn of_observed(observer: &Observer, interval: Duration) -> Result<Self> {
        Self::start(observer.reader(), interval)
    }

    fn start(reader: Reader, interval: Duration) -> Result<Self> {
        if interval.is_zero() {
            return Err(Error::Setting {
                setting: "interval",
                rule: "above zero",
            });
        }
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| Error::io("start an exporter")(std::io::Error::other(error)))?;
        let first = reader.snapshot();
        let families = families(&first.label)?;
        let snapshot = Arc::new(Mutex::new(first));
        let last = snapshot.clone();
        let task = runtime.spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let now = reader.snapshot();
                *lock(&last) = now;
            }
        });
        let shared = Shared {
            snapshot,
            families,
            task: task.abort_handle(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// A registry of its own, with these metrics and no others.
    pub fn registry(&self) -> Registry {
        let registry = Registry::new();
        registry
            .register(Box::new(self.clone()))
            .expect("nothing else is in the registry");
        registry
    }

    /// These metrics as the text that Prometheus scrapes; its content type is
    /// [`prometheus::TEXT_FORMAT`].
    pub fn text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry().gather())
            .expect("a string takes what is written, and families are never empty")
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = lock(&self.shared.snapshot).label.clone();
        f.debug_struct("Exporter").field("server", &label).finish()
    }
}

fn lock(snapshot: &Mutex<Snapshot>) -> MutexGuard<'_, Snapshot> {
    snapshot.lock().unwrap_or_else(|e| e.into_inner())
}

/// Metrics of one name together, wherever they stand in the table.
fn families(server: &str) -> Result<Vec<Family>> {
    let mut families: Vec<Family> = Vec::new();
    for (member, metric) in Member::all() {
        let name = metric.exported_name();
        let mut known = families.iter_mut();
        if let Some(family) = known.find(|family| family.description.fq_name == name) {
            family.members.push(member);
            continue;
        }
        let labels = HashMap::from([("server".to_owned(), server.to_owned())]);
        let mut variable: Vec<String> = Vec::new();
        variable.extend(metric.label.map(|(name, _)| name.to_owned()));
        variable.push("worker".to_owned());
        let description = Desc::new(name, metric.help.to_owned(), variable, labels)
            .map_err(|error| Error::io("describe a metric")(std::io::Error::other(error)))?;
        families.push(Family {
            metric,
            description,
            members: vec![member],
        });
    }
    Ok(families)
}

impl Collector for Exporter {
    fn desc(&self) -> Vec<&Desc> {
        let families = self.shared.families.iter();
        families.map(|family| &family.description).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = lock(&self.shared.snapshot);
        let families = self.shared.families.iter();
        families.map(|family| family.collect(&snapshot)).collect()
    }
}

impl Family {
    fn collect(&self, snapshot: &Snapshot) -> MetricFamily {
        let mut metrics = Vec::new();
        for &member in &self.members {
            match member {
                Member::StartTime => {
                    let since = snapshot.started.duration_since(SystemTime::UNIX_EPOCH);
                    let since = since.unwrap_or_default().as_secs_f64();
                    metrics.push(gauge(self.labels(snapshot, None, None), since));
                }
                Member::Sampling => {
                    let labels = self.labels(snapshot, None, None);
                    metrics.push(gauge(labels, snapshot.sampling.into()));
                }
                member => {
                    let workers = snapshot.workers.iter().enumerate();
                    let of_worker =
                        |(number, worker)| self.of_worker(snapshot, member, number, worker);
                    metrics.extend(workers.map(of_worker));
                }
            }
        }
        let mut family = MetricFamily::default();
        family.set_name(self.description.fq_name.clone());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(metrics);
        family
    }

    fn of_worker(
        &self,
        snapshot: &Snapshot,
        member: Member,
        number: usize,
        worker: &WorkerSnapshot,
    ) -> proto::Metric {
        let own = match member {
            Member::Counter(counter) => counter.metric().label,
            _ => None,
        };
        let labels = self.labels(snapshot, own, Some(number));
        match member {
            Member::Counter(counter) => {
                let mut value = proto::Counter::default();
                value.set_value(exported(worker.counter(counter), self.metric.unit));
                let mut metric = proto::Metric::from_label(labels);
                metric.set_counter(value);
                metric
            }
            Member::Gauge(of) => gauge(labels, exported(worker.gauge(of), self.metric.unit)),
            Member::Distribution(of) => {
                let mut metric = proto::Metric::from_label(labels);
                metric.set_histogram(histogram(worker.distribution(of)));
                metric
            }
            Member::StartTime | Member::Sampling => unreachable!("not of a worker"),
        }
    }

    /// Labels in the order of their names.
    fn labels(
        &self,
        snapshot: &Snapshot,
        own: Option<(&str, &str)>,
        worker: Option<usize>,
    ) -> Vec<LabelPair> {
        let mut labels: Vec<_> = own
            .map(|(name, value)| (name, value.to_owned()))
            .into_iter()
            .chain([("server", snapshot.label.clone())])
            .chain(worker.map(|number| ("worker", number.to_string())))
            .collect();
        labels.sort();
        let pair = |(name, value): (&str, String)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        };
        labels.into_iter().map(pair).collect()
    }
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = proto::Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

/// Buckets that end below powers of two: the library's own are finer than a query needs.
fn histogram(of: &Histogram) -> proto::Histogram {
    let mut cumulative = 0u64;
    let buckets = of.powers_of_two().map(|(highest, count)| {
        cumulative = cumulative.wrapping_add(count);
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(exported(highest, of.unit()));
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(of.count());
    histogram.set_sample_sum(exported(of.sum(), of.unit()));
    histogram
}

/// Nanoseconds as seconds; anything else as it is.
fn exported(value: u64, unit: Unit) -> f64 {
    match unit {
        Unit::Seconds => value as f64 / 1e9,
        Unit::Count | Unit::Bytes => value as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    #[tokio::test]
    async fn what_is_exported_is_what_the_table_says() {
        let directory =
            std::env::temp_dir().join(format!("nearwire-exporter-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.sock");
        let server = Server::builder().label("a \"server\"").workers(2);
        let server = server.bind(path.to_str().unwrap()).unwrap();
        let exporter = Exporter::new(&server).unwrap();
        let families = exporter.registry().gather();
        let mut names: Vec<_> = families.iter().map(|f| f.name().to_owned()).collect();
        let mut expected: Vec<_> = metrics::exported().map(|m| m.exported_name()).collect();
        expected.sort();
        expected.dedup();
        names.sort();
        assert_eq!(names, expected);
        let text = exporter.text();
        let ok = "nearwire_calls_total{outcome=\"ok\",server=\"a \\\"server\\\"\",worker=\"1\"} 0";
        assert!(text.contains(ok), "{text}");
        assert!(text.contains("# TYPE nearwire_handler_duration_seconds histogram"));
        // A second one of the same server is the same again, and of another server it is not.
        let registry = exporter.registry();
        let again = registry.register(Box::new(Exporter::new(&server).unwrap()));
        assert!(again.is_err());
        let other = Server::builder().label("b");
        let other = other
            .bind(directory.join("b.sock").to_str().unwrap())
            .unwrap();
        let interval = Duration::from_millis(10);
        let other = Exporter::with_interval(&other, interval).unwrap();
        registry.register(Box::new(other)).unwrap();
        assert!(Exporter::with_interval(&server, Duration::ZERO).is_err());
        drop(server);
        let _ = std::fs::remove_dir_all(directory);
    }

    #[test]
    fn outside_a_runtime_it_says_so() {
        let directory =
            std::env::temp_dir().join(format!("nearwire-exporter2-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.sock");
        let server = Server::builder().bind(path.to_str().unwrap()).unwrap();
        assert!(matches!(Exporter::new(&server), Err(Error::Io { .. })));
        drop(server);
        let _ = std::fs::remove_dir_all(directory);
    }
}
