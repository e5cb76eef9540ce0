//! `nearwire bench floor`: what the hardware and the kernel give, whoever asks.

mod far_side;
mod near_side;

use std::time::Duration;

use anyhow::Result;
use nearwire_floor::ring::commit::Commit;
use nearwire_floor::ring::tail::Tail;
#[cfg(target_os = "linux")]
use nearwire_floor::sleeping::{Edge, Eventfd, Futex, ShutDown, Socket};

use crate::baseline::blocking::SocketEcho;
use crate::baseline::coalesced::CoalescedEcho;
use crate::baseline::socket;
use crate::measure::{
    Budget, Contender, Measured, Options, Probe, Ratio, Report, Section, Series, alternate,
    latency, throughput,
};
use crate::process::Placement;
#[cfg(target_os = "linux")]
use crate::process::two_cpus;

pub(super) use far_side::fingerprint;
pub use far_side::{FAR_SIDE_ROLE, be_far_side};
pub(super) use near_side::NearSide;

/// One run of an operation between two processes takes this long, unless told otherwise.
const USUAL: Duration = Duration::from_millis(200);

/// Bytes of a ring for small records: it stays in the innermost cache, where it is fastest.
const SMALL_RING: usize = 16 << 10;

/// Bytes of a ring for large records: sixteen of them.
const LARGE_RING: usize = 1 << 20;

/// Bytes of a small record's payload.
const SMALL: usize = 64;

/// Bytes of a large record's payload.
const LARGE: usize = 64 << 10;

/// Calls in flight on the coalesced socket.
const WINDOW: usize = 64;

/// What the hardware and the kernel give, whoever asks: a cache line thrown between two cores, the
/// barest ring, copies, sleeping and waking, a Unix socket (Windows: a named pipe).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire bench floor --quick
  nearwire bench floor --pin --json")]
pub struct Floor {
    #[command(flatten)]
    options: Options,
}

impl Floor {
    /// Measures and prints.
    ///
    /// # Errors
    /// If the processes cannot be started, or an operation fails.
    pub fn run(&self) -> Result<()> {
        self.measure()?.publish(&self.options)
    }

    fn measure(&self) -> Result<Report> {
        let rounds = self.options.thoroughness.rounds;
        let budget = self.options.thoroughness.budget(USUAL);
        let (here, there) = self.options.cpus()?;
        let mut report = Report::new("What the hardware gives");
        report.settings.push(format!(
            "Medians of {rounds} alternating runs of {:.3} s each.",
            budget.run.as_secs_f64()
        ));
        // Asked before this side is pinned: then it may only run where it is.
        #[cfg(target_os = "linux")]
        let cpus = two_cpus().ok();
        let near_placement = here.map_or_else(Placement::current, Placement::pin);
        let far = NearSide::start(there)?;
        report.settings.push(format!(
            "This side: {near_placement}. The other side: {}.",
            far.placement()
        ));
        let mut echo = SocketEcho::start(there)?;
        let mut coalesced = CoalescedEcho::start(there, SMALL, WINDOW)?;
        report.settings.push(format!(
            "The echo servers: {}; {}.",
            echo.server().placement(),
            coalesced.server().placement()
        ));
        let mut probe = Probe::start(there)?;

        let mut section = |title: &str, contenders: Vec<Contender<'_>>| -> Result<Vec<Series>> {
            eprintln!("measuring: {title} …");
            let series = alternate(rounds, contenders, &mut probe)?;
            report.sections.push(Section {
                title: title.into(),
                series: series.clone(),
            });
            Ok(series)
        };
        let trips = section(
            "Round trips, both sides spinning (64 B)",
            spinning_round_trips(&far, budget),
        )?;
        let streams = section("One way, both sides spinning", one_way(&far, budget))?;
        #[cfg(target_os = "linux")]
        section(
            "Round trips, both sides asleep",
            sleeping_round_trips(&far, budget, cpus, here.is_some()),
        )?;
        section(
            &format!("{}, blocking, echo compared", socket::NAME),
            blocking_socket(&mut echo, budget),
        )?;
        section(
            &format!(
                "{}, Tokio, frames coalesced by hand, echo compared",
                socket::NAME
            ),
            vec![Contender::other("64 B, 64 calls in flight", || {
                coalesced_calls(&mut coalesced, budget)
            })],
        )?;
        let short = Budget::of(budget.run / 4);
        section("Copies out of shared memory, one process", copies(short)?)?;
        #[cfg(target_os = "linux")]
        section("The kernel", kernel(&far, short, cpus))?;

