//! `nearwire bench --compare`: the transport in use beside the one to go to, on one server.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearwire::{BlockingClient, Client, ClientBuilder, Transport, TransportPolicy};
use serde::Serialize;
use tokio::runtime::Runtime;

use super::calls::{contender, ratio};
use super::latency::{asynchronous, blocking};
use super::throughput::{Pipelined, pipelined};
use crate::arguments::{self, Transports, human_size};
use crate::measure::{
    Budget, Measured, Options, Probe, Ratio, Report, Section, Series, Unit, Verdict, alternate,
    throughput, verdict_lines,
};
use crate::output::{print_json, print_text};
use crate::private::PrivateServer;
use crate::process::{Placement, end_with_children};
use crate::serve::{Settings, start_privately};

/// One run takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(200);

/// Calls in flight, where there are several.
const WINDOW: usize = 64;

/// Connections, where there are several.
const CONNECTIONS: usize = 8;

/// Calls made on one of several connections before it is the next one's turn.
const IN_TURN: u64 = 4;

/// What is not slower than this, as a part of the other's speed, is as fast: runs differ.
const AS_FAST: f64 = 0.95;

/// One transport beside another: how long a call takes, and how many fit into a second, over one
/// connection and over several.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Compare two ways to carry calls, the one in use first, on one server that takes either:
    /// mpmc, spsc or socket.
    #[arg(long, value_name = "FROM,TO", required = true)]
    compare: Option<Pair>,
    /// The server to call; it needs a method named echo [default: a process of its own].
    #[arg(long, value_name = "NAME", requires = "compare")]
    server: Option<String>,
    /// Bytes of a request, and of its reply; several with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "SIZE", value_parser = arguments::bytes,
          default_value = "64,1KiB,64KiB")]
    size: Vec<usize>,
    #[command(flatten)]
    options: Options,
}

/// Two transports.
#[derive(Debug, Clone, Copy)]
struct Pair {
    from: Carrier,
    to: Carrier,
}

impl Pair {
    fn needs_mpmc(self) -> bool {
        [self.from, self.to]
            .iter()
            .any(|carrier| carrier.name() == "mpmc")
    }
}

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let carriers = text.split_once(',').and_then(|(from, to)| {
            let (from, to) = (Carrier::of_name(from)?, Carrier::of_name(to)?);
            (from.name() != to.name()).then_some(Self { from, to })
        });
        carriers.ok_or_else(|| "two of mpmc, spsc and socket, as in mpmc,spsc".to_owned())
    }
}

/// A way to carry calls.
#[derive(Debug, Clone, Copy)]
struct Carrier(TransportPolicy);

impl Carrier {
    fn of_name(name: &str) -> Option<Self> {
        let known = ["mpmc", "spsc", "socket"].contains(&name);
        Some(Self(name.parse().ok().filter(|_| known)?))
    }

    fn name(self) -> &'static str {
        match self.0 {
            TransportPolicy::MpmcOnly => "mpmc",
            TransportPolicy::SocketOnly => "socket",
            _ => "spsc",
        }
    }

    fn spins(self) -> bool {
        self.0 != TransportPolicy::SocketOnly
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    calls: Report,
    verdicts: Vec<Verdict>,
    /// All of them together.
    verdict: Verdict,
}

impl Compare {
    /// The server that it was told to use.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, a connection is carried by something else, or a call
    /// fails.
    pub fn run(&self) -> Result<()> {
        end_with_children()?;
        let pair = self.compare.context("nothing to compare")?;
        let outcome = self.measure(pair)?;
        if self.options.json {
            return print_json(&outcome);
        }
        let verdicts = verdict_lines(&outcome.verdicts);
        let Verdict { goal, found, met } = &outcome.verdict;
        let word = if *met { "yes" } else { "NO" };
        let text = outcome.calls.text()?;
        print_text(&format!(
            "{text}\n{verdicts}\nverdict: {goal}? {word}: {found}\n"
        ))
    }

