//! `nearwire bench throughput`: how many calls fit into a second.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nearwire::{BlockingClient, Client, Method, Pipeline};
use tokio::runtime::Runtime;

use super::calls::{CallOptions, Server, WAYS, check, contender, ratio};
use crate::arguments::human_size;
use crate::baseline::coalesced::CoalescedEcho;
use crate::baseline::socket;
use crate::measure::{
    Budget, Contender, Measured, Meter, Payload, Probe, Ratio, Report, Section, Series, alternate,
    throughput,
};
use crate::process::{Placement, end_with_children};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(200);

/// A task counts so many calls at a time: the count is shared.
const COUNTED_TOGETHER: u64 = 8;

/// How many calls fit into a second with a window of calls in flight on one connection, over
/// Nearwire and over a Unix socket (Windows: a named pipe) on Tokio with frames coalesced by hand, in
/// turn.
///
/// Server and client are processes of their own. Every reply is compared with its request.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench throughput --quick
  nearwire bench throughput --size 64,1KiB --window 256
  nearwire bench throughput --transport nearwire --plot throughput.svg")]
pub struct Throughput {
    #[command(flatten)]
    calls: CallOptions,
    /// Calls in flight. The async client has a task for each.
    #[arg(long, default_value_t = 64, value_name = "CALLS",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    window: u32,
}

impl Throughput {
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
        let (here, there) = options.cpus()?;
        let mut report = Report::new("How many calls fit into a second");
        report.settings.push(format!(
            "Medians of {rounds} alternating runs of {:.3} s each; {} calls in flight on one \
             connection.",
            budget.run.as_secs_f64(),
            self.window
        ));
        let server = self.calls.server(there)?;
        for way in self.calls.ways() {
            report.settings.push(self.calls.describe(&server, way)?);
        }
        let near_placement = here.map_or_else(Placement::current, Placement::pin);
        report
            .settings
            .push(format!("The client: {near_placement}."));
        let mut probe = Probe::start(there)?;

        let title = "Calls";
        eprintln!("measuring: {title} …");
        let contest = self.contest(&server, there, budget)?;
        let series = alternate(rounds, contest, &mut probe)?;
        report.ratios = self.ratios(&series);
        report.sections.push(Section {
            title: title.into(),
            series,
        });
        server.finish()?;
        Ok(report)
    }

    fn contest<'a>(
        &self,
        server: &Server,
        there: Option<usize>,
        budget: Budget,
    ) -> Result<Vec<Contender<'a>>> {
        let window = self.window as usize;
        let mut contest = Vec::new();
        for &size in &self.calls.size {
            for way in self.calls.ways() {
                let name = |client| format!("{}{}", name(size, client), way.suffix);
                let spins = self.calls.spins(way);
                if self.calls.blocking() {
                    let client = self.calls.connect_blocking(server, way)?;
                    let run = pipelined(client, size, window, budget)?;
                    contest.push(contender(&name(PIPELINE), spins, run));
                }
                if self.calls.asynchronous() {
                    let (runtime, client) = self.calls.connect_async(server, way)?;
                    let run = tasks(runtime, client, size, window, budget)?;
                    contest.push(contender(&name(TASKS), spins, run));
                }
            }
            if self.calls.plain_socket() {
                let echo = CoalescedEcho::start(there, size, window)?;
                contest.push(Contender::other(
                    &name(size, &socket_name()),
                    coalesced(echo, size, budget),
                ));
            }
        }
        Ok(contest)
    }

    fn ratios(&self, series: &[Series]) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for &size in &self.calls.size {
            for client in [PIPELINE, TASKS] {
                for way in WAYS {
                    let name = format!("{}{}", name(size, client), way.suffix);
                    ratios.extend(ratio(series, &name, &self::name(size, &socket_name())));
                }
            }
        }
        ratios
    }
}

/// Names of the contenders.
const PIPELINE: &str = "Nearwire pipeline";
const TASKS: &str = "Nearwire async tasks";
fn socket_name() -> String {
    format!("Tokio {}, coalesced", socket::NAME)
}

fn name(size: usize, way: &str) -> String {
    format!("{}: {way}", human_size(size))
}

/// One thread that submits requests while the window has room, and then takes the replies to half
/// of them.
pub(super) struct Pipelined<'a> {
    pipeline: Pipeline<'a>,
    echo: Method,
    window: usize,
    requests: Payload,
    /// What the next reply must be: replies of sync handlers come in the order of the calls.
    replies: Payload,
}

impl<'a> Pipelined<'a> {
    pub(super) fn new(
        client: &'a mut BlockingClient,
        echo: Method,
        window: usize,
        size: usize,
    ) -> Self {
        Self {
            pipeline: client.pipeline(),
            echo,
            window,
            requests: Payload::new(size),
            replies: Payload::new(size),
        }
    }

    pub(super) fn calls(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            if self.pipeline.in_flight() >= self.window {
                self.take_down_to(self.window / 2)?;
            }
            self.pipeline.submit(self.echo, self.requests.next())?;
        }
        Ok(())
    }

    /// Makes the server see what was submitted; whoever goes on elsewhere should.
    pub(super) fn flush(&mut self) {
        self.pipeline.flush();
    }

    pub(super) fn take_down_to(&mut self, left: usize) -> Result<()> {
        while self.pipeline.in_flight() > left {
            let expected = self.replies.next();
            self.pipeline
                .next(|_, reply| check(reply?, expected))?
                .context("a reply is missing")??;
        }
        Ok(())
    }
}

pub(super) fn pipelined(
    mut client: BlockingClient,
    size: usize,
    window: usize,
    budget: Budget,
) -> Result<impl FnMut() -> Result<Measured>> {
    let echo = client.method("echo")?;
    Ok(move || {
        let calls = RefCell::new(Pipelined::new(&mut client, echo, window, size));
        let measured = throughput(
            budget,
            size,
            |count| calls.borrow_mut().calls(count),
            |_| calls.borrow_mut().take_down_to(0),
        )?;
        Ok(Measured::Throughput(measured))
    })
}

/// As many tasks as the window has calls, each of which makes one call after the other.
fn tasks(
    runtime: Runtime,
    client: Client,
    size: usize,
    window: usize,
    budget: Budget,
) -> Result<impl FnMut() -> Result<Measured>> {
    let echo = client.method("echo")?;
    Ok(move || {
        let meter = Arc::new(Mutex::new(Meter::start(budget, size)));
        runtime.block_on(async {
            let tasks: Vec<_> = (0..window)
                .map(|_| tokio::spawn(caller(client.clone(), echo, size, Arc::clone(&meter))))
                .collect();
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(())
        })?;
        let meter = Arc::into_inner(meter).context("a task still counts")?;
        let meter = meter.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Measured::Throughput(meter.evaluate()))
    })
}

async fn caller(client: Client, echo: Method, size: usize, meter: Arc<Mutex<Meter>>) -> Result<()> {
    let mut payload = Payload::new(size);
    loop {
        for _ in 0..COUNTED_TOGETHER {
            let request = payload.next();
            check(&client.call_method(echo, request).await?, request)?;
        }
        let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
        if !meter.count(COUNTED_TOGETHER) {
            return Ok(());
        }
    }
}

fn coalesced(echo: CoalescedEcho, size: usize, budget: Budget) -> impl FnMut() -> Result<Measured> {
    let echo = RefCell::new(echo);
    move || {
        let measured = throughput(
            budget,
            size,
            |count| echo.borrow_mut().calls(count),
            |_| echo.borrow_mut().drain(),
        )?;
        Ok(Measured::Throughput(measured))
    }
}
