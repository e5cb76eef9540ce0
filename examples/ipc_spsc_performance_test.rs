//! How fast messages go over a connection: within a thread, between threads, between processes.
//!
//! ```console
//! $ cargo run --release --example ipc_spsc_performance_test [-- --json] [--shared-machine]
//! ```
//!
//! Every message is 64 bytes, filled by the sender with words that depend on its number and
//! compared word by word by the receiver; both are part of the measured time. A rate counts from
//! before the first send to the receiver's word that everything arrived as it was. A round trip is
//! complete: send, receive, check and send back over there, receive and check here.
//!
//! The same messages go over a Unix socket (Windows: a named pipe), one write for each: what one
//! would use otherwise.
//!
//! Exit code 1: fewer messages per second between processes than `thresholds.json` requires, fewer
//! times the socket's, or data that did not arrive intact. Exit code 2: wrong arguments, or the test
//! could not run.

mod gate;

use gate::{Options, Reached, SOCKET};
use hdrhistogram::Histogram;
use nearwire::{ClientBuilder, Connection, Listener, Spin};
use std::error::Error;
use std::fmt::Write;
use std::io::{Read, Write as _};
#[cfg(not(unix))]
use std::process::Stdio;
use std::process::{Child, Command, ExitCode};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a message.
const LEN: usize = 64;

const RUNS: usize = 5;

/// What one run of a rate should take.
const RUN_TIME: Duration = Duration::from_millis(300);

/// What a measurement of round trips takes.
const ROUND_TRIPS_TIME: Duration = Duration::from_millis(1500);

const BATCH: usize = 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["--far-side", name, spin] => far_side(name, spin).map(|()| true),
        [FAR_SIDE_OF_SOCKET] => far_side_of_socket().map(|()| true),
        _ => match Options::parse(&args) {
            Ok(options) => measure().map(|results| results.print(&options)),
            Err(error) => {
                let usage = gate::USAGE;
                eprintln!("error: {error}\nusage: ipc_spsc_performance_test {usage}");
                return ExitCode::from(2);
            }
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ipc_spsc_performance_test: {error}");
            ExitCode::from(if error.is::<Damaged>() { 1 } else { 2 })
        }
    }
}

/// Messages that did not arrive as they were sent.
#[derive(Debug)]
struct Damaged(u64);

impl Error for Damaged {}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} messages were lost, doubled or damaged", self.0)
    }
}

// ---- what both sides agree on -------------------------------------------------------------------

/// Word `at` of message `number`.
fn word(number: u64, at: usize) -> u64 {
    (number ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(2 * at as u64 + 1)
}

fn fill(message: &mut [u8; LEN], number: u64) {
    for (at, bytes) in message.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = word(number, at).to_le_bytes();
    }
}

fn is_intact(message: &[u8], number: u64) -> bool {
    let words = message.as_chunks::<8>().0.iter().enumerate();
    message.len() == LEN
        && words.fold(true, |intact, (at, bytes)| {
            intact & (*bytes == word(number, at).to_le_bytes())
        })
}

/// What the far side is to do next: receive `count` messages one by one or in batches and answer
/// with the number of damaged ones, or send `count` messages back.
#[derive(Clone, Copy)]
enum Order {
    TakeSingly,
    TakeBatches,
    SendBack,
}

fn order(connection: &mut Connection, order: Order, count: u64) -> nearwire::Result<()> {
    let mut message = vec![order as u8];
    message.extend_from_slice(&count.to_le_bytes());
    connection.send(&message)
}

/// Follows orders until the near side has finished.
fn follow(mut connection: Connection) -> Outcome<()> {
    let mut message = Vec::new();
    while connection.recv(&mut message)? {
        let (what, count) = (message[0], u64::from_le_bytes(message[1..9].try_into()?));
        let mut damaged = 0_u64;
        let mut number = 0;
        while number < count {
            if what == Order::TakeBatches as u8 {
                let most = (count - number).min(256) as usize;
                let taken = connection.recv_batch(most, |message| {
                    damaged += u64::from(!is_intact(message, number));
                    number += 1;
                })?;
                if taken == 0 {
                    return Err("the near side finished too early".into());
                }
                continue;
            }
            if !connection.recv(&mut message)? {
                return Err("the near side finished too early".into());
            }
            damaged += u64::from(!is_intact(&message, number));
            number += 1;
            if what == Order::SendBack as u8 {
                connection.send(&message)?;
            }
        }
        connection.send(&damaged.to_le_bytes())?;
    }
    Ok(())
}

fn far_side(name: &str, spin: &str) -> Outcome<()> {
    let spin = match spin {
        "sleep" => Spin::NEVER,
        _ => Spin::default(),
    };
    follow(
        ClientBuilder::new()
            .spin(spin)
            .connect_messages_blocking(name)?,
    )
}

