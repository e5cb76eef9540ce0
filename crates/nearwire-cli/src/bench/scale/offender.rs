//! A client that behaves badly, in a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearwire::{BlockingClient, ClientBuilder};
use serde::{Deserialize, Serialize};

use crate::bench::calls::check;
use crate::measure::Payload;
use crate::process::{Child, Parent};

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

/// The role of a client that behaves badly.
pub const OFFENDER_ROLE: &str = "scale-offender";

/// Bytes of a request that is not meant to be read: large enough to fill a ring soon.
const LARGE: usize = 4 << 10;

/// Bytes of the others' requests.
const SMALL: usize = 64;

/// How long a client may be at it before anybody looks.
const TIME_TO_BEGIN: Duration = Duration::from_millis(30);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    /// Makes calls until there is no room for the replies, and takes none of them.
    NeverReads,
    /// Has as many calls in flight as it may, all the time.
    Floods,
    /// Is stopped by a signal, with as many calls in flight. Not on Windows, which has none.
    Stopped,
    /// Connects, makes a call and leaves, all the time.
    Reconnects,
}

impl Offence {
    /// Those that this system has a way for.
    pub(super) const ALL: &[Self] = if os::CAN_STOP {
        &[
            Self::NeverReads,
            Self::Floods,
            Self::Stopped,
            Self::Reconnects,
        ]
    } else {
        &[Self::NeverReads, Self::Floods, Self::Reconnects]
    };

    /// In words.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NeverReads => "one never reads",
            Self::Floods => "one floods",
            Self::Stopped => "one is stopped",
            Self::Reconnects => "one connects and leaves",
        }
    }
}

/// What the process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    offence: Offence,
    server: String,
}

/// The process. It ends when this is dropped.
pub(super) struct Offender {
    child: Child,
    offence: Offence,
}

impl Offender {
    /// Starts it, and waits until it is at it.
    pub(super) fn start(offence: Offence, server: &str) -> Result<Self> {
        let child = Child::start(OFFENDER_ROLE, None)?;
        child.channel().send(&Order {
            offence,
            server: server.to_owned(),
        })?;
        let failed = || {
            format!(
                "the client that should misbehave failed ({})",
                offence.name()
            )
        };
        child.channel().receive::<()>().with_context(failed)?;
        std::thread::sleep(TIME_TO_BEGIN);
        if offence == Offence::Stopped {
            os::stop(child.id())?;
        }
        Ok(Self { child, offence })
    }

    /// Sees that it is still there: one that has failed does no harm.
    pub(super) fn is_at_it(&self) -> Result<()> {
        ensure!(
            !self.child.has_ended(),
            "a client that should misbehave has died"
        );
        Ok(())
    }

    /// Ends it. One that connects is let finish that, and is not killed in the middle.
    ///
    /// # Errors
    /// If it has failed.
    pub(super) fn end(self) -> Result<()> {
        match self.offence {
            Offence::Reconnects => self.child.finish(),
            Offence::NeverReads | Offence::Floods | Offence::Stopped => Ok(()),
        }
    }
}

/// The role of the process: does it until it is killed.
///
/// # Errors
/// If the server is gone, or a reply is wrong.
pub fn be_offender(parent: Parent) -> Result<()> {
    let Order { offence, server } = parent.channel().receive()?;
    let builder = ClientBuilder::new().label("nearwire bench, misbehaving");
    let at_it = || parent.channel().send(&());
    match offence {
        Offence::NeverReads => {
            let mut client = builder.connect_blocking(&server)?;
            fill(&mut client)?;
            at_it()?;
            leave_it(&parent)
        }
        Offence::Floods | Offence::Stopped => {
            let mut client = builder.connect_blocking(&server)?;
            at_it()?;
            flood(&mut client)
        }
        Offence::Reconnects => {
            at_it()?;
            let request = [9; SMALL];
            let leaves = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&leaves);
            std::thread::spawn(move || {
                let _ = leave_it(&parent);
                told.store(true, Relaxed);
            });
            while !leaves.load(Relaxed) {
                let mut client = builder.connect_blocking(&server)?;
                check(&client.call_bytes("echo", &request)?, &request)?;
            }
            Ok(())
        }
    }
}

/// Makes calls until the ring of replies is full and the server has more for it.
fn fill(client: &mut BlockingClient) -> Result<()> {
    let echo = client.method("echo")?;
    // Replies for a ring, and what fits into the one of requests: so many can be submitted without
    // a look at replies, as the server takes some before it has to stop.
    let most = client.info().ring_out / (LARGE + 64) * 2 - 2;
    let mut payload = Payload::new(LARGE);
    let mut pipeline = client.pipeline();
    for _ in 0..most {
        pipeline.submit(echo, payload.next())?;
        pipeline.flush();
        // For the server to make room.
        std::thread::sleep(Duration::from_micros(500));
    }
    // Not given up, but never looked at.
    std::mem::forget(pipeline);
    Ok(())
}

/// As many calls in flight as there may be.
fn flood(client: &mut BlockingClient) -> Result<()> {
    let echo = client.method("echo")?;
    let mut pipeline = client.pipeline();
    let (mut sent, mut received) = (Payload::new(SMALL), Payload::new(SMALL));
    loop {
        while pipeline.in_flight() < pipeline.max_in_flight() {
            pipeline.submit(echo, sent.next())?;
        }
        let compare =
            |reply: Result<&[u8], nearwire::Status>, expected: &[u8]| check(reply?, expected);
        let expected = received.next();
        if let Some(checked) = pipeline.next(|_, reply| compare(reply, expected))? {
            checked?;
        }
    }
}

/// Does nothing until the parent ends this process.
fn leave_it(parent: &Parent) -> Result<()> {
    while parent.channel().next::<()>()?.is_some() {}
    Ok(())
}
