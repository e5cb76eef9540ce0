//! `nearwire serve`: a server with the built-in services, and the settings of any server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use nearwire::{Exporter, HugePages, Limits, Memory, Pin, RateLimit, Server, ServerBuilder, Spin};
use serde::{Deserialize, Serialize};

use crate::arguments::{self, Transports};
use crate::private::{self, PrivateServer};
use crate::process::{Parent, raise_descriptor_limit};
use crate::{scrape, services};

/// The role of a server process that serves one command, see [`start_privately`].
pub const PRIVATE_SERVER_ROLE: &str = "server";

/// Serve the built-in services under a name, until Ctrl-C or SIGTERM.
///
/// The services: echo; hash (BLAKE3, 32 bytes); sleep (the request is a number of milliseconds);
/// stream (a line for each number up to the request's); fail and panic (what a caller sees then). Calls in flight are finished before the server ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire serve demo
  nearwire serve demo --workers 2 --pin auto
  nearwire serve ./private/demo.sock --max-connections 100 --max-message 1MiB
  nearwire serve demo --max-message-rate 10000:1000 --max-connect-rate 100")]
pub struct Serve {
    /// The server's name, or a path with a '/' for its socket.
    pub name: String,
    /// Serve metrics for Prometheus here, at /metrics; such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    settings: Settings,
}

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// Worker threads, which share the connections [default: one per four CPUs].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// CPUs that the workers are pinned to: none, auto, or a list such as 0,2.
    #[arg(long, value_name = "none|auto|LIST", default_value_t = Pinning::None)]
    pub pin: Pinning,
    /// Microseconds that an idle worker may spin before it sleeps; 0: never [default: 50].
    #[arg(long, value_name = "MICROS")]
    pub spin: Option<u64>,
    /// Connections at a time.
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().max_connections as u32,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// The largest request.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = arguments::bytes)]
    pub max_message: usize,
    /// Messages that are taken from one connection, per second and at once; it waits beyond that
    /// [default: as many as come].
    #[arg(long, value_name = "RATE[:BURST]")]
    #[serde(with = "arguments::rate_limit")]
    pub max_message_rate: Option<RateLimit>,
    /// Connections that one process may open, per second and at once; it waits beyond that
    /// [default: as many as it can].
    #[arg(long, value_name = "RATE[:BURST]")]
    #[serde(with = "arguments::rate_limit")]
    pub max_connect_rate: Option<RateLimit>,
    /// Pages that the server's rings are made of, if the system has them.
    #[arg(long, value_enum, default_value_t = Pages::Never)]
    pub huge_pages: Pages,
    /// Touch all pages of a ring when a client connects, so that no page fault comes later.
    #[arg(long)]
    pub pre_touch: bool,
    /// What may carry the connections.
    #[arg(long, value_enum, default_value_t = Transports::Any)]
    pub transport: Transports,
    /// The largest ring that a client gets, per direction.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = arguments::bytes)]
    pub ring_max: usize,
    /// Time one call in so many for the histograms of `nearwire stat`; 0: none.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub sampling: u32,
}

impl Default for Settings {
    /// What the command line has as defaults.
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            workers: None,
            pin: Pinning::None,
            spin: None,
            max_connections: limits.max_connections as u32,
            max_message: limits.max_message,
            max_message_rate: None,
            max_connect_rate: None,
            huge_pages: Pages::Never,
            pre_touch: false,
            transport: Transports::Any,
            ring_max: limits.max_ring,
            sampling: 1000,
        }
    }
}

/// Which CPUs workers are pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pinning {
    /// None.
    None,
    /// One after the other.
    Auto,
    /// These.
    Cpus(Vec<usize>),
}

impl FromStr for Pinning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            list => list
                .split(',')
                .map(|cpu| cpu.trim().parse().ok())
                .collect::<Option<_>>()
                .map(Self::Cpus)
                .ok_or_else(|| "none, auto, or CPU numbers with commas in between".to_owned()),
        }
    }
}

impl fmt::Display for Pinning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Auto => formatter.write_str("auto"),
            Self::Cpus(cpus) => {
                let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
                formatter.write_str(&cpus.join(","))
            }
        }
    }
}

/// Which pages to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Pages {
    /// Ordinary ones.
    Never,
    /// Transparent huge pages (Linux: `shmem_enabled` must be `advise` or `always`).
    Transparent,
    /// Huge pages from the reserved pool (Linux: `nr_hugepages`).
    Reserved,
}

/// What a number of microseconds means for spinning; without one, the library's default.
pub fn spin(micros: Option<u64>) -> Spin {
    match micros {
        None => Spin::default(),
        Some(0) => Spin::NEVER,
        Some(micros) => Spin {
            budget: Duration::from_micros(micros),
            adaptive: true,
        },
    }
}

