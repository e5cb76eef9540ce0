//! The side of the floor's operations that is timed.

use std::cell::Cell;
use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use nearwire_floor::Descriptor;
#[cfg(target_os = "linux")]
use nearwire_floor::kernel::{BarrierTarget, barrier_elsewhere};
use nearwire_floor::ping_pong::PingPong;
use nearwire_floor::ring::{Exchange, Producer, RingMemory};

#[cfg(target_os = "linux")]
use super::far_side::NamedWay;
use super::far_side::{Done, FAR_SIDE_ROLE, Job, Named, Operation, fingerprint};
use crate::measure::{Budget, Measured, Throughput, latency, throughput};
#[cfg(target_os = "linux")]
use crate::process::run_on;
use crate::process::{Child, Placement};

/// Records of a batch.
const BATCH: usize = 16;

/// The operations, with the process on their other side.
pub(in crate::bench) struct NearSide {
    far: Child,
    /// The CPU that the other side shall do its next jobs on.
    far_cpu: Cell<Option<usize>>,
}

impl NearSide {
    /// Starts the other side, on one CPU if `cpu` says so.
    pub(in crate::bench) fn start(cpu: Option<usize>) -> Result<Self> {
        Ok(Self {
            far: Child::start(FAR_SIDE_ROLE, cpu)?.vital()?,
            far_cpu: Cell::new(None),
        })
    }

    pub(in crate::bench) fn placement(&self) -> &Placement {
        self.far.placement()
    }

    pub(in crate::bench) fn finish(self) -> Result<()> {
        self.far.finish()
    }

    /// Does `work` with this side on CPU `here` and the other on CPU `there`.
    #[cfg(target_os = "linux")]
    pub(in crate::bench) fn placed<T>(
        &self,
        here: usize,
        there: usize,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.far_cpu.set(Some(there));
        let result = run_on(here, work);
        self.far_cpu.set(None);
        result
    }

    fn ask(&self, operation: Operation, descriptors: &[Descriptor]) -> Result<()> {
        let job = Job {
            operation,
            cpu: self.far_cpu.get(),
        };
        self.far.channel().send_with(&job, descriptors)
    }

    fn answer(&self) -> Result<Done> {
        self.far
            .channel()
            .receive()
            .context("the other side did not finish")
    }

    pub(in crate::bench) fn ping_pong(&self, budget: Budget) -> Result<Measured> {
        let (mut ping_pong, descriptors) = PingPong::create()?;
        self.ask(Operation::PingPong, &descriptors)?;
        let measured = latency(budget, || {
            ping_pong.round_trip();
            Ok(())
        })?;
        ping_pong.stop();
        self.answer()?;
        Ok(Measured::Latency(measured))
    }

    pub(in crate::bench) fn exchange<S: Named>(
        &self,
        budget: Budget,
        capacity: usize,
        size: usize,
    ) -> Result<Measured> {
        let (mut exchange, descriptors) = Exchange::<S>::create(capacity)?;
        self.ask(
            Operation::Exchange {
                scheme: S::NAME,
                longest: size,
            },
            &descriptors,
        )?;
        let payload: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
        let mut reply = vec![0; size];
        let measured = latency(budget, || {
            let length = exchange.round_trip(black_box(&payload), &mut reply);
            ensure!(
                fingerprint(&reply[..length]) == fingerprint(&payload),
                "a wrong echo came"
            );
            Ok(())
        })?;
        ensure!(reply == payload, "a wrong echo came");
        exchange.stop();
        self.answer()?;
        Ok(Measured::Latency(measured))
    }

    /// Records published one by one.
    pub(in crate::bench) fn one_by_one<S: Named>(
        &self,
        budget: Budget,
        capacity: usize,
        size: usize,
    ) -> Result<Throughput> {
        self.one_way::<S>(budget, capacity, size, |producer, payloads| {
            for payload in payloads {
                producer.push(black_box(payload));
            }
        })
    }

    /// Records published in batches of 16.
    pub(in crate::bench) fn in_batches<S: Named>(
        &self,
        budget: Budget,
        capacity: usize,
        size: usize,
    ) -> Result<Throughput> {
        self.one_way::<S>(budget, capacity, size, |producer, payloads| {
            producer.push_batch(payloads.iter().map(|payload| black_box(*payload)));
        })
    }

    fn one_way<S: Named>(
        &self,
        budget: Budget,
        capacity: usize,
        size: usize,
        push: impl Fn(&mut S::Producer, &[&[u8]; BATCH]),
    ) -> Result<Throughput> {
        let (memory, descriptors) = RingMemory::create(capacity)?;
        self.ask(
            Operation::Consume {
                scheme: S::NAME,
                longest: size,
            },
            &descriptors,
        )?;
        let mut producer = S::Producer::new(&memory);
        let payloads: Vec<Vec<u8>> = (0..BATCH)
            .map(|number| (0..size).map(|at| (number * 31 + at * 7) as u8).collect())
            .collect();
        let payloads: [&[u8]; BATCH] = std::array::from_fn(|number| payloads[number].as_slice());
        let batch_sum = payloads
            .iter()
            .fold(0u64, |sum, p| sum.wrapping_add(fingerprint(p)));
        let producer_cell = std::cell::RefCell::new(&mut producer);
        throughput(
            budget,
            size,
            |count| {
                let mut producer = producer_cell.borrow_mut();
                // Slices are powers of two, from a batch up.
                for _ in 0..count / BATCH as u64 {
                    push(&mut producer, &payloads);
                }
                Ok(())
            },
            |total| {
                producer_cell.borrow_mut().push(&[]);
                let sum = (total / BATCH as u64).wrapping_mul(batch_sum);
                let done = self.answer()?;
                ensure!(
                    done == Done { count: total, sum },
                    "{total} records were sent, {} came, or some were damaged",
                    done.count
                );
                Ok(())
            },
        )
    }

    #[cfg(target_os = "linux")]
    pub(in crate::bench) fn sleeping<S: NamedWay>(&self, budget: Budget) -> Result<Measured> {
        let (mut near, descriptors) = S::create()?;
        self.ask(Operation::Sleep(S::NAME), &descriptors)?;
        // Else this side's copies would keep the far side's end of a socket open.
        drop(descriptors);
        let measured = latency(budget, || Ok(near.round_trip()?))?;
        near.stop()?;
        self.answer()?;
        Ok(Measured::Latency(measured))
    }

    /// Barriers on the other process's core.
    #[cfg(target_os = "linux")]
    pub(in crate::bench) fn barriers(&self, budget: Budget, asleep: bool) -> Result<Measured> {
        let (target, descriptors) = BarrierTarget::create()?;
        self.ask(Operation::Barrier { asleep }, &descriptors)?;
        target.wait_until_ready();
        let measured = latency(budget, || Ok(barrier_elsewhere()?))?;
        target.stop()?;
        self.answer()?;
        Ok(Measured::Latency(measured))
    }
}
