//! One thread that goes round its connections.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Counter, Counts};
use super::lanes::Lane;
use super::requests::Requests;
use crate::bench::calls::check;
use crate::measure::Budget;

/// Connections that are visited between two clock reads: a read costs as much as half a call.
const VISITS_PER_CLOCK: usize = 8;

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
    budget: Budget,
) -> Result<Counts> {
    let mut lanes: Vec<Visited<L>> = lanes.into_iter().map(Visited::new).collect();
    let mut counter = Counter::new(lanes.len(), Instant::now(), budget)?;
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

/// Calls at fixed times, `interval` apart, on one connection after the other; at most `window` in
/// flight on each. A call that has to wait for its turn was due all the same.
pub(super) fn on_schedule<L: Lane>(
    lanes: Vec<L>,
    window: u64,
    interval: Duration,
    mut requests: Requests,
    budget: Budget,
) -> Result<Counts> {
    let mut lanes: Vec<(Visited<L>, VecDeque<Duration>)> = lanes
        .into_iter()
        .map(|lane| (Visited::new(lane), VecDeque::new()))
        .collect();
    let count = lanes.len();
    let mut counter = Counter::new(count, Instant::now(), budget)?;
    let (mut due, mut next) = (Duration::ZERO, 0);
    loop {
        let now = counter.now();
        while due <= now && !counter.is_ending() {
            lanes[next].1.push_back(due);
            due += interval;
            next = (next + 1) % count;
        }
        let mut left = false;
        for (number, (visited, waiting)) in lanes.iter_mut().enumerate() {
            let before = visited.submitted;
            while visited.in_flight() < window
                && let Some(due) = waiting.pop_front()
            {
                visited.submit(number, 1, due, &mut requests)?;
            }
            if visited.submitted > before {
                visited.lane.flush()?;
            }
            if visited.in_flight() > 0 {
                left = true;
                let calls = visited.collect(number, false, &mut requests)?;
                if calls > 0 {
                    let now = counter.now();
                    visited.settle(calls, |due, calls| {
                        for _ in 0..calls {
                            counter.answered_late(number, due, now);
                        }
                    });
                }
            }
        }
        if counter.is_ending() && !left {
            return Ok(counter.finish());
        }
        std::hint::spin_loop();
    }
}