        let [ping_pong, tail_trip, commit_trip] = &trips[..] else {
            unreachable!()
        };
        let [
            tail_1,
            tail_16,
            commit_1,
            commit_16,
            tail_large,
            commit_large,
        ] = &streams[..]
        else {
            unreachable!()
        };
        report.ratios = vec![
            Ratio::of("round trip: tail cursor / ping-pong", tail_trip, ping_pong),
            Ratio::of(
                "round trip: commit word / ping-pong",
                commit_trip,
                ping_pong,
            ),
            Ratio::of(
                "64 B one by one: commit word / tail cursor",
                commit_1,
                tail_1,
            ),
            Ratio::of(
                "64 B in batches: commit word / tail cursor",
                commit_16,
                tail_16,
            ),
            Ratio::of(
                "64 KiB: commit word / tail cursor",
                commit_large,
                tail_large,
            ),
        ];
        far.finish()?;
        Ok(report)
    }
}

fn spinning_round_trips(far: &NearSide, budget: Budget) -> Vec<Contender<'_>> {
    vec![
        Contender::spinning("cache-line ping-pong", move || far.ping_pong(budget)),
        Contender::spinning("bare rings, tail cursor", move || {
            far.exchange::<Tail>(budget, SMALL_RING, SMALL)
        }),
        Contender::spinning("bare rings, commit word", move || {
            far.exchange::<Commit>(budget, SMALL_RING, SMALL)
        }),
    ]
}

fn one_way(far: &NearSide, budget: Budget) -> Vec<Contender<'_>> {
    vec![
        Contender::spinning("64 B, tail cursor, one by one", move || {
            far.one_by_one::<Tail>(budget, SMALL_RING, SMALL)
                .map(Measured::Throughput)
        }),
        Contender::spinning("64 B, tail cursor, batches of 16", move || {
            far.in_batches::<Tail>(budget, SMALL_RING, SMALL)
                .map(Measured::Throughput)
        }),
        Contender::spinning("64 B, commit word, one by one", move || {
            far.one_by_one::<Commit>(budget, SMALL_RING, SMALL)
                .map(Measured::Throughput)
        }),
        Contender::spinning("64 B, commit word, batches of 16", move || {
            far.in_batches::<Commit>(budget, SMALL_RING, SMALL)
                .map(Measured::Throughput)
        }),
        Contender::spinning("64 KiB, tail cursor", move || {
            far.one_by_one::<Tail>(budget, LARGE_RING, LARGE)
                .map(Measured::Bandwidth)
        }),
        Contender::spinning("64 KiB, commit word", move || {
            far.one_by_one::<Commit>(budget, LARGE_RING, LARGE)
                .map(Measured::Bandwidth)
        }),
    ]
}

/// Round trips of one kind.
#[cfg(target_os = "linux")]
type RoundTrips = fn(&NearSide, Budget) -> Result<Measured>;

