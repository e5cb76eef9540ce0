//! `nearwire inspect`: a server's connections, one by one.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use nearwire::Observer;
use nearwire::metrics::{ConnectionSnapshot, RingSnapshot};
use serde::Serialize;

use crate::arguments::human_size;
use crate::output::{print_json, print_text};
use crate::rates::{ConnectionState, Interval, human_span};
use crate::stat::headline;

/// How far apart the two looks are that tell whether a worker stands still.
const INTERVAL: Duration = Duration::from_millis(50);

/// Print each connection of a server: its rings' positions and flags, its sizes, the features agreed
/// on.
///
/// The words are those that the server has last written into its counters page, which is some tens
/// of milliseconds ago: when the connection was parked, or every 100 ms while it is active.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire inspect demo                   # all connections
  nearwire inspect demo --connection 7    # one of them
  nearwire inspect demo --json | jq '.connections[] | select(.state == \"stuck\")'")]
pub struct Inspect {
    /// The server's name, or the path of its socket.
    pub name: String,
    /// Only the connection with this number.
    #[arg(long, value_name = "NUMBER")]
    connection: Option<u64>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    server: String,
    pid: u32,
    connections: Vec<Connection>,
}

#[derive(Serialize)]
struct Connection {
    id: u64,
    pid: u32,
    label: String,
    worker: usize,
    state: ConnectionState,
    open_seconds: f64,
    /// How long ago something happened last.
    idle_seconds: f64,
    /// How old what stands here is.
    observed_seconds_ago: f64,
    blocked_seconds: Option<f64>,
    messages_received: u64,
    messages_sent: u64,
    in_flight: u64,
    max_in_flight: u64,
    answers_waiting: u64,
    requests: Ring,
    replies: Ring,
    transport: String,
    features: Vec<String>,
    huge_pages: bool,
}

/// A ring: positions are bytes since the connection began.
#[derive(Serialize)]
struct Ring {
    capacity: u64,
    produced: u64,
    consumed: u64,
    head: u64,
    occupied: u64,
    consumer_parked: bool,
    producer_parked: bool,
}

impl From<RingSnapshot> for Ring {
    fn from(ring: RingSnapshot) -> Self {
        Self {
            capacity: ring.capacity,
            produced: ring.produced,
            consumed: ring.consumed,
            head: ring.head,
            occupied: ring.occupied(),
            consumer_parked: ring.consumer_parked,
            producer_parked: ring.producer_parked,
        }
    }
}

impl Inspect {
    /// Reads and prints.
    ///
    /// # Errors
    /// If the server cannot be looked at, or has no such connection.
    pub fn run(&self) -> Result<()> {
        let observer = Observer::connect(&self.name)?;
        let interval = Interval::watch(&observer, INTERVAL)?;
        let mut connections: Vec<_> = interval
            .now
            .connections
            .iter()
            .filter(|connection| self.connection.is_none_or(|id| id == connection.id))
            .collect();
        connections.sort_by_key(|connection| connection.id);
        if let (Some(id), []) = (self.connection, &connections[..]) {
            bail!("the server has no connection {id}: `nearwire inspect NAME` lists them");
        }
        let connections = connections.iter().map(|c| describe(&interval, c)).collect();
        let report = Report {
            server: interval.now.label.clone(),
            pid: interval.now.pid,
            connections,
        };
        if self.json {
            return print_json(&report);
        }
        let mut text = headline(&interval.now) + "\n";
        for connection in &report.connections {
            text += "\n";
            text += &block(connection);
        }
        print_text(&text)
    }
}

fn describe(interval: &Interval, connection: &ConnectionSnapshot) -> Connection {
    let uptime = interval.now.uptime;
    let ago = |at: Duration| uptime.saturating_sub(at).as_secs_f64();
    Connection {
        id: connection.id,
        pid: connection.pid,
        label: connection.label.clone(),
        worker: connection.worker,
        state: interval.state(connection),
        open_seconds: ago(connection.since),
        idle_seconds: ago(connection.busy),
        observed_seconds_ago: ago(connection.observed),
        blocked_seconds: connection.blocked_since.map(ago),
        messages_received: connection.messages_received,
        messages_sent: connection.messages_sent,
        in_flight: connection.in_flight,
        max_in_flight: connection.max_in_flight,
        answers_waiting: connection.waiting,
        requests: connection.requests.into(),
        replies: connection.replies.into(),
        transport: connection.transport.to_string(),
        features: nearwire::feature_names(connection.features),
        huge_pages: connection.huge_pages,
    }
}

fn block(connection: &Connection) -> String {
    let mut text = String::new();
    let span = |seconds: f64| human_span(Duration::from_secs_f64(seconds.max(0.0)));
    let label = match &*connection.label {
        "" => String::new(),
        label => format!(" {label:?}"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "connection {} · process {}{label} · worker {} · {} · open {} · idle {}",
        connection.id,
        connection.pid,
        connection.worker,
        connection.state.word(),
        span(connection.open_seconds),
        span(connection.idle_seconds),
    );
    let _ = writeln!(
        text,
        "  messages {} in, {} out · in flight {} of {} · answers waiting {}{}",
        connection.messages_received,
        connection.messages_sent,
        connection.in_flight,
        connection.max_in_flight,
        connection.answers_waiting,
        match connection.blocked_seconds {
            Some(seconds) => format!(" for {seconds:.1} s: the client does not take its replies"),
            None => String::new(),
        }
    );
    for (name, ring) in [
        ("requests", &connection.requests),
        ("replies", &connection.replies),
    ] {
        let sleeper = match (ring.consumer_parked, ring.producer_parked) {
            (true, true) => "consumer and producer parked",
            (true, false) => "consumer parked",
            (false, true) => "producer parked",
            (false, false) => "nobody parked",
        };
        let _ = writeln!(
            text,
            "  {name:<8} ring {:>8} · produced {} · consumed {} · head {} · occupied {} · {sleeper}",
            human_size(ring.capacity as usize),
            ring.produced,
            ring.consumed,
            ring.head,
            ring.occupied,
        );
    }
    let features = match connection.features.is_empty() {
        true => "none".to_owned(),
        false => connection.features.join(", "),
    };
    // Over the socket the rings are in the server's own memory.
    let pages = if connection.huge_pages {
        ", huge pages"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "  over {}{pages} · features {features} · as of {:.0} ms ago",
        connection.transport,
        connection.observed_seconds_ago * 1e3
    );
    text
}
