//! The proof: a call from one process to another.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nearwire::BlockingClient;

use super::Finding;
use crate::serve::{Settings, start_privately};

/// Calls to warm up, then calls of which the middle one counts.
const CALLS: usize = 101;

pub fn examine() -> Finding {
    const CHECK: &str = "a call";
    match call() {
        Ok(time) => Finding::ok(
            CHECK,
            format!(
                "to another process and back: {:.1} us (the middle one of {CALLS})",
                time.as_nanos() as f64 / 1e3
            ),
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("to another process did not come back: {error:#}"),
            "see to the lines above first; then run `nearwire -vv doctor`, which logs each step",
        ),
    }
}

fn call() -> Result<Duration> {
    let server = start_privately(&Settings::default(), None)?;
    let mut client = BlockingClient::connect(server.name())?;
    let mut times = Vec::with_capacity(2 * CALLS);
    for number in 0..2 * CALLS as u64 {
        let request = number.to_le_bytes();
        let begin = Instant::now();
        let reply = client.call_bytes("echo", &request)?;
        times.push(begin.elapsed());
        ensure!(reply == request, "a reply differs from its request");
    }
    let mut times = times.split_off(CALLS);
    times.sort_unstable();
    drop(client);
    server.finish()?;
    Ok(times[CALLS / 2])
}