// ---- the near side ------------------------------------------------------------------------------

/// Who is at the other end.
enum Far {
    Thread(Option<JoinHandle<Result<(), String>>>),
    Process(Child),
}

/// A connection to somebody who follows orders.
struct Pair {
    near: Option<Connection>,
    far: Far,
}

impl Pair {
    fn threads(name: &str) -> Outcome<Self> {
        let listener = Listener::bind(name)?;
        let far = Connection::connect(name)?;
        let thread = std::thread::spawn(|| follow(far).map_err(|error| error.to_string()));
        Ok(Self {
            near: Some(listener.accept()?),
            far: Far::Thread(Some(thread)),
        })
    }

    fn processes(name: &str, spin: Spin) -> Outcome<Self> {
        let listener = Listener::builder().spin(spin).bind(name)?;
        let kind = if spin == Spin::NEVER { "sleep" } else { "spin" };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--far-side", name, kind])
            .spawn()?;
        let Some(near) = listener.accept_timeout(Duration::from_secs(10))? else {
            let _ = child.kill();
            let _ = child.wait();
            return Err("the other process did not connect".into());
        };
        Ok(Self {
            near: Some(near),
            far: Far::Process(child),
        })
    }

    fn near(&mut self) -> &mut Connection {
        self.near.as_mut().expect("until the end")
    }

    /// Sends `count` messages. Returns how long it took until the far side had them all.
    fn send(&mut self, batches: bool, count: u64) -> Outcome<Duration> {
        let near = self.near();
        let what = match batches {
            true => Order::TakeBatches,
            false => Order::TakeSingly,
        };
        order(near, what, count)?;
        let start = Instant::now();
        if batches {
            let mut batch = [[0; LEN]; BATCH];
            for first in (0..count).step_by(BATCH) {
                let len = BATCH.min((count - first) as usize);
                for (message, number) in batch[..len].iter_mut().zip(first..) {
                    fill(message, number);
                }
                near.send_batch(&batch[..len])?;
            }
        } else {
            let mut message = [0; LEN];
            for number in 0..count {
                fill(&mut message, number);
                near.send(&message)?;
            }
        }
        self.expect_intact()?;
        Ok(start.elapsed())
    }

    /// Complete round trips.
    fn round_trips(&mut self, what: &'static str) -> Outcome<RoundTrips> {
        const PER_ORDER: u64 = 1000;
        let mut histogram = Histogram::new(3)?;
        let mut answer = Vec::new();
        let end = Instant::now() + ROUND_TRIPS_TIME;
        // Not counted: the first thousand find their way.
        let mut counted = false;
        let mut sleeps_before = 0;
        while Instant::now() < end {
            let near = self.near();
            order(near, Order::SendBack, PER_ORDER)?;
            let mut message = [0; LEN];
            for number in 0..PER_ORDER {
                fill(&mut message, number);
                let start = Instant::now();
                near.send(&message)?;
                let here = near.recv(&mut answer)?;
                let took = start.elapsed();
                if !here || !is_intact(&answer, number) {
                    return Err(Damaged(1).into());
                }
                if counted {
                    histogram.record(took.as_nanos() as u64)?;
                }
            }
            self.expect_intact()?;
            if !counted {
                counted = true;
                sleeps_before = self.near().wait_stats().sleeps;
            }
        }
        Ok(RoundTrips {
            what,
            sleeps: self.near().wait_stats().sleeps - sleeps_before,
            ns: histogram,
        })
    }

    fn expect_intact(&mut self) -> Outcome<()> {
        let mut answer = Vec::new();
        if !self.near().recv(&mut answer)? {
            return Err("the far side finished too early".into());
        }
        match u64::from_le_bytes(answer[..].try_into()?) {
            0 => Ok(()),
            damaged => Err(Damaged(damaged).into()),
        }
    }

