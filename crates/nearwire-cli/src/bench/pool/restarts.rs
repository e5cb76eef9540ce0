//! How soon calls succeed again.

use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Table;
use nearwire::Pool;
use serde::Serialize;
use tokio::runtime::Runtime;

use super::server::{Place, Server};
use crate::bench::calls::check;
use crate::measure::{RatioFigures, Verdict, plain_table, right_align};

/// How long the server stays before it ends again: the pool has nothing left to do by then.
const STAY: Duration = Duration::from_millis(120);

/// The median that is good enough, in milliseconds.
const MOST_MS: f64 = 100.0;

/// How a server ends.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// Killed.
    Kill,
    /// Shut down.
    InOrder,
}

impl End {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "by kill -9",
            Self::InOrder => "in order",
        }
    }
}

/// Times from the moment that the new server serves to the first call that succeeds.
#[derive(Debug, Serialize)]
pub(super) struct Restarts {
    end: End,
    count: u32,
    milliseconds: RatioFigures,
}

impl Restarts {
    pub(super) fn verdict(&self) -> Verdict {
        let median = self.milliseconds.median;
        Verdict {
            goal: format!(
                "calls succeed within {MOST_MS} ms after a restart {} (median of {})",
                self.end.name(),
                self.count
            ),
            found: format!("{median:.1} ms"),
            met: median < MOST_MS,
        }
    }
}

pub(super) fn table(all: &[Restarts]) -> Table {
    let mut table = plain_table(&["the old one ended", "times", "median", "min", "max"]);
    for restarts in all {
        let RatioFigures { median, min, max } = restarts.milliseconds;
        let mut row = vec![restarts.end.name().to_owned(), restarts.count.to_string()];
        row.extend([median, min, max].map(|time| format!("{time:.1} ms")));
        table.add_row(row);
    }
    right_align(&mut table);
    table
}

/// Restarts the server again and again while it is called.
pub(super) fn measure(
    runtime: &Runtime,
    place: &Place,
    cpu: Option<usize>,
    count: u32,
    end: End,
) -> Result<Restarts> {
    let mut server = Server::start(place, cpu)?;
    let pool = runtime.block_on(Pool::connect(place.socket()))?;
    let mut times = Vec::new();
    for number in 0..count {
        let request = u64::from(number).to_le_bytes();
        let reply = runtime.block_on(pool.call_bytes("echo", &request).into_future())?;
        check(&reply, &request)?;
        std::thread::sleep(STAY);
        match end {
            End::Kill => server.kill(),
            End::InOrder => server.finish()?,
        }
        // It calls all the while; the first calls learn of the end.
        let caller = pool.clone();
        let first = runtime.spawn(async move {
            loop {
                if let Ok(reply) = caller.call_bytes("echo", &request).await {
                    return check(&reply, &request).map(|()| Instant::now());
                }
            }
        });
        // Not at the same distance from the last attempt each time.
        std::thread::sleep(Duration::from_millis(17) * (number % 7));
        server = Server::start(place, cpu)?;
        let serves = Instant::now();
        let succeeded = runtime.block_on(first)??;
        let time = succeeded.saturating_duration_since(serves);
        times.push(time.as_secs_f64() * 1e3);
    }
    drop(pool);
    server.finish()?;
    Ok(Restarts {
        end,
        count,
        milliseconds: RatioFigures::of(times.into_iter()),
    })
}
