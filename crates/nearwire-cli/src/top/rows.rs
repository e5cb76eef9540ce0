//! The table of connections: what is in it, and in which order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use nearwire::metrics::{ConnectionSnapshot, State};

use crate::rates::{ConnectionState, Interval};

/// A connection, as the table has it.
#[derive(Debug)]
pub struct Row<'a> {
    pub connection: &'a ConnectionSnapshot,
    pub state: ConnectionState,
    /// Frames from its client, per second.
    pub rate: f64,
    pub idle: Duration,
}

/// By what the table is sorted. Those that are stuck come first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Rate,
    Number,
    InFlight,
    Occupancy,
}

impl Order {
    pub fn next(self) -> Self {
        match self {
            Self::Rate => Self::Number,
            Self::Number => Self::InFlight,
            Self::InFlight => Self::Occupancy,
            Self::Occupancy => Self::Rate,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Rate => "messages",
            Self::Number => "number",
            Self::InFlight => "in flight",
            Self::Occupancy => "ring",
        }
    }
}

/// The rows in their order.
pub fn rows(interval: &Interval, order: Order) -> Vec<Row<'_>> {
    let before: HashMap<u64, u64> = interval
        .earlier
        .connections
        .iter()
        .map(|connection| (connection.id, connection.messages_received))
        .collect();
    let held_up = interval.now.held_up_since(&interval.earlier);
    let uptime = interval.now.uptime;
    let row = |connection| row(connection, &before, &held_up, uptime, interval.seconds());
    let mut rows: Vec<Row<'_>> = interval.now.connections.iter().map(row).collect();
    rows.sort_by_key(|row| {
        let c = row.connection;
        let by = match order {
            Order::Rate => row.rate as u64,
            Order::Number => 0,
            Order::InFlight => c.in_flight,
            Order::Occupancy => c.requests.occupied().max(c.replies.occupied()),
        };
        (row.state != ConnectionState::Stuck, Reverse(by), c.id)
    });
    rows
}

fn row<'a>(
    connection: &'a ConnectionSnapshot,
    before: &HashMap<u64, u64>,
    held_up: &[usize],
    uptime: Duration,
    seconds: f64,
) -> Row<'a> {
    let received = connection.messages_received;
    let before = before.get(&connection.id).copied().unwrap_or(0);
    let state = if connection.is_stuck(uptime) || held_up.contains(&connection.worker) {
        ConnectionState::Stuck
    } else if connection.state == State::Parked {
        ConnectionState::Parked
    } else if connection.state == State::Throttled {
        ConnectionState::Throttled
    } else {
        ConnectionState::Active
    };
    Row {
        connection,
        state,
        rate: received.saturating_sub(before) as f64 / seconds,
        idle: uptime.saturating_sub(connection.busy),
    }
}
