//! Aeron over its IPC channel.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nearwire_cli::comparison::{Budget, Latency, Throughput, throughput};
use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler, AeronHeader,
    AeronSubscription, Handlers, IntoCString,
};
use rusteron_media_driver::AeronIdleStrategyKind;
use rusteron_media_driver::bindings::aeron_threading_mode_enum;
use rusteron_media_driver::testing::EmbeddedDriver;

use crate::drive::blocking::{self, Lane};
use crate::message::{Expected, Requests};
use crate::peer::{About, Clients, CrowdTime, Peer, Setup, Tally};

/// All clients send on it.
const REQUESTS: i32 = 1;

/// The stream of a client's replies is its number and this.
const REPLIES: i32 = 1000;

/// Fragments taken at a time.
const FRAGMENTS: usize = 64;

/// A term buffer of one connection, in bytes. A sender may be half of one ahead of what the driver
/// last saw of the receiver, and the driver looks once in a millisecond or so.
const TERM: usize = 4 << 20;

/// The same where there are many connections: the least that there can be. A message may take an
/// eighth of it.
const SMALLEST_TERM: usize = 64 << 10;
const MESSAGES_PER_TERM: usize = 8;

/// The longest fragment, in bytes: as long as it may be, for large messages go in fewer.
const LONGEST_FRAGMENT: usize = 65_504;

/// How long to wait for the driver and the other side.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a sender waits for room before it gives up.
const STUCK: Duration = Duration::from_secs(10);

/// Aeron IPC.
pub struct AeronIpc;

impl Peer for AeronIpc {
    type Clients = AeronClients;
    const ABOUT: About = About {
        name: "aeron",
        title: "Aeron IPC",
        spins: true,
        packages: &["rusteron-client", "rusteron-media-driver"],
        configuration: "The C client and the C media driver by way of rusteron, over `aeron:ipc`; the \
            driver runs in the server's process with one shared thread that sleeps when idle (over \
            IPC it introduces the two sides to one another and tells a sender now and then how far \
            the receiver is; with two cores a spinning driver would be in the way). Both sides poll in a loop, as Aeron's own ping-pong does; the \
            server always occupies a core. Messages are sent by claim, or by offer where they are \
            longer than a fragment of 64 KiB; buffers are touched beforehand. An exclusive publication \
            for each direction of each client; terms of 4 MiB, or of eight messages where that is \
            more; with many clients terms of 64 KiB, where a message has 8 KiB at most.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn({
            let (stop, setup) = (Arc::clone(&stop), setup.clone());
            move || {
                if let Err(error) = serve(&setup, &stop, &ready) {
                    eprintln!("{error:#}");
                    // Nobody hears it once all is well.
                    let _ = ready.send(Err(error));
                }
            }
        });
        is_ready.recv().context("the server did not start")??;
        Ok(Box::new(Server {
            stop,
            thread: Some(thread),
        }))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let aeron = client(setup)?;
        let channel = channel(setup);
        let mut lanes = Vec::with_capacity(setup.own);
        for number in setup.first..setup.first + setup.own {
            let stream = REPLIES + number as i32 * 256 + generation();
            let replies = aeron
                .async_add_subscription(&channel, stream, Handlers::NONE, Handlers::NONE)
                .map_err(failed)?
                .poll_blocking(PATIENCE)
                .map_err(failed)?;
            let requests = aeron
                .async_add_exclusive_publication(&channel, REQUESTS)
                .map_err(failed)?
                .poll_blocking(PATIENCE)
                .map_err(failed)?;
            let assembler = AeronFragmentClosureAssembler::new().map_err(failed)?;
            wait_until("the server subscribes", || requests.is_connected())?;
            // The first message says where the replies go.
            send(&requests, &stream.to_le_bytes())?;
            lanes.push(AeronLane {
                requests,
                replies,
                assembler,
            });
        }
        for lane in &lanes {
            wait_until("the server replies", || lane.replies.is_connected())?;
        }
        Ok(AeronClients { lanes })
    }
}

