//! `nearwire bench ring`: messages without calls, beside the barest rings.

mod far_side;

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearwire::{ClientBuilder, Connection};
use nearwire_floor::ring::commit::Commit;
use nearwire_floor::ring::tail::Tail;

use super::calls::{check, ratio};
use super::floor::{NearSide, fingerprint};
use crate::measure::{
    Budget, Contender, Measured, Options, Payload, Probe, Ratio, Report, Section, Series,
    Throughput, alternate, latency, throughput,
};
use crate::private::PrivateServer;
use crate::process::{Placement, end_with_children};
use crate::serve::spin;

use far_side::{Done, Job, Opening};
pub use far_side::{MESSAGES_ROLE, serve_messages};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(200);

/// Bytes of a small message.
const SMALL: usize = 64;

/// Bytes of a large message.
const LARGE: usize = 64 << 10;

/// Bytes of a bare ring for small messages: it stays in the innermost cache, where it is fastest.
const BARE_RING: usize = 16 << 10;

/// Bytes of Nearwire's ring for small messages: the usual one, of which it uses what it needs.
const SMALL_RING: usize = 64 << 10;

/// Bytes of a ring for large messages: sixteen of them.
const LARGE_RING: usize = 1 << 20;

/// Messages of a batch.
const BATCH: usize = 16;

/// Messages between two processes, without calls, beside the barest rings that the same memory
/// allows: round trips, and one way, singly and in batches.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench ring --quick
  nearwire bench ring --pin --json")]
pub struct Ring {
    #[command(flatten)]
    options: Options,
    /// Microseconds that either side may spin before it sleeps [default: 50].
    #[arg(long, value_name = "MICROS", value_parser = clap::value_parser!(u64).range(1..))]
    spin: Option<u64>,
}

impl Ring {
    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, or a message is lost.
    pub fn run(&self) -> Result<()> {
        end_with_children()?;
        self.measure()?.publish(&self.options)
    }

    fn measure(&self) -> Result<Report> {
        let rounds = self.options.thoroughness.rounds;
        let budget = self.options.thoroughness.budget(USUAL);
        let (here, there) = self.options.cpus()?;
        let mut report = Report::new("Messages over the ring");
        report.settings.push(format!(
            "Medians of {rounds} alternating runs of {:.3} s each.",
            budget.run.as_secs_f64()
        ));
        let near_placement = here.map_or_else(Placement::current, Placement::pin);
        let bare = NearSide::start(there)?;
        let settings = Opening { spin: self.spin };
        let server = PrivateServer::start(MESSAGES_ROLE, &settings, there)?;
        let nearwire = Nearwire {
            name: server.name().to_owned(),
            settings: ClientBuilder::new()
                .label("nearwire bench")
                .spin(spin(self.spin)),
        };
        report.settings.push(format!(
            "This side: {near_placement}. The other side: {}; {}.",
            server.process().placement(),
            bare.placement()
        ));
        let mut probe = Probe::start(there)?;
        let mut section = |title: &str, contest: Vec<Contender<'_>>| -> Result<Vec<Series>> {
            eprintln!("measuring: {title} …");
            let series = alternate(rounds, contest, &mut probe)?;
            report.sections.push(Section {
                title: title.into(),
                series: series.clone(),
            });
            Ok(series)
        };
        let trips = section("Round trips (64 B)", round_trips(&nearwire, &bare, budget))?;
        let one_way = section("One way", one_way(&nearwire, &bare, budget))?;
        report.ratios = ratios(&trips, &one_way);
        bare.finish()?;
        server.finish()?;
        Ok(report)
    }
}

/// Names of the contenders.
const PING_PONG: &str = "cache-line ping-pong";
const NEARWIRE: &str = "Nearwire";
const TAIL: &str = "bare ring, tail cursor";
const COMMIT: &str = "bare ring, commit word";
const SINGLY: &str = "64 B singly: ";
const BATCHES: &str = "64 B in batches of 16: ";
const LARGE_SINGLY: &str = "64 KiB: ";

fn round_trips<'a>(
    nearwire: &'a Nearwire,
    bare: &'a NearSide,
    budget: Budget,
) -> Vec<Contender<'a>> {
    vec![
        Contender::spinning(PING_PONG, move || bare.ping_pong(budget)),
        Contender::spinning(NEARWIRE, move || nearwire.round_trips(budget)),
        Contender::spinning(TAIL, move || {
            bare.exchange::<Tail>(budget, BARE_RING, SMALL)
        }),
        Contender::spinning(COMMIT, move || {
            bare.exchange::<Commit>(budget, BARE_RING, SMALL)
        }),
    ]
}