    fn end(mut self) -> Outcome<()> {
        self.near = None;
        match &mut self.far {
            Far::Thread(thread) => match thread.take().map(JoinHandle::join) {
                Some(Ok(ended)) => Ok(ended?),
                _ => Err("the other thread panicked".into()),
            },
            Far::Process(child) => match child.wait()? {
                status if status.success() => Ok(()),
                status => Err(format!("the other process failed: {status}").into()),
            },
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Far::Process(child) = &mut self.far {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The argument that makes this executable the far side of a socket.
const FAR_SIDE_OF_SOCKET: &str = "--far-side-of-socket";

/// A process at the other end of a socket, which is its standard input and output.
struct Socket {
    child: Child,
    to_child: Box<dyn std::io::Write>,
    from_child: Box<dyn Read>,
}

impl Socket {
    fn open() -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(FAR_SIDE_OF_SOCKET);
        #[cfg(unix)]
        {
            use std::os::{fd::OwnedFd, unix::net::UnixStream};
            let (near, far) = UnixStream::pair()?;
            command.stdin(OwnedFd::from(far.try_clone()?));
            command.stdout(OwnedFd::from(far));
            Ok(Self {
                child: command.spawn()?,
                from_child: Box::new(near.try_clone()?),
                to_child: Box::new(near),
            })
        }
        // What the standard library makes for a child's input is a named pipe.
        #[cfg(not(unix))]
        {
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            Ok(Self {
                to_child: Box::new(child.stdin.take().expect("it is piped")),
                from_child: Box::new(child.stdout.take().expect("it is piped")),
                child,
            })
        }
    }

    /// Sends `count` messages, one by one. Returns how long it took until the far side had them all.
    fn send(&mut self, count: u64) -> Outcome<Duration> {
        self.to_child.write_all(&count.to_le_bytes())?;
        let start = Instant::now();
        let mut message = [0; LEN];
        for number in 0..count {
            fill(&mut message, number);
            self.to_child.write_all(&message)?;
        }
        let mut answer = [0; 8];
        self.from_child.read_exact(&mut answer)?;
        match u64::from_le_bytes(answer) {
            0 => Ok(start.elapsed()),
            damaged => Err(Damaged(damaged).into()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Receives as often as there is a count, and answers with the number of damaged messages.
fn far_side_of_socket() -> Outcome<()> {
    let mut input = std::io::BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let mut output = std::io::stdout().lock();
    let mut count = [0; 8];
    while input.read_exact(&mut count).is_ok() {
        let mut damaged = 0_u64;
        let mut message = [0; LEN];
        for number in 0..u64::from_le_bytes(count) {
            input.read_exact(&mut message)?;
            damaged += u64::from(!is_intact(&message, number));
        }
        output.write_all(&damaged.to_le_bytes())?;
        output.flush()?;
    }
    Ok(())
}

/// Both ends in one thread: fill, send, receive, check, one message after the other.
fn send_and_receive(near: &mut Connection, far: &mut Connection, count: u64) -> Outcome<Duration> {
    let (mut message, mut received) = ([0; LEN], Vec::new());
    let mut damaged = 0;
    let start = Instant::now();
    for number in 0..count {
        fill(&mut message, number);
        near.send(&message)?;
        far.recv(&mut received)?;
        damaged += u64::from(!is_intact(&received, number));
    }
    let took = start.elapsed();
    match damaged {
        0 => Ok(took),
        damaged => Err(Damaged(damaged).into()),
    }
}

// ---- measuring and reporting --------------------------------------------------------------------

/// Messages per second, of several runs.
struct Rate {
    what: &'static str,
    sorted: Vec<f64>,
}

impl Rate {
    fn of(what: &'static str, mut run: impl FnMut(u64) -> Outcome<Duration>) -> Outcome<Self> {
        // How many messages a run takes.
        let mut count = 1000;
        loop {
            let took = run(count)?;
            if took * 4 >= RUN_TIME {
                let longer = RUN_TIME.as_secs_f64() / took.as_secs_f64();
                count = (count as f64 * longer) as u64;
                break;
            }
            count *= 4;
        }
        let mut sorted = Vec::new();
        for _ in 0..RUNS {
            sorted.push(count as f64 / run(count)?.as_secs_f64());
        }
        sorted.sort_by(f64::total_cmp);
        Ok(Self { what, sorted })
    }

    fn median(&self) -> f64 {
        self.sorted[self.sorted.len() / 2]
    }
}

/// Complete round trips.
struct RoundTrips {
    what: &'static str,
    ns: Histogram<u64>,
    /// How often the near side slept.
    sleeps: u64,
}

impl RoundTrips {
    /// Of a hundred round trips, in how many the near side slept.
    fn slept(&self) -> f64 {
        100.0 * self.sleeps as f64 / self.ns.len().max(1) as f64
    }
}

struct Results {
    rates: Vec<Rate>,
    /// Which of the rates decides.
    decisive: usize,
    /// Which of them it is compared with.
    socket: usize,
    round_trips: Vec<RoundTrips>,
    /// What reading the clock costs, in ns; part of every round trip.
    clock: f64,
}

fn measure() -> Outcome<Results> {
    let name = format!("spsc-test-{}", std::process::id());
    let mut rates = Vec::new();
    let mut round_trips = Vec::new();

    {
        let listener = Listener::bind(&name)?;
        let mut far = Connection::connect(&name)?;
        let mut near = listener.accept()?;
        rates.push(Rate::of("one thread, send and receive in turn", |count| {
            send_and_receive(&mut near, &mut far, count)
        })?);
    }

    let mut pair = Pair::threads(&name)?;
    rates.push(Rate::of("two threads, published one by one", |count| {
        pair.send(false, count)
    })?);
    rates.push(Rate::of("two threads, batches of 16", |count| {
        pair.send(true, count)
    })?);
    round_trips.push(pair.round_trips("two threads, adaptive spin")?);
    pair.end()?;

    let mut pair = Pair::processes(&name, Spin::default())?;
    let decisive = rates.len();
    rates.push(Rate::of("two processes, published one by one", |count| {
        pair.send(false, count)
    })?);
    rates.push(Rate::of("two processes, batches of 16", |count| {
        pair.send(true, count)
    })?);
    round_trips.push(pair.round_trips("two processes, adaptive spin")?);
    pair.end()?;

    let mut over = Socket::open()?;
    let socket = rates.len();
    let what = match SOCKET {
        "named pipe" => "two processes, named pipe, one by one",
        _ => "two processes, Unix socket, one by one",
    };
    rates.push(Rate::of(what, |count| over.send(count))?);
    drop(over);

    let mut pair = Pair::processes(&name, Spin::NEVER)?;
    round_trips.push(pair.round_trips("two processes, never spinning")?);
    pair.end()?;

    const READINGS: u32 = 100_000;
    let start = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    let clock = start.elapsed().as_nanos() as f64 / f64::from(READINGS);
    Ok(Results {
        rates,
        decisive,
        socket,
        round_trips,
        clock,
    })
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Results {
    /// Prints everything. Returns whether it was enough.
    fn print(&self, options: &Options) -> bool {
        let text = match options.json {
            true => self.json(),
            false => self.table(),
        };
        // Whoever closed the output has seen enough; the verdict stands all the same.
        let _ = std::io::stdout().write_all(text.unwrap_or_default().as_bytes());
        let rate = self.rates[self.decisive].median();
        let reached = Reached {
            what: "two processes, one by one".into(),
            messages_per_second: rate,
            times_socket: Some(rate / self.rates[self.socket].median()),
            required: options.messages(),
        };
        options.judge("Messages between two processes", &[reached])
    }

    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(
            out,
            "messages of {LEN} bytes, filled and checked; {processors} processors, not pinned"
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "M msg/s, of {RUNS} runs{:>25} {:>9} {:>9}",
            "median", "slowest", "fastest"
        )?;
        for rate in &self.rates {
            let (first, last) = (rate.sorted[0], rate.sorted[RUNS - 1]);
            let [median, first, last] = [rate.median(), first, last].map(|r| r / 1e6);
            writeln!(
                out,
                "  {:<38} {median:>8.2} {first:>9.2} {last:>9.2}",
                rate.what
            )?;
        }
        writeln!(out)?;
        write!(out, "complete round trips, ns{:>15}", "")?;
        for (name, _) in QUANTILES {
            write!(out, " {name:>9}")?;
        }
        writeln!(out, " {:>9} {:>9} {:>7}", "max", "count", "slept")?;
        for trips in &self.round_trips {
            write!(out, "  {:<36}", trips.what)?;
            for (_, quantile) in QUANTILES {
                write!(out, " {:>9}", trips.ns.value_at_quantile(quantile))?;
            }
            let (max, count) = (trips.ns.max(), trips.ns.len());
            writeln!(out, " {max:>9} {count:>9} {:>6.1}%", trips.slept())?;
        }
        writeln!(
            out,
            "  one reading of the clock, {:.0} ns, is part of each",
            self.clock
        )?;
        writeln!(
            out,
            "  slept: this side was woken by the kernel; spinning needs a core for each side"
        )?;
        Ok(out)
    }

    fn json(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::from("{\"message_bytes\":64,\"messages_per_second\":[");
        for (at, rate) in self.rates.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (what, median) = (rate.what, rate.median());
            write!(
                out,
                "{comma}{{\"what\":\"{what}\",\"median\":{median:.0},\"runs\":["
            )?;
            for (at, run) in rate.sorted.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                write!(out, "{comma}{run:.0}")?;
            }
            out.push_str("]}");
        }
        out.push_str("],\"round_trip_ns\":[");
        for (at, trips) in self.round_trips.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{{\"what\":\"{}\"", trips.what)?;
            for (name, quantile) in QUANTILES {
                write!(out, ",\"{name}\":{}", trips.ns.value_at_quantile(quantile))?;
            }
            let (max, count, slept) = (trips.ns.max(), trips.ns.len(), trips.slept());
            write!(
                out,
                ",\"max\":{max},\"count\":{count},\"slept_percent\":{slept:.1}}}"
            )?;
        }
        writeln!(out, "],\"clock_ns\":{:.1}}}", self.clock)?;
        Ok(out)
    }
}
