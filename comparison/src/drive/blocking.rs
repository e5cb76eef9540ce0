//! Peers that a thread uses without a runtime.

use anyhow::Result;
use nearwire_cli::comparison::{Budget, Latency, Throughput, latency, throughput};

use super::{Counter, GREETING, sleep_until};
use crate::message::Requests;
use crate::peer::{Clients, CrowdTime, Tally};

/// A connection on which calls are answered in their order.
pub trait Lane {
    /// Begins a call.
    ///
    /// # Errors
    /// If the connection is broken.
    fn submit(&mut self, request: &[u8]) -> Result<()>;

    /// Lets the server see what was submitted, if it does not already.
    ///
    /// # Errors
    /// If the connection is broken.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Waits for the next reply and checks it.
    ///
    /// # Errors
    /// If the connection is broken, or the check fails.
    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()>;
}

impl<L: Lane> Clients for Vec<L> {
    fn greet(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(greet)
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        round_trips(&mut self[0], size, budget)
    }

    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        pipelined(&mut self[0], size, window, budget)
    }

    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally> {
        crowd(self, size, time)
    }
}

/// One call.
pub fn greet(lane: &mut impl Lane) -> Result<()> {
    let mut requests = Requests::new(GREETING, 0);
    let mut expected = requests.expected();
    lane.submit(requests.next())?;
    lane.flush()?;
    lane.collect(|reply| expected.check(reply))
}

/// One call after the other.
pub fn round_trips(lane: &mut impl Lane, size: usize, budget: Budget) -> Result<Latency> {
    let mut requests = Requests::new(size, 0);
    let mut expected = requests.expected();
    latency(budget, || {
        lane.submit(requests.next())?;
        lane.flush()?;
        lane.collect(|reply| expected.check(reply))
    })
}

/// Submits while the window has room, then takes the replies to half of it: whoever can put several
/// messages into one system call, or publish them at once, is given several.
pub fn pipelined(
    lane: &mut impl Lane,
    size: usize,
    window: usize,
    budget: Budget,
) -> Result<Throughput> {
    struct State<'a, L> {
        lane: &'a mut L,
        requests: Requests,
        expected: crate::message::Expected,
        in_flight: usize,
    }
    impl<L: Lane> State<'_, L> {
        fn take_down_to(&mut self, left: usize) -> Result<()> {
            self.lane.flush()?;
            while self.in_flight > left {
                let expected = &mut self.expected;
                self.lane.collect(|reply| expected.check(reply))?;
                self.in_flight -= 1;
            }
            Ok(())
        }
    }
    let requests = Requests::new(size, 0);
    let expected = requests.expected();
    let state = std::cell::RefCell::new(State {
        lane,
        requests,
        expected,
        in_flight: 0,
    });
    throughput(
        budget,
        size,
        |count| {
            let state = &mut *state.borrow_mut();
            for _ in 0..count {
                if state.in_flight >= window {
                    state.take_down_to(window / 2)?;
                }
                state.lane.submit(state.requests.next())?;
                state.in_flight += 1;
            }
            Ok(())
        },
        |_| state.borrow_mut().take_down_to(0),
    )
}

/// Goes round the connections: a call on each, then the reply of each.
pub fn crowd(lanes: &mut [impl Lane], size: usize, time: &CrowdTime) -> Result<Tally> {
    let mut requests = Requests::new(size, 0);
    let mut counter = Counter::new(time);
    sleep_until(time.start);
    loop {
        let mut expected = requests.expected();
        for lane in lanes.iter_mut() {
            lane.submit(requests.next())?;
            lane.flush()?;
        }
        for lane in lanes.iter_mut() {
            lane.collect(|reply| expected.check(reply))?;
        }
        if !counter.count(lanes.len() as u64) {
            return Ok(counter.tally());
        }
    }
}