/// The server's thread, ended on drop.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has to say, it has said.
            let _ = thread.join();
        }
    }
}

fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("Aeron: {error:?}")
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "Aeron: waited in vain until {what}"
        );
        thread::yield_now();
    }
    Ok(())
}

fn directory(setup: &Setup) -> CString {
    let place = setup.place.join("aeron");
    format!("{}", place.display()).into_c_string()
}

fn channel(setup: &Setup) -> CString {
    let least = if setup.connections == 1 {
        TERM
    } else {
        SMALLEST_TERM
    };
    let term = (setup.longest * MESSAGES_PER_TERM).next_power_of_two();
    let term = term.max(least);
    format!("aeron:ipc?term-length={term}|mtu={LONGEST_FRAGMENT}").into_c_string()
}

fn client(setup: &Setup) -> Result<Aeron> {
    let context = AeronContext::new().map_err(failed)?;
    context.set_dir(&directory(setup)).map_err(failed)?;
    context.set_pre_touch_mapped_memory(true).map_err(failed)?;
    context
        .set_error_handler(Some(|code: i32, message: &str| {
            eprintln!("Aeron: {code}: {message}");
        }))
        .map_err(failed)?;
    let aeron = Aeron::new(&context).map_err(failed)?;
    aeron.start().map_err(failed)?;
    Ok(aeron)
}

fn serve(setup: &Setup, stop: &AtomicBool, ready: &mpsc::Sender<Result<()>>) -> Result<()> {
    let directory = directory(setup);
    let _driver = EmbeddedDriver::launch_with(|context| {
        context.set_dir(&directory)?;
        context.set_threading_mode(aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED)?;
        context.set_shared_idle_strategy_kind(AeronIdleStrategyKind::Backoff)?;
        context.set_term_buffer_sparse_file(false)?;
        Ok(())
    })
    .map_err(failed)?;
    let aeron = client(setup)?;
    let channel = channel(setup);
    let requests = aeron
        .async_add_subscription(&channel, REQUESTS, Handlers::NONE, Handlers::NONE)
        .map_err(failed)?
        .poll_blocking(PATIENCE)
        .map_err(failed)?;
    ready.send(Ok(()))?;
    let mut assembler = AeronFragmentClosureAssembler::new().map_err(failed)?;
    let mut clients = ServedClients::default();
    while !stop.load(Ordering::Relaxed) {
        assembler
            .poll(&requests, &mut clients, ServedClients::take, FRAGMENTS)
            .map_err(failed)?;
        for (session, stream) in std::mem::take(&mut clients.new) {
            let replies = aeron
                .async_add_exclusive_publication(&channel, stream)
                .map_err(failed)?
                .poll_blocking(PATIENCE)
                .map_err(failed)?;
            clients.replies.insert(session, replies);
        }
        if let Some(error) = clients.failure.take() {
            return Err(error);
        }
    }
    Ok(())
}

/// The clients that the server knows.
#[derive(Default)]
struct ServedClients {
    /// Where replies go, by the session that requests come in.
    replies: HashMap<i32, AeronExclusivePublication>,
    /// Sessions that have just said where.
    new: Vec<(i32, i32)>,
    failure: Option<anyhow::Error>,
}

impl ServedClients {
    fn take(&mut self, message: &[u8], header: AeronHeader) {
        let outcome = self.answer(message, &header);
        self.failure = self.failure.take().or(outcome.err());
    }

    fn answer(&mut self, message: &[u8], header: &AeronHeader) -> Result<()> {
        let session = header.session_id().context("a message without a session")?;
        match self.replies.get(&session) {
            // A client that has left waits for nothing.
            Some(replies) => match send(replies, message) {
                Err(_) if !replies.is_connected() => Ok(()),
                outcome => outcome,
            },
            None => {
                let stream = message.try_into().context("a greeting of another length")?;
                self.new.push((session, i32::from_le_bytes(stream)));
                Ok(())
            }
        }
    }
}

