//! The process on the other side of the floor's operations.

use anyhow::Result;
use nearwire_floor::Descriptors;
#[cfg(target_os = "linux")]
use nearwire_floor::kernel::BarrierTarget;
use nearwire_floor::ping_pong::PingPong;
use nearwire_floor::ring::commit::Commit;
use nearwire_floor::ring::tail::Tail;
use nearwire_floor::ring::{Consumer, Exchange, RingMemory, Scheme};
#[cfg(target_os = "linux")]
use nearwire_floor::sleeping::{Edge, Eventfd, Futex, ShutDown, Sleeping, Socket};
use serde::{Deserialize, Serialize};

use crate::process::{Parent, run_on};

/// The role of the far side.
pub const FAR_SIDE_ROLE: &str = "floor";

/// What the far side is asked to do; the operation's descriptors come along.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) operation: Operation,
    /// The CPU to do it on, if not wherever the process runs.
    pub(super) cpu: Option<usize>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Operation {
    PingPong,
    /// Echo records of up to `longest` bytes.
    Exchange {
        scheme: SchemeName,
        longest: usize,
    },
    /// Take records of up to `longest` bytes until an empty one comes.
    Consume {
        scheme: SchemeName,
        longest: usize,
    },
    #[cfg(target_os = "linux")]
    Sleep(Way),
    #[cfg(target_os = "linux")]
    Barrier {
        asleep: bool,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::bench) enum SchemeName {
    Tail,
    Commit,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::bench) enum Way {
    Futex,
    Eventfd,
    ShutDown,
    Socket,
}

/// What the far side has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// Operations it took part in.
    pub(super) count: u64,
    /// Of consumed records: the sum of what [`fingerprint`] says of each.
    pub(super) sum: u64,
}

/// A scheme and its name on the wire.
pub(in crate::bench) trait Named: Scheme {
    const NAME: SchemeName;
}

impl Named for Tail {
    const NAME: SchemeName = SchemeName::Tail;
}

impl Named for Commit {
    const NAME: SchemeName = SchemeName::Commit;
}

/// A way of sleeping and its name on the wire.
#[cfg(target_os = "linux")]
pub(in crate::bench) trait NamedWay: Sleeping {
    const NAME: Way;
}

#[cfg(target_os = "linux")]
impl NamedWay for Futex {
    const NAME: Way = Way::Futex;
}

#[cfg(target_os = "linux")]
impl NamedWay for Edge<Eventfd> {
    const NAME: Way = Way::Eventfd;
}

#[cfg(target_os = "linux")]
impl NamedWay for Edge<ShutDown> {
    const NAME: Way = Way::ShutDown;
}

#[cfg(target_os = "linux")]
impl NamedWay for Socket {
    const NAME: Way = Way::Socket;
}

/// The first and the last word of a payload of at least 8 bytes: enough to notice one that is torn,
/// lost or doubled, at next to no cost.
#[inline]
pub(in crate::bench) fn fingerprint(payload: &[u8]) -> u64 {
    let (first, last) = (payload.first_chunk(), payload.last_chunk());
    let (Some(first), Some(last)) = (first, last) else {
        return 0;
    };
    u64::from_le_bytes(*first).wrapping_add(u64::from_le_bytes(*last).rotate_left(32))
}

/// The role of the far side: does one job after the other.
///
/// # Errors
/// If an operation fails.
pub fn be_far_side(parent: Parent) -> Result<()> {
    while let Some((job, descriptors)) = parent.channel().next::<Job>()? {
        let work = || take_part(job.operation, descriptors);
        let done = match job.cpu {
            Some(cpu) => run_on(cpu, work)?,
            None => work()?,
        };
        parent.channel().send(&done)?;
    }
    Ok(())
}

fn take_part(operation: Operation, descriptors: Descriptors) -> Result<Done> {
    let count = match operation {
        Operation::PingPong => PingPong::open(descriptors)?.answer(),
        Operation::Exchange {
            scheme: SchemeName::Tail,
            longest,
        } => Exchange::<Tail>::open(descriptors)?.answer(longest),
        Operation::Exchange {
            scheme: SchemeName::Commit,
            longest,
        } => Exchange::<Commit>::open(descriptors)?.answer(longest),
        Operation::Consume {
            scheme: SchemeName::Tail,
            longest,
        } => {
            return consume::<Tail>(descriptors, longest);
        }
        Operation::Consume {
            scheme: SchemeName::Commit,
            longest,
        } => {
            return consume::<Commit>(descriptors, longest);
        }
        #[cfg(target_os = "linux")]
        Operation::Sleep(Way::Futex) => Futex::open(descriptors)?.answer()?,
        #[cfg(target_os = "linux")]
        Operation::Sleep(Way::Eventfd) => Edge::<Eventfd>::open(descriptors)?.answer()?,
        #[cfg(target_os = "linux")]
        Operation::Sleep(Way::ShutDown) => Edge::<ShutDown>::open(descriptors)?.answer()?,
        #[cfg(target_os = "linux")]
        Operation::Sleep(Way::Socket) => Socket::open(descriptors)?.answer()?,
        #[cfg(target_os = "linux")]
        Operation::Barrier { asleep: false } => {
            BarrierTarget::open(descriptors)?.spin()?;
            0
        }
        #[cfg(target_os = "linux")]
        Operation::Barrier { asleep: true } => {
            BarrierTarget::open(descriptors)?.sleep()?;
            0
        }
    };
    Ok(Done { count, sum: 0 })
}

fn consume<S: Scheme>(descriptors: Descriptors, longest: usize) -> Result<Done> {
    let mut consumer = S::Consumer::new(&RingMemory::open(descriptors)?);
    let mut buffer = vec![0; longest];
    let mut done = Done::default();
    loop {
        let length = consumer.pop(&mut buffer);
        if length == 0 {
            return Ok(done);
        }
        done.count += 1;
        done.sum = done.sum.wrapping_add(fingerprint(&buffer[..length]));
    }
}
