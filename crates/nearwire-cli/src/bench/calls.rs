//! What the benchmarks of calls have in common: options, servers, ways to call.

use anyhow::{Result, ensure};
use nearwire::{BlockingClient, Client, ClientBuilder, ConnectionInfo, TransportPolicy};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::arguments;
use crate::measure::{Contender, Measured, Options, Ratio, Series};
use crate::private::PrivateServer;
use crate::serve::{Settings, spin, start_privately};

/// Options of the benchmarks of calls.
#[derive(Debug, clap::Args)]
pub struct CallOptions {
    /// The server to call; it needs a method named echo [default: a process of its own].
    pub name: Option<String>,
    #[command(flatten)]
    pub options: Options,
    /// What to call over.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Over::Nearwire, Over::Unix])]
    transport: Vec<Over>,
    /// Bytes of a request, and of its reply; several with commas in between.
    #[arg(long, value_delimiter = ',', value_name = "SIZE", value_parser = arguments::bytes,
          default_value = "64,1KiB,64KiB")]
    pub size: Vec<usize>,
    /// Which client calls over Nearwire.
    #[arg(long, value_enum, default_value_t = Clients::Both)]
    client: Clients,
    /// Microseconds that either side may spin before it sleeps; 0: never [default: 50].
    #[arg(long, value_name = "MICROS")]
    spin: Option<u64>,
    /// Wish for rings of this size per direction, a power of two [default: 128 KiB].
    #[arg(long, value_name = "SIZE", value_parser = arguments::bytes)]
    ring: Option<usize>,
}

/// What to call over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Transport {
    /// Shared memory.
    Nearwire,
    /// A plain Unix stream socket; on Windows a plain named pipe.
    Unix,
    /// The floor: bare slots in shared memory, which one thread sweeps, and a futex for each caller that
    /// sleeps. For --shape threads and processes.
    #[cfg(target_os = "linux")]
    Floor,
}

/// What calls go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Nearwire, by shared memory.
    Nearwire,
    /// Nearwire, by its socket.
    Socket,
    /// A plain Unix stream socket; on Windows a plain named pipe.
    Unix,
}

/// A way in which Nearwire carries calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    over: Over,
    policy: TransportPolicy,
    /// What its contenders' names end with.
    pub suffix: &'static str,
}

/// All of them.
pub const WAYS: [Way; 2] = [
    Way {
        over: Over::Nearwire,
        policy: TransportPolicy::SharedMemoryOnly,
        suffix: "",
    },
    Way {
        over: Over::Socket,
        policy: TransportPolicy::SocketOnly,
        suffix: " over its socket",
    },
];

/// Which client calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Clients {
    /// The one for threads.
    Blocking,
    /// The one for tasks.
    Async,
    /// Either.
    Both,
}

impl CallOptions {
    /// Whether the blocking client calls over Nearwire.
    pub fn blocking(&self) -> bool {
        self.client != Clients::Async
    }

    /// Whether the async client calls over Nearwire.
    pub fn asynchronous(&self) -> bool {
        self.client != Clients::Blocking
    }

    /// The ways in which Nearwire is to carry calls.
    pub fn ways(&self) -> Vec<Way> {
        let wanted = |way: &Way| self.transport.contains(&way.over);
        WAYS.into_iter().filter(wanted).collect()
    }

    /// Whether to call over a plain socket.
    pub fn plain_socket(&self) -> bool {
        self.transport.contains(&Over::Unix)
    }

    /// Whether waiting sides of Nearwire spin. Over the socket they never do.
    pub fn spins(&self, way: Way) -> bool {
        self.spin != Some(0) && way.over == Over::Nearwire
    }

    /// Settings of a client of these options.
    fn client(&self, way: Way) -> ClientBuilder {
        let builder = BlockingClient::builder()
            .label("nearwire bench")
            .max_message(1 << 30)
            .transport(way.policy)
            .spin(spin(self.spin));
        match self.ring {
            Some(bytes) => builder.ring(bytes),
            None => builder,
        }
    }