/// Sends, and spins while there is no room.
#[inline]
fn send(publication: &AeronExclusivePublication, message: &[u8]) -> Result<()> {
    let mut stuck = None;
    loop {
        let sent = if message.len() <= LONGEST_FRAGMENT - 32 {
            match publication.try_claim_owned(message.len()) {
                Ok(mut claim) => {
                    claim.data().copy_from_slice(message);
                    claim.commit().map_err(failed)?;
                    return Ok(());
                }
                Err(error) => Err(error),
            }
        } else {
            publication.offer(message).map(drop)
        };
        match sent {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() => {
                let since = *stuck.get_or_insert_with(Instant::now);
                if since.elapsed() > STUCK || !publication.is_connected() {
                    bail!("Aeron: cannot send: {error}");
                }
                std::hint::spin_loop();
            }
            Err(error) => bail!("Aeron: cannot send: {error}"),
        }
    }
}

/// Counts this process's connections.
fn generation() -> i32 {
    static NEXT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) & 0xff
}

/// A publication there and a subscription back.
pub struct AeronLane {
    requests: AeronExclusivePublication,
    replies: AeronSubscription,
    assembler: AeronFragmentClosureAssembler,
}

/// The publications and subscriptions of one process.
pub struct AeronClients {
    lanes: Vec<AeronLane>,
}

impl Clients for AeronClients {
    fn greet(&mut self) -> Result<()> {
        self.lanes.iter_mut().try_for_each(blocking::greet)
    }

    fn round_trips(&mut self, size: usize, budget: Budget) -> Result<Latency> {
        blocking::round_trips(&mut self.lanes[0], size, budget)
    }

    /// As [`blocking::pipelined`], but takes as many replies at a time as there are.
    fn pipelined(&mut self, size: usize, window: usize, budget: Budget) -> Result<Throughput> {
        let mut requests = Requests::new(size, 0);
        let lane = RefCell::new(&mut self.lanes[0]);
        let replies = RefCell::new(Replies {
            expected: requests.expected(),
            in_flight: 0,
            failure: None,
        });
        let take_down_to = |left: usize| {
            let (lane, replies) = (&mut **lane.borrow_mut(), &mut *replies.borrow_mut());
            while replies.in_flight > left {
                lane.assembler
                    .poll(&lane.replies, replies, Replies::take, FRAGMENTS)
                    .map_err(failed)?;
            }
            replies.failure.take().map_or(Ok(()), Err)
        };
        throughput(
            budget,
            size,
            |count| {
                for _ in 0..count {
                    if replies.borrow().in_flight >= window {
                        take_down_to(window / 2)?;
                    }
                    lane.borrow_mut().submit(requests.next())?;
                    replies.borrow_mut().in_flight += 1;
                }
                Ok(())
            },
            |_| take_down_to(0),
        )
    }

    fn crowd(&mut self, size: usize, time: &CrowdTime) -> Result<Tally> {
        blocking::crowd(&mut self.lanes, size, time)
    }
}

/// Replies that are due.
struct Replies {
    expected: Expected,
    in_flight: usize,
    failure: Option<anyhow::Error>,
}

impl Replies {
    fn take(&mut self, message: &[u8], _: AeronHeader) {
        let outcome = self.expected.check(message);
        self.failure = self.failure.take().or(outcome.err());
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

/// A check that has not been made yet, and what came of it.
struct Check<F> {
    check: Option<F>,
    outcome: Option<Result<()>>,
}

impl Lane for AeronLane {
    #[inline]
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        send(&self.requests, request)
    }

    #[inline]
    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let mut check = Check {
            check: Some(check),
            outcome: None,
        };
        loop {
            self.assembler
                .poll(&self.replies, &mut check, Check::reply, 1)
                .map_err(failed)?;
            if let Some(outcome) = check.outcome.take() {
                return outcome;
            }
            std::hint::spin_loop();
        }
    }
}

impl<F: FnOnce(&[u8]) -> Result<()>> Check<F> {
    fn reply(&mut self, message: &[u8], _: AeronHeader) {
        if let Some(check) = self.check.take() {
            self.outcome = Some(check(message));
        }
    }
}