    fn measure(&self, pair: Pair) -> Result<Outcome> {
        let rounds = self.options.thoroughness.rounds;
        let budget = self.options.thoroughness.budget(USUAL);
        let (here, there) = self.options.cpus()?;
        ensure!(
            cfg!(feature = "mpmc_transport") || !pair.needs_mpmc(),
            "this command was built without the feature mpmc_transport"
        );
        let Pair { from, to } = pair;
        let mut report = Report::new(&format!("Calls by {} and by {}", from.name(), to.name()));
        let server = match &self.server {
            Some(name) => Server::Named(name.clone()),
            None => Server::Private(Box::new(start_privately(
                &Settings {
                    transport: if pair.needs_mpmc() {
                        Transports::PreferMpmc
                    } else {
                        Transports::Any
                    },
                    max_message: 1 << 30,
                    ..Settings::default()
                },
                there,
            )?)),
        };
        for carrier in [from, to] {
            // First of all: that it can be called.
            let info = server.connect(carrier)?.info();
            report.settings.push(format!(
                "{}: rings of {} and {}.",
                carrier.name(),
                human_size(info.ring_out),
                human_size(info.ring_in)
            ));
        }
        let placement = here.map_or_else(Placement::current, Placement::pin);
        report.settings.push(format!(
            "Medians of {rounds} alternating runs of {:.3} s each; one server for both: {}. The \
             client: {placement}.",
            budget.run.as_secs_f64(),
            server.placement(),
        ));
        let mut probe = Probe::start(there)?;
        let titles = ["One call after the other", "Calls that fit into a second"];
        for (title, kinds) in titles.into_iter().zip([&KINDS[..2], &KINDS[2..]]) {
            eprintln!("measuring: {title} …");
            let mut contest = Vec::new();
            for &size in &self.size {
                for kind in kinds {
                    for carrier in [from, to] {
                        let run = kind.run(&server, carrier, size, budget)?;
                        let name = kind.series(size, carrier);
                        contest.push(contender(&name, carrier.spins(), run));
                    }
                }
            }
            let series = alternate(rounds, contest, &mut probe)?;
            for &size in &self.size {
                let of_kind = |kind: &Kind| kind.ratio(&series, size, pair);
                report.ratios.extend(kinds.iter().filter_map(of_kind));
            }
            report.sections.push(Section {
                title: title.into(),
                series,
            });
        }
        server.finish()?;
        let verdicts: Vec<Verdict> = report.ratios.iter().map(verdict).collect();
        Ok(Outcome {
            verdict: overall(&report.ratios, pair),
            verdicts,
            calls: report,
        })
    }
}

/// A way to call.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Blocking,
    Async,
    Pipeline,
    Several,
}

/// Those of which one call follows the other first.
const KINDS: [Kind; 4] = [Kind::Blocking, Kind::Async, Kind::Pipeline, Kind::Several];

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Blocking => "blocking call".into(),
            Self::Async => "async call".into(),
            Self::Pipeline => format!("{WINDOW} in flight"),
            Self::Several => format!("{CONNECTIONS} connections"),
        }
    }

    fn series(self, size: usize, carrier: Carrier) -> String {
        format!("{}: {}, {}", human_size(size), self.name(), carrier.name())
    }

    fn run(
        self,
        server: &Server,
        carrier: Carrier,
        size: usize,
        budget: Budget,
    ) -> Result<Box<dyn FnMut() -> Result<Measured>>> {
        Ok(match self {
            Self::Blocking => Box::new(blocking(server.connect(carrier)?, size, budget)?),
            Self::Async => {
                let (runtime, client) = server.connect_async(carrier)?;
                Box::new(asynchronous(runtime, client, size, budget)?)
            }
            Self::Pipeline => {
                let client = server.connect(carrier)?;
                Box::new(pipelined(client, size, WINDOW, budget)?)
            }
            Self::Several => {
                let clients = (0..CONNECTIONS).map(|_| server.connect(carrier));
                let clients = clients.collect::<Result<Vec<_>>>()?;
                Box::new(several(clients, size, budget)?)
            }
        })
    }

    /// How many times as fast the second is.
    fn ratio(&self, series: &[Series], size: usize, pair: Pair) -> Option<Ratio> {
        let [from, to] = [pair.from, pair.to].map(|carrier| self.series(size, carrier));
        let of = |above, below| ratio(series, above, below);
        let mut ratio = match series.first()?.unit {
            Unit::Nanoseconds => of(&from, &to),
            _ => of(&to, &from),
        }?;
        ratio.name = format!(
            "{}: {}, {} as fast as {}",
            human_size(size),
            self.name(),
            pair.to.name(),
            pair.from.name()
        );
        Some(ratio)
    }
}

