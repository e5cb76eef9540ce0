//! Nearwire, in the ways to use it.

use std::any::Any;
use std::marker::PhantomData;

use anyhow::{Context, Result, ensure};
use nearwire::{
    BlockingClient, Client, ClientBuilder, Limits, Method, Pipeline, Server, Spin, Transport,
    TransportPolicy,
};
use nearwire_cli::comparison::{Budget, Latency, Throughput, latency};

use crate::drive::blocking::{self, Lane};
use crate::drive::tasks::{Caller, Callers};
use crate::message::Requests;
use crate::peer::{Ability, About, Clients, CrowdTime, Peer, Setup, Tally};

/// The packages of all its ways.
const PACKAGES: &[&str] = &["nearwire"];

/// A way to use the blocking client.
pub trait Way: 'static {
    const ABOUT: About;
    const SPIN: Option<Spin>;
    const TRANSPORT: TransportPolicy;
    const LARGE_RINGS: bool = false;
}

/// The defaults.
pub struct Spinning;

impl Way for Spinning {
    const ABOUT: About = About {
        name: "nearwire",
        title: "Nearwire, blocking",
        spins: true,
        packages: PACKAGES,
        configuration: "All defaults: rings of 128 KiB, one worker, either side spins for up to 50 µs \
            (less where that does not pay) before it sleeps. The blocking client; with calls in \
            flight, its pipeline; the reply is copied into a buffer that is used again.",
        cannot: &[],
    };
    const SPIN: Option<Spin> = None;
    const TRANSPORT: TransportPolicy = TransportPolicy::SharedMemoryOnly;
}

/// The defaults, but for rings that hold the longest message twice.
pub struct LargeRings;

impl Way for LargeRings {
    const ABOUT: About = About {
        name: "nearwire-large",
        title: "Nearwire, blocking, large rings",
        spins: true,
        packages: PACKAGES,
        configuration: "The same with rings of twice the longest message (64 KiB at least, 4 MiB at most), \
            for large messages: with small rings a message goes in pieces.",
        cannot: &[
            (Ability::Pipelined, AS_USUAL),
            (Ability::Crowd, AS_USUAL),
            (Ability::Connect, AS_USUAL),
        ],
    };
    const SPIN: Option<Spin> = None;
    const TRANSPORT: TransportPolicy = TransportPolicy::SharedMemoryOnly;
    const LARGE_RINGS: bool = true;
}

/// Why large rings do not race where messages are small.
const AS_USUAL: &str = "with small messages the same as with the defaults";

/// Rings, in bytes.
const SMALLEST_RING: usize = 64 << 10;
const LARGEST_RING: usize = 4 << 20;

/// Never spins.
pub struct Sleeping;

impl Way for Sleeping {
    const ABOUT: About = About {
        name: "nearwire-sleeping",
        title: "Nearwire, never spinning",
        spins: false,
        packages: PACKAGES,
        configuration: "The same with `Spin::NEVER` on either side: who waits sleeps in the kernel at \
            once, as with a socket.",
        cannot: &[],
    };
    const SPIN: Option<Spin> = Some(Spin::NEVER);
    const TRANSPORT: TransportPolicy = TransportPolicy::SharedMemoryOnly;
}

/// Without shared memory.
pub struct Socket;

impl Way for Socket {
    const ABOUT: About = About {
        name: "nearwire-socket",
        title: "Nearwire over its socket",
        spins: false,
        packages: PACKAGES,
        configuration: "The same with `TransportPolicy::SocketOnly`: what Nearwire falls back to where \
            memory cannot be shared.",
        cannot: &[],
    };
    const SPIN: Option<Spin> = None;
    const TRANSPORT: TransportPolicy = TransportPolicy::SocketOnly;
}

/// The blocking client.
pub struct Blocking<W>(PhantomData<W>);