/// Where the two sides sleep decides more than how, so each way is measured in both places: the
/// scheduler, left alone, goes back and forth between them.
#[cfg(target_os = "linux")]
fn sleeping_round_trips(
    far: &NearSide,
    budget: Budget,
    cpus: Option<(usize, usize)>,
    pinned: bool,
) -> Vec<Contender<'_>> {
    let ways: [(&str, RoundTrips); 4] = [
        ("futex", NearSide::sleeping::<Futex>),
        (
            "eventfd, edge-triggered epoll, never read",
            NearSide::sleeping::<Edge<Eventfd>>,
        ),
        (
            "socket shut down again, edge-triggered epoll",
            NearSide::sleeping::<Edge<ShutDown>>,
        ),
        ("Unix socket, 64 B", NearSide::sleeping::<Socket>),
    ];
    let mut contenders = Vec::new();
    if let Some((first, second)) = cpus {
        for (place, here, there) in [("two cores", first, second), ("one core", first, first)] {
            for (name, round_trips) in ways {
                contenders.push(Contender::other(&format!("{place}: {name}"), move || {
                    far.placed(here, there, || round_trips(far, budget))
                }));
            }
        }
    }
    if !pinned {
        contenders.push(Contender::other("as scheduled: futex", move || {
            far.sleeping::<Futex>(budget)
        }));
    }
    contenders
}

fn blocking_socket(echo: &mut SocketEcho, budget: Budget) -> Vec<Contender<'_>> {
    let echo = std::rc::Rc::new(std::cell::RefCell::new(echo));
    [("64 B", 64), ("1 KiB", 1 << 10), ("64 KiB", 64 << 10)]
        .into_iter()
        .map(|(name, size)| {
            let echo = std::rc::Rc::clone(&echo);
            let payload: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
            Contender::other(name, move || {
                let mut echo = echo.borrow_mut();
                Ok(Measured::Latency(latency(budget, || {
                    echo.round_trip(&payload)
                })?))
            })
        })
        .collect()
}

fn coalesced_calls(echo: &mut CoalescedEcho, budget: Budget) -> Result<Measured> {
    let echo = std::cell::RefCell::new(echo);
    let measured = throughput(
        budget,
        SMALL,
        |count| echo.borrow_mut().calls(count),
        |_| echo.borrow_mut().drain(),
    )?;
    Ok(Measured::Throughput(measured))
}

/// A way of copying and its name.
type Copy = (&'static str, fn(&mut nearwire_floor::copying::Copying));

fn copies(budget: Budget) -> Result<Vec<Contender<'static>>> {
    use nearwire_floor::copying::Copying;
    let ways: &[Copy] = &[
        ("memcpy", Copying::memcpy),
        #[cfg(target_arch = "x86_64")]
        ("rep movsb", Copying::string_move),
        ("relaxed words", Copying::words),
    ];
    let mut contenders = Vec::new();
    for (size_name, size) in [
        ("64 B", 64),
        ("1 KiB", 1 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", 1 << 20),
    ] {
        for &(way, copy) in ways {
            let mut copying = Copying::new(size)?;
            contenders.push(Contender::other(
                &format!("{size_name}, {way}"),
                move || {
                    let repeat = |count| {
                        for _ in 0..count {
                            copy(&mut copying);
                        }
                        Ok(())
                    };
                    Ok(Measured::Bandwidth(throughput(
                        budget,
                        size,
                        repeat,
                        |_| Ok(()),
                    )?))
                },
            ));
        }
    }
    Ok(contenders)
}

/// A barrier interrupts only cores that run a process, so the two sides get one each.
#[cfg(target_os = "linux")]
fn kernel(far: &NearSide, budget: Budget, cpus: Option<(usize, usize)>) -> Vec<Contender<'_>> {
    let call = || {
        nearwire_floor::kernel::cheap_call();
        Ok(())
    };
    let mut contenders = vec![Contender::other(
        "a cheap system call (getppid)",
        move || Ok(Measured::Latency(latency(budget, call)?)),
    )];
    if let Some((here, there)) = cpus {
        for (name, asleep) in [
            ("membarrier, the other process spinning", false),
            ("membarrier, the other process asleep", true),
        ] {
            contenders.push(Contender::other(name, move || {
                far.placed(here, there, || far.barriers(budget, asleep))
            }));
        }
    }
    contenders
}