impl Settings {
    /// A server of these settings, without methods.
    pub fn builder(&self) -> ServerBuilder {
        let limits = Limits {
            max_connections: self.max_connections as usize,
            max_message: self.max_message,
            max_ring: self.ring_max,
            max_message_rate: self.max_message_rate,
            max_connect_rate: self.max_connect_rate,
            ..Limits::default()
        };
        let mut builder = Server::builder()
            .limits(limits)
            .memory(Memory {
                huge_pages: match self.huge_pages {
                    Pages::Never => HugePages::Never,
                    Pages::Transparent => HugePages::Transparent,
                    Pages::Reserved => HugePages::Reserved,
                },
                pre_touch: self.pre_touch,
            })
            .transport(self.transport.into())
            .spin(spin(self.spin))
            .sampling(self.sampling)
            .pin(match &self.pin {
                Pinning::None => Pin::None,
                Pinning::Auto => Pin::Auto,
                Pinning::Cpus(cpus) => Pin::List(cpus.clone()),
            });
        if let Some(workers) = self.workers {
            builder = builder.workers(workers.into());
        }
        builder
    }
}

impl Serve {
    /// Serves until a signal comes.
    ///
    /// # Errors
    /// If the name cannot be had, or the system refuses what a server needs.
    pub fn run(&self) -> Result<()> {
        raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            // Before the name is taken, so that a signal never leaves it behind.
            let mut interrupts = Interrupts::new()?;
            let mut stop = async || interrupts.next().await;
            let scrapes = match self.metrics {
                Some(address) => Some(scrape::listen(address).await?),
                None => None,
            };
            let server = services::add_all(self.settings.builder()).bind(&self.name)?;
            if let Some(scrapes) = scrapes {
                eprintln!("metrics at http://{}/metrics", scrapes.local_addr()?);
                tokio::spawn(scrape::serve(scrapes, Exporter::new(&server)?));
            }
            eprintln!("serving {} at {}", self.name, server.path().display());
            stop().await;
            eprintln!("finishing the calls in flight; once more to end at once");
            tokio::select! {
                ended = server.serve_until(std::future::ready(())) => Ok(ended?),
                // The name is free already, and all else goes with the process.
                () = stop() => std::process::exit(1),
            }
        })
    }
}

/// What is to end a server: Ctrl-C and SIGTERM; on Windows Ctrl-C, Ctrl-Break, and that the console is
/// closed.
struct Interrupts {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
    #[cfg(windows)]
    keys: (
        tokio::signal::windows::CtrlC,
        tokio::signal::windows::CtrlBreak,
    ),
    #[cfg(windows)]
    close: tokio::signal::windows::CtrlClose,
}

impl Interrupts {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            signals: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ],
        })
    }

    #[cfg(windows)]
    fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};
        Ok(Self {
            keys: (ctrl_c()?, ctrl_break()?),
            close: ctrl_close()?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        let [interrupt, terminate] = &mut self.signals;
        #[cfg(unix)]
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(windows)]
        tokio::select! {
            _ = self.keys.0.recv() => {}
            _ = self.keys.1.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}

/// Starts a server process with the services `echo` and `hash`, on one CPU if `cpu` says so.
///
/// # Errors
/// If it cannot be started, or cannot serve.
pub fn start_privately(settings: &Settings, cpu: Option<usize>) -> Result<PrivateServer> {
    PrivateServer::start(PRIVATE_SERVER_ROLE, settings, cpu)
}

/// The role of the server's process.
///
/// # Errors
/// If it cannot serve.
pub fn serve_privately(parent: Parent) -> Result<()> {
    let bind = |settings: Settings, path: &str| {
        Ok(services::add_immediate(settings.builder()).bind(path)?)
    };
    private::serve(&parent, bind, |server| server.shutdown(private::GRACE))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(Line::parse_from(["serve"]).settings, Settings::default());
    }

    #[test]
    fn rates_reach_the_process_that_serves() {
        let line = [
            "serve",
            "--max-message-rate",
            "50:2",
            "--max-connect-rate",
            "7",
        ];
        let settings = Line::parse_from(line).settings;
        let messages = RateLimit {
            per_second: 50,
            burst: 2,
        };
        assert_eq!(settings.max_message_rate, Some(messages));
        assert_eq!(settings.max_connect_rate, Some(RateLimit::per_second(7)));
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert!(Line::try_parse_from(["serve", "--max-message-rate", "0"]).is_err());
    }

    #[test]
    fn pinnings_are_read_as_they_are_written() {
        for pinning in [
            Pinning::None,
            Pinning::Auto,
            Pinning::Cpus(vec![0]),
            Pinning::Cpus(vec![2, 0]),
        ] {
            assert_eq!(pinning.to_string().parse(), Ok(pinning));
        }
        for bad in ["", "x", "0,", "-1", "1-2"] {
            assert!(bad.parse::<Pinning>().is_err(), "{bad:?}");
        }
    }
}