impl<W: Way> Peer for Blocking<W> {
    type Clients = BlockingClients;
    const ABOUT: About = W::ABOUT;

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup, W::SPIN)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let mut builder = ClientBuilder::new().transport(W::TRANSPORT);
        if let Some(spin) = W::SPIN {
            builder = builder.spin(spin);
        }
        if W::LARGE_RINGS {
            let ring = (2 * setup.longest).next_power_of_two();
            builder = builder.ring(ring.clamp(SMALLEST_RING, LARGEST_RING));
        }
        let clients: Vec<BlockingClient> = (0..setup.own)
            .map(|_| builder.connect_blocking(&name(setup)?).map_err(Into::into))
            .collect::<Result<_>>()?;
        let first = clients.first().context("no connection was asked for")?;
        let wanted = match W::TRANSPORT {
            TransportPolicy::SocketOnly => Transport::Socket,
            _ => Transport::SharedMemory,
        };
        let transport = first.info().transport;
        ensure!(transport == wanted, "calls go over {transport}");
        Ok(BlockingClients {
            echo: first.method("echo")?,
            clients,
        })
    }
}

/// The async client.
pub struct Async;

impl Peer for Async {
    type Clients = Callers<AsyncClient>;
    const ABOUT: About = About {
        name: "nearwire-async",
        title: "Nearwire, async",
        spins: true,
        packages: PACKAGES,
        configuration: "The async client with all defaults, on a Tokio runtime of one thread; with \
            calls in flight, a task for each.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup, None)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let name = name(setup)?;
        let builder = ClientBuilder::new().transport(TransportPolicy::SharedMemoryOnly);
        Callers::open(setup.own, || async {
            let client = builder.connect(&name).await?;
            Ok(AsyncClient {
                echo: client.method("echo")?,
                client,
            })
        })
    }
}

fn name(setup: &Setup) -> Result<String> {
    let path = setup.place.join("nearwire.sock");
    Ok(path.to_str().context("a path that is UTF-8")?.to_owned())
}

fn serve(setup: &Setup, spin: Option<Spin>) -> Result<Box<dyn Any>> {
    let mut builder = Server::builder()
        .method_into("echo", |_, request, reply| {
            reply.extend_from_slice(request);
            Ok(())
        })
        .limits(Limits {
            max_connections: setup.connections.max(Limits::default().max_connections),
            ..Limits::default()
        });
    if let Some(spin) = spin {
        builder = builder.spin(spin);
    }
    Ok(Box::new(builder.bind(&name(setup)?)?))
}

/// Blocking clients of one server, for one thread.
pub struct BlockingClients {
    echo: Method,
    clients: Vec<BlockingClient>,
}

/// The calls in flight of one of them.
struct Calls<'a> {
    pipeline: Pipeline<'a>,
    echo: Method,
}

impl Lane for Calls<'_> {
    #[inline]
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        self.pipeline.submit(self.echo, request)?;
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.pipeline.flush();
        Ok(())
    }

    #[inline]
    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let checked = self.pipeline.next(|_, reply| check(reply?))?;
        checked.context("a reply is missing")?
    }
}

impl BlockingClients {
    fn lanes(&mut self) -> Vec<Calls<'_>> {
        let echo = self.echo;
        let calls = |client| Calls {
            pipeline: BlockingClient::pipeline(client),
            echo,
        };
        self.clients.iter_mut().map(calls).collect()
    }
}

impl Clients for BlockingClients {
    fn greet(&mut self) -> Result<()> {
        self.lanes().iter_mut().try_for_each(blocking::greet)
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        let client = &mut self.clients[0];
        let mut requests = Requests::new(size, 0);
        let mut expected = requests.expected();
        let mut reply = Vec::new();
        latency(budget, || {
            client.call_into(self.echo, requests.next(), &mut reply)?;
            expected.check(&reply)
        })
    }

    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        blocking::pipelined(&mut self.lanes()[0], size, window, budget)
    }

    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally> {
        blocking::crowd(&mut self.lanes(), size, time)
    }
}

/// An async client of one server.
#[derive(Clone)]
pub struct AsyncClient {
    client: Client,
    echo: Method,
}

impl Caller for AsyncClient {
    type Reply = Vec<u8>;

    async fn call(&self, request: &[u8]) -> Result<Vec<u8>> {
        Ok(self.client.call_method(self.echo, request).await?)
    }
}
