//! `nearwire bench latency`: how long a call takes.

#[cfg(target_os = "linux")]
mod asleep;

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Result;
use nearwire::{BlockingClient, Client};
use tokio::runtime::Runtime;

use super::calls::{CallOptions, Server, WAYS, check, contender, ratio};
use super::floor::NearSide;
use crate::arguments::human_size;
use crate::baseline::blocking::SocketEcho;
use crate::baseline::socket;
use crate::measure::{
    Budget, Contender, Measured, Payload, Probe, Ratio, Report, Section, Series, alternate,
    latency, latency_async,
};
use crate::process::{Placement, end_with_children};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(200);

/// How long a call takes, over Nearwire and over a blocking Unix socket (Windows: a
/// named pipe), in turn.
///
/// Server and client are processes of their own. Every reply is compared with its request.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench latency --quick
  nearwire bench latency demo --size 64 --json      # of a server that runs already
  nearwire bench latency --pin --plot latency.svg")]
pub struct Latency {
    #[command(flatten)]
    calls: CallOptions,
}

impl Latency {
    /// The server that it was told to use.
    pub fn server(&self) -> Option<&str> {
        self.calls.name.as_deref()
    }

    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, or a call fails.
    pub fn run(&self) -> Result<()> {
        end_with_children()?;
        self.measure()?.publish(&self.calls.options)
    }

    fn measure(&self) -> Result<Report> {
        let options = &self.calls.options;
        let rounds = options.thoroughness.rounds;
        let budget = options.thoroughness.budget(USUAL);
        // Asked before this side is pinned: then it may only run where it is.
        #[cfg(target_os = "linux")]
        let two_cpus = crate::process::two_cpus().ok();
        let (here, there) = options.cpus()?;
        let mut report = Report::new("How long a call takes");
        report.settings.push(format!(
            "Medians of {rounds} alternating runs of {:.3} s each.",
            budget.run.as_secs_f64()
        ));
        let server = self.calls.server(there)?;
        for way in self.calls.ways() {
            // First of all: that it can be called.
            report.settings.push(self.calls.describe(&server, way)?);
        }
        let near_placement = here.map_or_else(Placement::current, Placement::pin);
        let far = NearSide::start(there)?;
        let echo = SocketEcho::start(there)?;
        report.settings.push(format!(
            "The client: {near_placement}. The socket's server: {}.",
            echo.server().placement()
        ));
        let echo = RefCell::new(echo);
        let mut probe = Probe::start(there)?;

        let title = "Round trips";
        eprintln!("measuring: {title} …");
        let contest = self.contest(&server, &far, &echo, budget)?;
        let series = alternate(rounds, contest, &mut probe)?;
        report.ratios.extend(self.ratios(&series));
        report.sections.push(Section {
            title: title.into(),
            series,
        });
        // Where the two sides sleep matters most, and only here one can say where.
        #[cfg(target_os = "linux")]
        if let (Server::Private(_), Some(cpus)) = (&server, two_cpus) {
            let title = "Round trips, both sides asleep while they wait (64 B)";
            eprintln!("measuring: {title} …");
            let series = asleep::measure(rounds, budget, &far, &mut probe, cpus)?;
            report.ratios.extend(asleep::ratios(&series));
            report.sections.push(Section {
                title: title.into(),
                series,
            });
        }
        far.finish()?;
        server.finish()?;
        Ok(report)
    }

    /// The cache line first, then each size over each transport.
    fn contest<'a>(
        &self,
        server: &Server,
        far: &'a NearSide,
        echo: &'a RefCell<SocketEcho>,
        budget: Budget,
    ) -> Result<Vec<Contender<'a>>> {
        let mut contest = vec![Contender::spinning(PING_PONG, move || {
            far.ping_pong(budget)
        })];
        for &size in &self.calls.size {
            for way in self.calls.ways() {
                let name = |client| format!("{}{}", name(size, client), way.suffix);
                let spins = self.calls.spins(way);
                if self.calls.blocking() {
                    let client = self.calls.connect_blocking(server, way)?;
                    let run = blocking(client, size, budget)?;
                    contest.push(contender(&name(BLOCKING), spins, run));
                }
                if self.calls.asynchronous() {
                    let (runtime, client) = self.calls.connect_async(server, way)?;
                    let run = asynchronous(runtime, client, size, budget)?;
                    contest.push(contender(&name(ASYNC), spins, run));
                }
            }
            if self.calls.plain_socket() {
                let run = over_socket(echo, size, budget);
                contest.push(Contender::other(&name(size, SOCKET), run));
            }
        }
        Ok(contest)
    }

    fn ratios(&self, series: &[Series]) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for &size in &self.calls.size {
            for (client, way) in [BLOCKING, ASYNC]
                .into_iter()
                .flat_map(|client| WAYS.map(|way| (client, way)))
            {
                let name = format!("{}{}", name(size, client), way.suffix);
                ratios.extend(ratio(series, &self::name(size, SOCKET), &name));
                if way == WAYS[0] {
                    ratios.extend(ratio(series, &name, PING_PONG));
                }
            }
        }
        ratios
    }
}

/// Names of the contenders.
const PING_PONG: &str = "cache-line ping-pong";
const BLOCKING: &str = "Nearwire blocking";
const ASYNC: &str = "Nearwire async";
const SOCKET: &str = socket::NAME;

fn name(size: usize, way: &str) -> String {
    format!("{}: {way}", human_size(size))
}

pub(super) fn blocking(
    mut client: BlockingClient,
    size: usize,
    budget: Budget,
) -> Result<impl FnMut() -> Result<Measured>> {
    let echo = client.method("echo")?;
    let mut payload = Payload::new(size);
    let mut reply = Vec::with_capacity(size);
    Ok(move || {
        let measured = latency(budget, || {
            let request = payload.next();
            client.call_into(echo, request, &mut reply)?;
            check(&reply, request)
        })?;
        Ok(Measured::Latency(measured))
    })
}

pub(super) fn asynchronous(
    runtime: Runtime,
    client: Client,
    size: usize,
    budget: Budget,
) -> Result<impl FnMut() -> Result<Measured>> {
    let echo = client.method("echo")?;
    let mut payload = Payload::new(size);
    Ok(move || {
        let measured = runtime.block_on(latency_async(budget, async || {
            let request = payload.next();
            check(&client.call_method(echo, request).await?, request)
        }))?;
        Ok(Measured::Latency(measured))
    })
}

fn over_socket(
    echo: &RefCell<SocketEcho>,
    size: usize,
    budget: Budget,
) -> impl FnMut() -> Result<Measured> {
    let mut payload = Payload::new(size);
    move || {
        let mut echo = echo.borrow_mut();
        let measured = latency(budget, || echo.round_trip(payload.next()))?;
        Ok(Measured::Latency(measured))
    }
}