    /// Finds the server, or starts one, on one CPU if `cpu` says so.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn server(&self, cpu: Option<usize>) -> Result<Server> {
        match &self.name {
            Some(name) => Ok(Server::Named(name.clone())),
            None => {
                let settings = Settings {
                    spin: self.spin,
                    max_message: 1 << 30,
                    ring_max: 256 << 20,
                    ..Settings::default()
                };
                let server = start_privately(&settings, cpu)?;
                Ok(Server::Private(Box::new(server)))
            }
        }
    }

    /// Connects for calls from this thread.
    ///
    /// # Errors
    /// If there is no such server, or it has no method `echo`.
    pub fn connect_blocking(&self, server: &Server, way: Way) -> Result<BlockingClient> {
        let client = self.client(way).connect_blocking(server.name())?;
        client.method("echo")?;
        Ok(client)
    }

    /// Connects for calls from tasks of a runtime that has this thread only.
    ///
    /// # Errors
    /// As [`connect_blocking`](Self::connect_blocking).
    pub fn connect_async(&self, server: &Server, way: Way) -> Result<(Runtime, Client)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(self.client(way).connect(server.name()))?;
        client.method("echo")?;
        Ok((runtime, client))
    }

    /// What a connection is like, in words.
    ///
    /// # Errors
    /// As [`connect_blocking`](Self::connect_blocking).
    pub fn describe(&self, server: &Server, way: Way) -> Result<String> {
        let info = self.connect_blocking(server, way)?.info();
        let placement = match server {
            Server::Named(name) => format!("{name} (process {})", info.peer.pid),
            Server::Private(private) => private.process().placement().to_string(),
        };
        Ok(format!(
            "The Nearwire server{}: {placement}. {}, {}.",
            way.suffix,
            rings(&info),
            if self.spins(way) {
                self.waiting()
            } else {
                "waiting sides sleep at once".into()
            }
        ))
    }

    fn waiting(&self) -> String {
        match self.spin {
            Some(0) => "waiting sides sleep at once".into(),
            micros => format!(
                "waiting sides spin for {} µs at most",
                spin(micros).budget.as_micros()
            ),
        }
    }
}

fn rings(info: &ConnectionInfo) -> String {
    format!(
        "Rings of {} and {}, {}huge pages",
        arguments::human_size(info.ring_out),
        arguments::human_size(info.ring_in),
        if info.huge_pages { "" } else { "no " },
    )
}

/// The server that is called.
#[derive(Debug)]
pub enum Server {
    /// Somebody else's.
    Named(String),
    /// This command's own.
    Private(Box<PrivateServer>),
}

impl Server {
    /// What clients connect to.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Private(server) => server.name(),
        }
    }

    /// Ends the server if it is this command's own.
    ///
    /// # Errors
    /// If it had failed meanwhile.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Named(_) => Ok(()),
            Self::Private(server) => server.finish(),
        }
    }
}

/// Compares a reply with its request.
///
/// # Errors
/// If they differ.
#[inline]
pub fn check(reply: &[u8], request: &[u8]) -> Result<()> {
    ensure!(reply == request, "an echo differs from what was sent");
    Ok(())
}

/// An operation that is bracketed by the probe if its two sides spin.
pub fn contender<'a>(
    name: &str,
    spins: bool,
    run: impl FnMut() -> Result<Measured> + 'a,
) -> Contender<'a> {
    if spins {
        Contender::spinning(name, run)
    } else {
        Contender::other(name, run)
    }
}

/// The ratio of two series, if both took part.
pub fn ratio(series: &[Series], above: &str, below: &str) -> Option<Ratio> {
    let find = |name| series.iter().find(|series| series.name == name);
    let name = format!("{above} / {}", short(above, below));
    Some(Ratio::of(&name, find(above)?, find(below)?))
}

/// The name without what it has in common with the other up to the colon.
fn short<'a>(other: &str, name: &'a str) -> &'a str {
    match (other.split_once(": "), name.split_once(": ")) {
        (Some((other, _)), Some((common, rest))) if other == common => rest,
        _ => name,
    }
}
