//! One thread that goes round its connections.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Counter, Counts};
use super::lanes::Lane;
use super::requests::Requests;
use super::schedule::Pace;
use crate::bench::calls::check;
use crate::measure::Budget;

/// Connections that are visited between two clock reads: a read costs as much as half a call.
const VISITS_PER_CLOCK: usize = 8;

/// Of so many calls of a schedule one is timed, on each connection: putting down a time costs a fifth of a
/// call, which the run that finds the peak does not pay.
const CALLS_PER_TIME: u64 = 8;

/// A connection, and what is known of its calls.
struct Visited<L> {
    lane: L,
    /// Calls submitted, and answered.
    submitted: u64,
    answered: u64,
    /// When the calls in flight were due, and how many of them were at that time.
    due: VecDeque<(Duration, u64)>,
}

impl<L: Lane> Visited<L> {
    fn new(lane: L) -> Self {
        Self {
            lane,
            submitted: 0,
            answered: 0,
            due: VecDeque::new(),
        }
    }

    fn in_flight(&self) -> u64 {
        self.submitted - self.answered
    }

    fn submit(
        &mut self,
        number: usize,
        calls: u64,
        due: Duration,
        requests: &mut Requests,
    ) -> Result<()> {
        for _ in 0..calls {
            self.lane.submit(requests.of(number, self.submitted))?;
            self.submitted += 1;
        }
        self.due.push_back((due, calls));
        Ok(())
    }

    /// Takes and checks what is there; waits for something if `wait` says so.
    #[inline]
    fn collect(&mut self, number: usize, wait: bool, requests: &mut Requests) -> Result<u64> {
        let answered = &mut self.answered;
        let compare = |reply: &[u8]| {
            check(reply, requests.of(number, *answered))?;
            *answered += 1;
            Ok(())
        };
        let count = match wait {
            true => self.lane.wait(compare)?,
            false => self.lane.collect(compare)?,
        };
        Ok(count as u64)
    }

    /// Goes through the times at which answered calls were due.
    #[inline]
    fn settle(&mut self, mut calls: u64, mut each: impl FnMut(Duration, u64)) {
        while calls > 0
            && let Some((due, of)) = self.due.front_mut()
        {
            let settled = calls.min(*of);
            each(*due, settled);
            calls -= settled;
            *of -= settled;
            if *of == 0 {
                self.due.pop_front();
            }
        }
    }
}

/// As many calls as there can be, `window` of them in flight on each connection.
pub(super) fn as_fast_as_possible<L: Lane>(
    lanes: Vec<L>,
    window: u64,
    mut requests: Requests,
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    let mut lanes: Vec<Visited<L>> = lanes.into_iter().map(Visited::new).collect();
    std::thread::sleep(start.saturating_duration_since(Instant::now()));
    let mut counter = Counter::new(lanes.len(), start, budget)?;
    let mut now = counter.now();
    for (number, visited) in lanes.iter_mut().enumerate() {
        visited.submit(number, window, now, &mut requests)?;
        visited.lane.flush()?;
    }
    // Where to wait when nothing is there anywhere.
    let mut next_wait = 0;
    loop {
        let (mut found, mut in_flight) = (false, 0);
        for (number, visited) in lanes.iter_mut().enumerate() {
            if number % VISITS_PER_CLOCK == 0 {
                now = counter.now();
            }
            let calls = visited.collect(number, false, &mut requests)?;
            if calls > 0 {
                found = true;
                answered(visited, number, calls, now, &mut counter, &mut requests)?;
            }
            in_flight += visited.in_flight();
        }
        if in_flight == 0 {
            return Ok(counter.finish());
        }
        if !found {
            next_wait = (next_wait..lanes.len())
                .chain(0..next_wait)
                .find(|&number| lanes[number].in_flight() > 0)
                .unwrap_or(0);
            let visited = &mut lanes[next_wait];
            let calls = visited.collect(next_wait, true, &mut requests)?;
            now = counter.now();
            answered(visited, next_wait, calls, now, &mut counter, &mut requests)?;
            next_wait = (next_wait + 1) % lanes.len();
        }
    }
}

/// Counts answered calls, and makes as many new ones.
#[inline]
fn answered<L: Lane>(
    visited: &mut Visited<L>,
    number: usize,
    calls: u64,
    now: Duration,
    counter: &mut Counter,
    requests: &mut Requests,
) -> Result<()> {
    visited.settle(calls, |due, calls| {
        counter.answered(number, calls, due, now);
    });
    if !counter.is_ending() {
        visited.submit(number, calls, now, requests)?;
        visited.lane.flush()?;
    }
    Ok(())
}

/// Calls at fixed times, on one connection after the other; at most `window` in flight on each. A
/// call that has to wait for its turn was due all the same.
///
/// Never sleeps: a thread that sleeps until the next call is due wakes too late for it. When there
/// is nothing to do it lets others have its core, such as the server, if the system has put both
/// on one.
pub(super) fn on_schedule<L: Lane>(
    lanes: Vec<L>,
    window: u64,
    pace: Pace,
    mut requests: Requests,
    start: Instant,
    budget: Budget,
) -> Result<Counts> {
    let mut lanes: Vec<Visited<L>> = lanes.into_iter().map(Visited::new).collect();
    let count = lanes.len();
    let nth = |number: usize, call: u64| call * count as u64 + number as u64;
    // Which calls were answered since the last look at the clock, from which one on.
    let mut answers: Vec<(usize, u64, u64)> = Vec::with_capacity(VISITS_PER_CLOCK);
    std::thread::sleep(start.saturating_duration_since(Instant::now()));
    let mut counter = Counter::new(count, start, budget)?;
    loop {
        // Before the round: a call that fell due during it was perhaps not seen.
        let (ending, mut left, mut idle) = (counter.is_ending(), false, true);
        for from in (0..count).step_by(VISITS_PER_CLOCK) {
            let now_ns = counter.now().as_nanos() as u64;
            let visits = lanes.iter_mut().enumerate();
            for (number, visited) in visits.skip(from).take(VISITS_PER_CLOCK) {
                let before = visited.submitted;
                loop {
                    let due_ns = pace.due_ns(nth(number, visited.submitted));
                    if due_ns > now_ns || !counter.belongs(Duration::from_nanos(due_ns)) {
                        break;
                    }
                    if visited.in_flight() >= window {
                        left = true;
                        break;
                    }
                    let request = requests.of(number, visited.submitted);
                    visited.lane.submit(request)?;
                    visited.submitted += 1;
                }
                if visited.submitted > before {
                    idle = false;
                    visited.lane.flush()?;
                }
                if visited.in_flight() > 0 {
                    left = true;
                    let first = visited.answered;
                    let calls = visited.collect(number, false, &mut requests)?;
                    if calls > 0 {
                        answers.push((number, first, calls));
                    }
                }
            }
            if !answers.is_empty() {
                idle = false;
                let now = counter.now();
                for (number, first, calls) in answers.drain(..) {
                    counter.answered_late(number, calls);
                    let timed = first.next_multiple_of(CALLS_PER_TIME)..first + calls;
                    for call in timed.step_by(CALLS_PER_TIME as usize) {
                        counter.was_due(pace.due(nth(number, call)), now);
                    }
                }
            }
        }
        if ending && !left {
            return Ok(counter.finish());
        }
        if idle {
            std::thread::yield_now();
        }
    }
}
