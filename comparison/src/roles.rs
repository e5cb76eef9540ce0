//! The processes of a peer: what the server and the clients are told, and what they tell.

use std::time::Duration;

use anyhow::{Context, Result};
use nearwire_cli::comparison::{
    Budget, CoreShare, Latency, Parent, Role, Throughput, latency, raise_descriptor_limit,
};
use serde::{Deserialize, Serialize};

use crate::peer::{Clients, CrowdTime, Peer, Setup, Tally};
use crate::peers;

/// The role of a peer's server.
pub const SERVER: &str = "comparison-server";

/// The role of a peer's client process.
pub const CLIENT: &str = "comparison-client";

/// What each role does.
pub fn role(name: &str) -> Option<Role> {
    match name {
        SERVER => Some(be_server),
        CLIENT => Some(be_client),
        _ => None,
    }
}

/// What a process is told first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub peer: String,
    pub setup: Setup,
}

/// What a client process is told to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Order {
    /// Open all connections and make a call on each. The answer: [`Opened`].
    Open,
    /// One call after the other. The answer: `()` when it is warm; then, when it is told
    /// [`Order::Go`], [`Single`].
    RoundTrips { size: usize, budget: Budget },
    /// Several in flight. The answers: as above.
    Pipelined {
        size: usize,
        window: usize,
        budget: Budget,
    },
    /// Begin.
    Go,
    /// All connections at once. The answer: [`Tally`].
    Crowd { size: usize, time: CrowdTime },
    /// Connect, call once and leave, again and again. The answer: [`Latency`].
    Connects { budget: Budget },
}

/// All connections are there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Further processes of the peer.
    pub helpers: Vec<u32>,
}

/// What one run on one connection gave.
#[derive(Debug, Serialize, Deserialize)]
pub enum Timed {
    Latency(Latency),
    Throughput(Throughput),
}

/// The same, and whether it can be believed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Single {
    pub timed: Timed,
    /// The calling thread waited for a core for much of the time.
    pub waited_for_core: bool,
}

/// An error, on its way to another process.
pub type Told<T> = std::result::Result<T, String>;

fn told<T>(outcome: Result<T>) -> Told<T> {
    outcome.map_err(|error| format!("{error:#}"))
}

fn be_server(parent: Parent) -> Result<()> {
    raise_descriptor_limit();
    let Part { peer, setup } = parent.channel().receive()?;
    let entry = peers::find(&peer).context("there is no such peer")?;
    let served = (entry.serve)(&setup);
    let (serving, outcome) = match served {
        Ok(serving) => (Some(serving), Ok(())),
        Err(error) => (None, Err(error)),
    };
    parent.channel().send(&told(outcome))?;
    // Nothing else is ever said.
    while parent.channel().next::<()>()?.is_some() {}
    drop(serving);
    Ok(())
}

fn be_client(parent: Parent) -> Result<()> {
    raise_descriptor_limit();
    let Part { peer, setup } = parent.channel().receive()?;
    let entry = peers::find(&peer).context("there is no such peer")?;
    (entry.call)(&parent, &setup)
}

/// A client process of a peer.
///
/// # Errors
/// If the parent is gone. Errors of the peer are told to it.
pub fn call<P: Peer>(parent: &Parent, setup: &Setup) -> Result<()> {
    let channel = parent.channel();
    let mut clients: Option<P::Clients> = None;
    while let Some((order, _)) = channel.next::<Order>()? {
        match order {
            Order::Open => channel.send(&told(open::<P>(setup).map(|opened| {
                let helpers = opened.helpers();
                clients = Some(opened);
                Opened { helpers }
            })))?,
            Order::RoundTrips { size, budget } => {
                let run = |clients: &mut P::Clients, budget| {
                    clients.round_trips(size, budget).map(Timed::Latency)
                };
                single(parent, &mut clients, budget, run)?;
            }
            Order::Pipelined {
                size,
                window,
                budget,
            } => {
                let run = |clients: &mut P::Clients, budget| {
                    let measured = clients.pipelined(size, window, budget);
                    measured.map(Timed::Throughput)
                };
                single(parent, &mut clients, budget, run)?;
            }
            Order::Crowd { size, time } => {
                let tally: Result<Tally> =
                    opened(&mut clients).and_then(|clients| clients.crowd(size, &time));
                channel.send(&told(tally))?;
            }
            Order::Connects { budget } => {
                let measured = latency(budget, || open::<P>(setup).map(drop));
                channel.send(&told(measured))?;
            }
            Order::Go => {}
        }
    }
    Ok(())
}

fn open<P: Peer>(setup: &Setup) -> Result<P::Clients> {
    let mut clients = P::connect(setup)?;
    clients.greet()?;
    Ok(clients)
}

fn opened<C>(clients: &mut Option<C>) -> Result<&mut C> {
    clients.as_mut().context("nothing is connected")
}

/// Warms up, waits for the word, runs.
fn single<C>(
    parent: &Parent,
    clients: &mut Option<C>,
    budget: Budget,
    run: impl Fn(&mut C, Budget) -> Result<Timed>,
) -> Result<()> {
    let warm_up = Budget {
        warm_up: Duration::ZERO,
        run: budget.warm_up,
    };
    let warm = opened(clients).and_then(|clients| run(clients, warm_up));
    let failed = warm.is_err();
    parent.channel().send(&told(warm.map(drop)))?;
    if failed {
        return Ok(());
    }
    let Order::Go = parent.channel().receive()? else {
        return Ok(());
    };
    let share = CoreShare::start();
    let rest = Budget {
        warm_up: Duration::ZERO,
        ..budget
    };
    let timed = opened(clients).and_then(|clients| run(clients, rest));
    let outcome = timed.map(|timed| Single {
        timed,
        waited_for_core: share.was_small(),
    });
    parent.channel().send(&told(outcome))
}