fn one_way<'a>(nearwire: &'a Nearwire, bare: &'a NearSide, budget: Budget) -> Vec<Contender<'a>> {
    let mut contest = Vec::new();
    let mut add = |way: &str, name: &str, run: Box<dyn FnMut() -> Result<Measured> + 'a>| {
        contest.push(Contender::spinning(&format!("{way}{name}"), run));
    };
    let singly = move || nearwire.one_way(budget, SMALL_RING, SMALL, Job::Take, send_singly);
    let batches =
        move || nearwire.one_way(budget, SMALL_RING, SMALL, Job::TakeBatches, send_in_batches);
    let large = move || nearwire.one_way(budget, LARGE_RING, LARGE, Job::Take, send_singly);
    add(
        SINGLY,
        NEARWIRE,
        Box::new(move || singly().map(Measured::Throughput)),
    );
    add(
        SINGLY,
        TAIL,
        Box::new(move || {
            bare.one_by_one::<Tail>(budget, BARE_RING, SMALL)
                .map(Measured::Throughput)
        }),
    );
    add(
        SINGLY,
        COMMIT,
        Box::new(move || {
            bare.one_by_one::<Commit>(budget, BARE_RING, SMALL)
                .map(Measured::Throughput)
        }),
    );
    add(
        BATCHES,
        NEARWIRE,
        Box::new(move || batches().map(Measured::Throughput)),
    );
    add(
        BATCHES,
        TAIL,
        Box::new(move || {
            bare.in_batches::<Tail>(budget, BARE_RING, SMALL)
                .map(Measured::Throughput)
        }),
    );
    add(
        BATCHES,
        COMMIT,
        Box::new(move || {
            bare.in_batches::<Commit>(budget, BARE_RING, SMALL)
                .map(Measured::Throughput)
        }),
    );
    add(
        LARGE_SINGLY,
        NEARWIRE,
        Box::new(move || large().map(Measured::Bandwidth)),
    );
    add(
        LARGE_SINGLY,
        TAIL,
        Box::new(move || {
            bare.one_by_one::<Tail>(budget, LARGE_RING, LARGE)
                .map(Measured::Bandwidth)
        }),
    );
    add(
        LARGE_SINGLY,
        COMMIT,
        Box::new(move || {
            bare.one_by_one::<Commit>(budget, LARGE_RING, LARGE)
                .map(Measured::Bandwidth)
        }),
    );
    contest
}

fn ratios(trips: &[Series], one_way: &[Series]) -> Vec<Ratio> {
    let mut ratios: Vec<Ratio> = [NEARWIRE, TAIL, COMMIT]
        .into_iter()
        .filter_map(|name| ratio(trips, name, PING_PONG))
        .collect();
    for way in [SINGLY, BATCHES, LARGE_SINGLY] {
        let nearwire = format!("{way}{NEARWIRE}");
        for bare in [TAIL, COMMIT] {
            ratios.extend(ratio(one_way, &nearwire, &format!("{way}{bare}")));
        }
    }
    ratios
}

/// Connections to the other side.
struct Nearwire {
    name: String,
    settings: ClientBuilder,
}

impl Nearwire {
    /// Connects and tells the other side what to do.
    fn connect(&self, job: Job, ring: usize) -> Result<Connection> {
        let settings = self.settings.clone().ring(ring);
        let mut connection = settings.connect_messages_blocking(&self.name)?;
        connection.send(&serde_json::to_vec(&job)?)?;
        Ok(connection)
    }

    fn round_trips(&self, budget: Budget) -> Result<Measured> {
        let mut connection = self.connect(Job::Echo, SMALL_RING)?;
        let mut payload = Payload::new(SMALL);
        let mut reply = Vec::with_capacity(SMALL);
        let measured = latency(budget, || {
            let message = payload.next();
            connection.send(message)?;
            ensure!(connection.recv(&mut reply)?, "the other side has finished");
            check(&reply, message)
        })?;
        Ok(Measured::Latency(measured))
    }

    /// Messages in one direction; `send` sends a batch in its way.
    fn one_way(
        &self,
        budget: Budget,
        ring: usize,
        size: usize,
        job: Job,
        send: fn(&mut Connection, &[&[u8]; BATCH]) -> Result<()>,
    ) -> Result<Throughput> {
        let connection = RefCell::new(self.connect(job, ring)?);
        let payloads: Vec<Vec<u8>> = {
            let mut payload = Payload::new(size);
            (0..BATCH).map(|_| payload.next().to_vec()).collect()
        };
        let payloads: [&[u8]; BATCH] = std::array::from_fn(|number| payloads[number].as_slice());
        let batch_sum = payloads
            .iter()
            .fold(0u64, |sum, payload| sum.wrapping_add(fingerprint(payload)));
        throughput(
            budget,
            size,
            |count| {
                let mut connection = connection.borrow_mut();
                // Slices are powers of two, from a batch up.
                for _ in 0..count / BATCH as u64 {
                    send(&mut connection, std::hint::black_box(&payloads))?;
                }
                Ok(())
            },
            |total| {
                let mut connection = connection.borrow_mut();
                connection.finish();
                let mut report = Vec::new();
                ensure!(connection.recv(&mut report)?, "the other side says nothing");
                let done: Done =
                    serde_json::from_slice(&report).context("the other side makes no sense")?;
                let sum = (total / BATCH as u64).wrapping_mul(batch_sum);
                ensure!(
                    done == Done { count: total, sum },
                    "{total} messages were sent, {} came, or some were damaged",
                    done.count
                );
                Ok(())
            },
        )
    }
}

fn send_singly(connection: &mut Connection, messages: &[&[u8]; BATCH]) -> Result<()> {
    for message in messages {
        connection.send(message)?;
    }
    Ok(())
}

fn send_in_batches(connection: &mut Connection, messages: &[&[u8]; BATCH]) -> Result<()> {
    connection.send_batch(messages)?;
    Ok(())
}
