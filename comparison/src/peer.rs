//! The contract: what a system does to take part.

use std::any::Any;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use nearwire_cli::comparison::{Budget, Latency, Throughput};
use serde::{Deserialize, Serialize};

/// A system that carries calls: one way to use it, as well as it can be.
pub trait Peer: 'static {
    /// The connections of one client process.
    type Clients: Clients;

    /// What people should know.
    const ABOUT: About;

    /// Serves in this process, until what is returned is dropped. Every request is answered with
    /// the bytes that it consists of.
    ///
    /// # Errors
    /// If it cannot serve.
    fn serve(setup: &Setup) -> Result<Box<dyn Any>>;

    /// Opens this process's connections.
    ///
    /// # Errors
    /// If the server cannot be reached.
    fn connect(setup: &Setup) -> Result<Self::Clients>;
}

/// What people should know of a peer.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Chooses it on the command line.
    pub name: &'static str,
    /// Names it in tables.
    pub title: &'static str,
    /// Whether both sides of a waiting connection spin, so that a run depends on where the cores lie.
    pub spins: bool,
    /// The packages that it is made of, as Cargo.lock names them.
    pub packages: &'static [&'static str],
    /// How it is used, and why that is the best reasonable way.
    pub configuration: &'static str,
    /// What it cannot do, and why.
    pub cannot: &'static [(Ability, &'static str)],
}

/// What may be asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ability {
    /// One call after the other.
    RoundTrips,
    /// Many calls in flight on one connection.
    Pipelined,
    /// Many connections.
    Crowd,
    /// Connecting, while others stay connected or not.
    Connect,
}

impl About {
    /// Why the peer cannot do something, if so.
    pub fn why_not(&self, ability: Ability) -> Option<&'static str> {
        let mut reasons = self.cannot.iter();
        reasons.find(|(it, _)| *it == ability).map(|(_, why)| *why)
    }
}

/// What both sides know beforehand. Systems that want their limits declared take them from here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// A directory of this server's own, in memory where there is one.
    pub place: PathBuf,
    /// Connections of all client processes together.
    pub connections: usize,
    /// Client processes.
    pub processes: usize,
    /// The number of this client process.
    pub process: usize,
    /// Connections of this client process, and the number of its first.
    pub own: usize,
    pub first: usize,
    /// The longest message, in bytes.
    pub longest: usize,
    /// The most calls in flight on a connection.
    pub window: usize,
}

/// The connections of one client process. Every reply is checked: its length, and the number of its
/// call at either end.
pub trait Clients {
    /// Makes one call on each connection, so that all of it is there and in use.
    fn greet(&mut self) -> Result<()>;

    /// One call after the other on the first connection.
    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency>;

    /// Up to `window` calls in flight on the first connection.
    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput>;

    /// One call in flight on each connection.
    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally>;

    /// Processes that work for the peer and are neither its server's nor its clients'.
    fn helpers(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// When a crowd calls, on the clock that all processes share.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct CrowdTime {
    /// The first call.
    pub start: Duration,
    /// From here on calls count.
    pub count_from: Duration,
    /// The end.
    pub end: Duration,
}

/// Calls that counted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub calls: u64,
    /// The time that they took.
    pub seconds: f64,
}