/// Calls over several connections from one thread, each with its part of the window in flight.
fn several(
    mut clients: Vec<BlockingClient>,
    size: usize,
    budget: Budget,
) -> Result<impl FnMut() -> Result<Measured>> {
    let echo = clients.first().context("no clients")?.method("echo")?;
    Ok(move || {
        let window = WINDOW / CONNECTIONS;
        let lines = clients
            .iter_mut()
            .map(|client| Pipelined::new(client, echo, window, size));
        let lines: RefCell<Vec<_>> = RefCell::new(lines.collect());
        let measured = throughput(
            budget,
            size,
            |count| {
                let mut left = count;
                let mut lines = lines.borrow_mut();
                while left > 0 {
                    for line in lines.iter_mut() {
                        let now = left.min(IN_TURN);
                        line.calls(now)?;
                        line.flush();
                        left -= now;
                    }
                }
                Ok(())
            },
            |_| {
                let mut lines = lines.borrow_mut();
                lines.iter_mut().try_for_each(|line| line.take_down_to(0))
            },
        )?;
        Ok(Measured::Throughput(measured))
    })
}

fn verdict(ratio: &Ratio) -> Verdict {
    let (found, met) = match &ratio.figures {
        Some(figures) => (
            format!(
                "{:.2}x ({:.2}x to {:.2}x)",
                figures.median, figures.min, figures.max
            ),
            figures.median >= AS_FAST,
        ),
        None => ("no runs that can be compared".into(), false),
    };
    Verdict {
        goal: ratio.name.clone(),
        found,
        met,
    }
}

/// Whether to go from one to the other.
fn overall(ratios: &[Ratio], pair: Pair) -> Verdict {
    let (from, to) = (pair.from.name(), pair.to.name());
    let goal = format!("go from {from} to {to}");
    let figures: Vec<f64> = ratios
        .iter()
        .filter_map(|ratio| Some(ratio.figures?.median))
        .collect();
    let slower = figures.iter().filter(|ratio| **ratio < AS_FAST).count();
    let of = figures.len();
    let (found, met) = if of < ratios.len() {
        let text =
            "some figures have no runs that can be compared; measure again on an idle machine";
        (text.to_owned(), false)
    } else if slower > 0 {
        let text = format!("{to} is slower in {slower} of {of} figures");
        (text, false)
    } else {
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(0.0, f64::max);
        let text = format!("{to} is {least:.2}x to {most:.2}x as fast in {of} figures");
        (text, true)
    };
    Verdict { goal, found, met }
}

/// The server that is called.
enum Server {
    Named(String),
    Private(Box<PrivateServer>),
}

impl Server {
    fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Private(server) => server.name(),
        }
    }

    fn placement(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Private(server) => server.process().placement().to_string(),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Named(_) => Ok(()),
            Self::Private(server) => server.finish(),
        }
    }

    fn client(carrier: Carrier) -> ClientBuilder {
        BlockingClient::builder()
            .label("nearwire bench")
            .max_message(1 << 30)
            .transport(carrier.0)
    }

    fn connect(&self, carrier: Carrier) -> Result<BlockingClient> {
        let client = Self::client(carrier).connect_blocking(self.name())?;
        let found = client.info().transport;
        let wanted = match carrier.0 {
            TransportPolicy::MpmcOnly => Transport::Mpmc,
            TransportPolicy::SocketOnly => Transport::Socket,
            _ => Transport::SharedMemory,
        };
        ensure!(
            found == wanted,
            "{} was asked for, and {found} carries the connection",
            carrier.name()
        );
        client.method("echo")?;
        Ok(client)
    }

    fn connect_async(&self, carrier: Carrier) -> Result<(Runtime, Client)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(Self::client(carrier).connect(self.name()))?;
        client.method("echo")?;
        Ok((runtime, client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::RatioFigures;

    fn ratio(median: f64) -> Ratio {
        Ratio {
            name: "64 B".into(),
            figures: Some(RatioFigures::of([median].into_iter())),
            comparable: 1,
            pairs: 1,
        }
    }

    #[test]
    fn a_pair_is_two_different_transports() {
        let pair: Pair = "mpmc,spsc".parse().unwrap();
        assert_eq!((pair.from.name(), pair.to.name()), ("mpmc", "spsc"));
        for bad in [
            "",
            "mpmc",
            "mpmc,",
            "spsc,spsc",
            "any,spsc",
            "mpmc,spsc,socket",
        ] {
            assert!(bad.parse::<Pair>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_figure_that_is_slower_is_a_no() {
        let pair: Pair = "mpmc,spsc".parse().unwrap();
        assert!(overall(&[ratio(1.5), ratio(0.96)], pair).met);
        let no = overall(&[ratio(1.5), ratio(0.9)], pair);
        assert!(!no.met && no.found.contains("1 of 2"), "{no:?}");
        let none = Ratio {
            figures: None,
            ..ratio(1.0)
        };
        assert!(!overall(&[ratio(1.5), none.clone()], pair).met);
        assert!(!verdict(&none).met && verdict(&ratio(2.0)).met);
    }
}
