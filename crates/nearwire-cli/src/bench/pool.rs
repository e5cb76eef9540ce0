//! `nearwire bench pool`: what a pool of connections costs, and what it brings.

mod restarts;
mod server;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearwire::{Client, Pool};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::calls::{check, ratio};
use crate::measure::{
    Budget, Contender, Measured, Meter, Options, Payload, Probe, Report, Section, Verdict,
    alternate, latency_async, verdict_lines,
};
use crate::output::{print_json, print_text};
use crate::process::{Placement, end_with_children};

use restarts::{End, Restarts};
pub use server::{PLACE_ROLE, SERVER_ROLE, keep_place, serve};
use server::{Place, Server};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(400);

/// Tasks that call at the same time, where several do.
const CALLERS: usize = 64;

/// Bytes of a request, and of its reply.
const SIZE: usize = 64;

/// How long a pool may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a pool costs and brings: calls through it beside calls on a client, calls of many tasks
/// over one connection and over more, and the time to the first call that succeeds after the server
/// was restarted.
///
/// The servers are processes of their own, with two workers. Every reply is compared with its
/// request.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench pool --quick
  nearwire bench pool --json")]
pub struct Bench {
    /// How often the server is killed, and how often it is shut down in order.
    #[arg(long, value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    restarts: u32,
    #[command(flatten)]
    options: Options,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    calls: Report,
    restarts: Vec<Restarts>,
    verdicts: Vec<Verdict>,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, or a call fails that should not.
    pub fn run(&self) -> Result<()> {
        end_with_children()?;
        self.measure()?.print(self.options.json)
    }

    fn measure(&self) -> Result<Outcome> {
        let budget = self.options.thoroughness.budget(USUAL);
        let rounds = self.options.thoroughness.rounds;
        let (here, there) = self.options.cpus()?;
        let mut report = Report::new("Calls through a pool");
        let mut probe = Probe::start(there)?;
        // The runtime's threads inherit it.
        let placement = here.map_or_else(Placement::current, Placement::pin);
        report.settings = vec![
            format!(
                "Medians of {rounds} alternating runs of {:.3} s each; every reply compared with \
                 its request.",
                budget.run.as_secs_f64()
            ),
            format!("The pool's process: {placement}."),
        ];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let place = Place::new()?;
        let server = Server::start(&place, there)?;

        let title = "Calls of 64 B, one at a time";
        eprintln!("measuring: {title} …");
        let client = runtime.block_on(Client::connect(place.socket()))?;
        let pool = runtime.block_on(Pool::connect(place.socket()))?;
        let contest = vec![
            Contender::spinning("Client", || {
                let mut payload = Payload::new(SIZE);
                runtime.block_on(single(budget, async || {
                    let request = payload.next();
                    check(&client.call_bytes("echo", request).await?, request)
                }))
            }),
            Contender::spinning("Pool", || {
                let mut payload = Payload::new(SIZE);
                runtime.block_on(single(budget, async || {
                    let request = payload.next();
                    check(&pool.call_bytes("echo", request).await?, request)
                }))
            }),
        ];
        let series = alternate(rounds, contest, &mut probe)?;
        report.ratios.extend(ratio(&series, "Pool", "Client"));
        report.sections.push(Section {
            title: title.into(),
            series,
        });
        drop((client, pool));

        for (title, method, request) in [
            ("Calls of 64 tasks that are echoed", "echo", SIZE),
            (
                "Calls of 64 tasks that block their worker for 1 ms each",
                "block",
                8,
            ),
        ] {
            eprintln!("measuring: {title} …");
            let mut contest = Vec::new();
            for connections in [1, 2, 4] {
                let pool = ready(&runtime, &place, connections)?;
                let plural = if connections == 1 { "" } else { "s" };
                let name = format!("{method}: {connections} connection{plural}");
                let runtime = &runtime;
                contest.push(Contender::other(&name, move || {
                    runtime.block_on(many(&pool, method, request, budget))
                }));
            }
            let series = alternate(rounds, contest, &mut probe)?;
            for connections in [2, 4] {
                let name = |what: &str| format!("{method}: {what}");
                let more = name(&format!("{connections} connections"));
                report
                    .ratios
                    .extend(ratio(&series, &more, &name("1 connection")));
            }
            report.sections.push(Section {
                title: title.into(),
                series,
            });
        }
        server.finish()?;

        let mut restarts = Vec::new();
        for end in [End::Kill, End::InOrder] {
            eprintln!("measuring: {} restarts, {} …", self.restarts, end.name());
            let times = restarts::measure(&runtime, &place, there, self.restarts, end)?;
            restarts.push(times);
        }
        place.finish()?;
        Ok(Outcome {
            calls: report,
            verdicts: restarts.iter().map(Restarts::verdict).collect(),
            restarts,
        })
    }
}

impl Outcome {
    fn print(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let mut text = self.calls.text()?;
        text += "\nRestarts: from the moment that the new server serves to the first call that succeeds\n";
        text += &restarts::table(&self.restarts).to_string();
        text += "\n\n";
        text += &verdict_lines(&self.verdicts);
        print_text(&text)
    }
}

async fn single(budget: Budget, call: impl AsyncFnMut() -> Result<()>) -> Result<Measured> {
    Ok(Measured::Latency(latency_async(budget, call).await?))
}

/// A pool with so many connections, all of them open.
fn ready(runtime: &Runtime, place: &Place, connections: usize) -> Result<Pool> {
    let _inside = runtime.enter();
    let pool = Pool::builder()
        .min_idle(connections)
        .max_size(connections)
        .build(place.socket())?;
    let deadline = std::time::Instant::now() + PATIENCE;
    while pool.stats().open < connections {
        ensure!(
            std::time::Instant::now() < deadline,
            "the pool does not get {connections} connections"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(pool)
}

/// As many calls as there can be of all callers.
async fn many(pool: &Pool, method: &'static str, size: usize, budget: Budget) -> Result<Measured> {
    let meter = Arc::new(Mutex::new(Meter::start(budget, size)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (pool, meter) = (pool.clone(), Arc::clone(&meter));
            tokio::spawn(async move {
                let mut payload = Payload::new(size);
                loop {
                    let request = payload.next();
                    check(&pool.call_bytes(method, request).await?, request)?;
                    let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
                    if !meter.count(1) {
                        return anyhow::Ok(());
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let meter = Arc::into_inner(meter).context("a caller still counts")?;
    let meter = meter.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Measured::Throughput(meter.evaluate()))
}
