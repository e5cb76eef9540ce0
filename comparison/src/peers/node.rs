//! Node's own IPC, between Node processes: `child_process.fork`.

use std::any::Any;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nearwire_cli::comparison::{Budget, Latency, Throughput};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::drive::GREETING;
use crate::peer::{Ability, About, Clients, CrowdTime, Peer, Setup, Tally};

/// Both of its processes.
const SCRIPT: &str = include_str!("node.js");

/// Node.
pub struct Node;

impl Peer for Node {
    type Clients = NodeClient;
    const ABOUT: About = About {
        name: "node",
        title: "Node's IPC",
        spins: false,
        packages: &[],
        configuration: "`child_process.fork` with `serialization: 'advanced'`, which takes a Buffer as \
            bytes; the server is the forked process, the client the one that has forked it, and times \
            are taken there, in JavaScript. Connecting is starting the process.",
        cannot: &[(
            Ability::Crowd,
            "a client has its server to itself: each connection is one more Node process",
        )],
    };

    fn serve(_: &Setup) -> Result<Box<dyn Any>> {
        // The client forks its server.
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let script = setup.place.join("node.js");
        if !script.exists() {
            std::fs::write(&script, SCRIPT)?;
        }
        let mut process = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node is not here")?;
        let orders = process.stdin.take().context("no standard input")?;
        let outcomes = process.stdout.take().context("no standard output")?;
        Ok(NodeClient {
            orders: Some(orders),
            outcomes: BufReader::new(outcomes),
            process,
            processes: Vec::new(),
        })
    }
}

/// Node's version, if it is here.
pub fn version() -> Option<String> {
    let output = Command::new("node").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(version.trim().trim_start_matches('v').to_owned())
}

/// The Node process that calls.
pub struct NodeClient {
    orders: Option<ChildStdin>,
    outcomes: BufReader<ChildStdout>,
    process: Child,
    /// The ids of both Node processes.
    processes: Vec<u32>,
}

impl NodeClient {
    fn order<T: DeserializeOwned>(&mut self, order: &Value) -> Result<T> {
        let orders = self.orders.as_mut().context("it has been told to end")?;
        writeln!(orders, "{order}")?;
        let mut line = String::new();
        ensure!(self.outcomes.read_line(&mut line)? > 0, "node has ended");
        let outcome: Result<T, String> = serde_json::from_str(&line)?;
        outcome.map_err(|error| anyhow!("node: {error}"))
    }
}

impl Clients for NodeClient {
    fn greet(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct Greeted {
            processes: Vec<u32>,
        }
        let greeted: Greeted = self.order(&json!({ "kind": "greet", "size": GREETING }))?;
        self.processes = greeted.processes;
        Ok(())
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        self.order(&json!({
            "kind": "round_trips",
            "size": size,
            "warm_up_ns": budget.warm_up.as_nanos() as u64,
            "run_ns": budget.run.as_nanos() as u64,
        }))
    }

    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        self.order(&json!({
            "kind": "pipelined",
            "size": size,
            "window": window,
            "warm_up_ns": budget.warm_up.as_nanos() as u64,
            "run_ns": budget.run.as_nanos() as u64,
        }))
    }

    fn crowd(&mut self, _: usize, _: &CrowdTime) -> Result<Tally> {
        bail!("a client has its server to itself")
    }

    fn helpers(&self) -> Vec<u32> {
        self.processes.clone()
    }
}

impl Drop for NodeClient {
    fn drop(&mut self) {
        // It ends when it is told nothing more, and takes its server with it.
        self.orders = None;
        let _ = self.process.wait();
    }
}
