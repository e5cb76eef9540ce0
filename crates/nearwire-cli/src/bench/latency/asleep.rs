//! Calls of which both sides sleep while they wait.

use std::cell::RefCell;

use anyhow::Result;
use nearwire::{BlockingClient, Spin};
use nearwire_floor::sleeping::{Edge, Futex, ShutDown};

use super::{BLOCKING, SOCKET, blocking, over_socket};
use crate::baseline::blocking::SocketEcho;
use crate::bench::calls::ratio;
use crate::bench::floor::NearSide;
use crate::measure::{Budget, Contender, Probe, Ratio, Series, alternate};
use crate::process::run_on;
use crate::serve::{Settings, start_privately};

/// Where two sides sleep decides more than how, so each way is measured in both places: the
/// scheduler, left alone, goes back and forth between them.
const PLACES: [&str; 2] = ["two cores", "one core"];

/// Calls that never spin, beside the barest ways to sleep: whoever answers is on the second CPU,
/// whoever calls on either.
pub(super) fn measure(
    rounds: u32,
    budget: Budget,
    far: &NearSide,
    probe: &mut Probe,
    (first, second): (usize, usize),
) -> Result<Vec<Series>> {
    let settings = Settings {
        spin: Some(0),
        ..Settings::default()
    };
    let server = start_privately(&settings, Some(second))?;
    let echo = RefCell::new(SocketEcho::start(Some(second))?);
    let mut contest = Vec::new();
    for (place, here) in PLACES.into_iter().zip([first, second]) {
        let name = |way| format!("{place}: {way}");
        let futex = move || far.placed(here, second, || far.sleeping::<Futex>(budget));
        contest.push(Contender::other(&name(FUTEX), futex));
        let bell = move || far.placed(here, second, || far.sleeping::<Edge<ShutDown>>(budget));
        contest.push(Contender::other(&name(BELL), bell));
        let client = BlockingClient::builder()
            .spin(Spin::NEVER)
            .connect_blocking(server.name())?;
        let mut nearwire = blocking(client, ASLEEP_SIZE, budget)?;
        let nearwire = move || run_on(here, &mut nearwire);
        contest.push(Contender::other(&name(BLOCKING), nearwire));
        let mut socket = over_socket(&echo, ASLEEP_SIZE, budget);
        contest.push(Contender::other(&name(SOCKET), move || {
            run_on(here, &mut socket)
        }));
    }
    let series = alternate(rounds, contest, probe)?;
    server.finish()?;
    Ok(series)
}

const FUTEX: &str = "futex";

/// What Nearwire sleeps with, and nothing else.
const BELL: &str = "bare doorbell";

/// Bytes of a request whose two sides sleep.
const ASLEEP_SIZE: usize = 64;

pub(super) fn ratios(series: &[Series]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for place in PLACES {
        let name = |way| format!("{place}: {way}");
        ratios.extend(ratio(series, &name(BELL), &name(FUTEX)));
        ratios.extend(ratio(series, &name(BLOCKING), &name(FUTEX)));
        ratios.extend(ratio(series, &name(SOCKET), &name(BLOCKING)));
    }
    ratios
}
