//! A client process that calls in every way, and writes down what it was told.

use crate::ledger::{Pen, What};
use crate::server::{NAME, reply, request};
use crate::support::child::{Commands, Settings, say};
use nearwire::{BlockingClient, Client, CloseReason, Error, Pool};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How a caller calls.
pub const KINDS: [&str; 3] = ["async", "blocking", "pool"];

/// The caller's number in a call's.
pub fn caller_of(call: u64) -> u64 {
    call >> 40
}

/// What all threads and tasks of a caller share.
struct Caller {
    pen: Pen,
    next: AtomicU64,
    stop: AtomicBool,
    /// How long connecting took at most, if it failed or not, in microseconds.
    slowest_connect: AtomicU64,
}

impl Caller {
    /// A number for a call that is about to be made.
    fn begin(&self) -> u64 {
        let call = self.next.fetch_add(1, Relaxed);
        self.pen.write(call, What::Begun);
        call
    }

    /// What a call came to. A reply was compared before. Returns whether to go on.
    fn told<T>(&self, call: u64, outcome: &Result<T, Error>) -> bool {
        self.pen.write(call, What::told(outcome));
        let Err(error) = outcome else { return true };
        // Nothing else can go wrong in these tests.
        match error {
            Error::Closed { reason, .. } => assert!(
                matches!(
                    reason,
                    CloseReason::PeerGone
                        | CloseReason::Drained
                        | CloseReason::Finished
                        | CloseReason::PeerSays(_)
                ),
                "{error}"
            ),
            Error::Status(status) => {
                use nearwire::Code;
                let known = [Code::DRAINING, Code::CANCELLED, Code::DEADLINE_EXCEEDED];
                assert!(known.contains(&status.code), "{error}");
            }
            Error::DeadlineExceeded => return true,
            Error::NoConnection { .. } => {}
            other => panic!("{other:?}"),
        }
        false
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// Notes how long an attempt to connect took. Pauses if it failed.
    fn connected<T>(&self, began: Instant, outcome: Result<T, Error>) -> Option<T> {
        let took = began.elapsed().as_micros() as u64;
        self.slowest_connect.fetch_max(took, Relaxed);
        match outcome {
            Ok(client) => Some(client),
            // No server, one that dies, one that shuts down.
            Err(Error::NoServer { .. } | Error::Handshake(_) | Error::Io { .. }) => None,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Calls from "go" to "rest". Settings: `ledger`, `number`, `kind`, `hang` (begin with a call that
/// is never answered).
pub fn run(settings: &Settings, commands: Commands) {
    // A panic in any thread ends the process, which waits for commands.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::exit(1);
    }));
    let number = settings.number("number").unwrap() as u64;
    let caller = Arc::new(Caller {
        pen: Pen::open(Path::new(settings.text("ledger").unwrap())),
        next: AtomicU64::new(number << 40),
        stop: AtomicBool::new(false),
        slowest_connect: AtomicU64::new(0),
    });
    let kind = settings.text("kind").unwrap().to_owned();
    let hang = settings.has("hang");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_keep_alive(Duration::from_millis(5))
        .build()
        .unwrap();
    say("ready");
    loop {
        assert_eq!(commands.next(), "go");
        caller.stop.store(false, Relaxed);
        let calling = {
            let (caller, kind, handle) = (caller.clone(), kind.clone(), runtime.handle().clone());
            std::thread::spawn(move || match &*kind {
                "async" => handle.block_on(multiplexed(&caller, number, hang)),
                "blocking" => blocking(&caller, number),
                _ => handle.block_on(pooled(&caller, number)),
            })
        };
        assert_eq!(commands.next(), "rest");
        caller.stop.store(true, Relaxed);
        calling.join().unwrap();
        let calls = caller.next.load(Relaxed) - (number << 40);
        let slowest = caller.slowest_connect.load(Relaxed);
        say(format!("calls={calls} slowest_connect_us={slowest}"));
    }
}

/// Sizes and choices.
struct Dice(fastrand::Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn len(&mut self) -> usize {
        match self.0.u32(0..100) {
            0..90 => self.0.usize(0..1000),
            90..98 => self.0.usize(1000..30_000),
            _ => self.0.usize(30_000..400_000),
        }
    }
}

async fn pause(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_micros(dice.0.u64(0..1500))).await;
}

/// Async clients, one after the other, with a few tasks each.
async fn multiplexed(caller: &Arc<Caller>, number: u64, hang: bool) {
    let mut dice = Dice::new(number);
    while caller.goes_on() {
        let began = Instant::now();
        let Some(client) = caller.connected(began, Client::connect(NAME).await) else {
            pause(&mut dice).await;
            continue;
        };
        let stays = dice.0.bool();
        let tasks: Vec<_> = (0..dice.0.u64(1..6))
            .map(|task| {
                let (caller, client) = (caller.clone(), client.clone());
                let dice = Dice::new(dice.0.u64(..));
                tokio::spawn(call_in_turns(
                    caller,
                    client,
                    dice,
                    stays,
                    hang && task == 0,
                ))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(client.in_flight(), 0);
    }
}

/// One call after another, until the server is gone or, if it is not to stay, some are made.
async fn call_in_turns(
    caller: Arc<Caller>,
    client: Client,
    mut dice: Dice,
    stays: bool,
    hang: bool,
) {
    let mut left = if stays { u32::MAX } else { dice.0.u32(1..20) };
    if hang {
        let call = caller.begin();
        let ended = client.call_bytes("hang", &request(call, 0, 10)).await;
        caller.told(call, &ended);
        return;
    }
    while left > 0 && caller.goes_on() {
        left -= 1;
        let call = caller.begin();
        let len = dice.len();
        let outcome = match dice.0.u32(0..8) {
            kind @ 0..4 => {
                let method = ["sync", "later"][kind as usize % 2];
                let bytes = request(call, len, dice.len());
                let ended = client.call_bytes(method, &bytes).await;
                ended.map(|answer| assert!(answer == reply(call, len), "a wrong reply"))
            }
            4 => stream(&client, call, len).await,
            5 => upload(&client, call, len).await,
            6 => chat(&client, call, len).await,
            _ => {
                // Given up, by a deadline or by dropping it.
                let bytes = request(call, 0, len);
                let time = Duration::from_micros(dice.0.u64(0..2000));
                let ending = client.call_bytes("hang", &bytes);
                if dice.0.bool() {
                    ending.deadline(time).await.map(drop)
                } else {
                    let ended = tokio::time::timeout(time, ending).await;
                    ended.unwrap_or(Err(Error::DeadlineExceeded)).map(drop)
                }
            }
        };
        if !caller.told(call, &outcome) {
            return;
        }
        pause(&mut dice).await;
    }
}

async fn stream(client: &Client, call: u64, len: usize) -> Result<(), Error> {
    let mut items = client.stream_bytes("stream", &request(call, len, 0));
    let mut got = Vec::new();
    while let Some(item) = items.next().await {
        got.extend(item?);
    }
    assert!(got == reply(call, len), "a wrong stream");
    Ok(())
}

async fn upload(client: &Client, call: u64, len: usize) -> Result<(), Error> {
    let mut upload = client.client_stream_bytes("upload", &request(call, len, 0));
    for piece in reply(call, len).chunks(700) {
        upload.send(piece).await?;
    }
    let answer = upload.finish().await?;
    assert!(answer == reply(call, len), "a wrong reply to an upload");
    Ok(())
}

async fn chat(client: &Client, call: u64, len: usize) -> Result<(), Error> {
    let (mut sink, mut items) = client.bidirectional_bytes("chat", &request(call, 0, 0));
    let sent = reply(call, len);
    let talk = async {
        for piece in sent.chunks(900) {
            // What became of the call, the other direction says.
            if sink.send(piece).await.is_err() {
                return;
            }
        }
        let _ = sink.finish().await;
    };
    let listen = async {
        let mut got = Vec::new();
        while let Some(item) = items.next().await {
            got.extend(item?);
        }
        Ok(got)
    };
    let ((), got) = tokio::join!(talk, listen);
    got.map(|got| assert!(got == sent, "a wrong chat"))
}

/// Blocking clients, one after the other: single calls, then a pipeline.
fn blocking(caller: &Caller, number: u64) {
    let mut dice = Dice::new(number);
    while caller.goes_on() {
        let began = Instant::now();
        let Some(mut client) = caller.connected(began, BlockingClient::connect(NAME)) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let mut left = dice.0.u32(1..200);
        while left > 0 && caller.goes_on() {
            left -= 1;
            let went_well = match dice.0.u32(0..10) {
                0 => pipeline(caller, &mut client, &mut dice),
                1 => {
                    let (call, len) = (caller.begin(), dice.len());
                    let time = Duration::from_micros(dice.0.u64(1..2000));
                    let bytes = request(call, 0, len);
                    let ended = client.call_bytes_timeout("hang", &bytes, time);
                    caller.told(call, &ended)
                }
                kind => {
                    let (call, len) = (caller.begin(), dice.len());
                    let method = ["sync", "later"][kind as usize % 2];
                    let ended = client.call_bytes(method, &request(call, len, dice.len()));
                    let ended = ended.map(|answer| assert!(answer == reply(call, len)));
                    caller.told(call, &ended)
                }
            };
            if !went_well {
                break;
            }
            std::thread::sleep(Duration::from_micros(dice.0.u64(0..1000)));
        }
    }
}

fn pipeline(caller: &Caller, client: &mut BlockingClient, dice: &mut Dice) -> bool {
    let method = client.method("sync").unwrap();
    let mut pipeline = client.pipeline();
    let mut waiting = HashMap::new();
    let mut outcome = Ok(());
    for _ in 0..dice.0.usize(1..40) {
        let (call, len) = (caller.begin(), dice.len());
        match pipeline.submit(method, &request(call, len, dice.len())) {
            Ok(id) => drop(waiting.insert(id, (call, len))),
            Err(error) => {
                outcome = Err(error);
                caller.told(call, &outcome);
                break;
            }
        }
    }
    while outcome.is_ok() && !waiting.is_empty() {
        let taken = pipeline.next(|id, answer| {
            let (call, len) = waiting.remove(&id).expect("one reply to each");
            let answer = answer.map_err(Error::from);
            let answer = answer.map(|answer| assert!(answer == reply(call, len)));
            caller.told(call, &answer)
        });
        match taken {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the pipeline is empty and {waiting:?} are missing"),
            Err(error) => outcome = Err(error),
        }
    }
    // What was in flight.
    for (call, _) in waiting.into_values() {
        caller.pen.write(call, What::Maybe);
    }
    outcome.is_ok()
}

/// A pool that finds the next server by itself.
async fn pooled(caller: &Arc<Caller>, number: u64) {
    let mut dice = Dice::new(number);
    let pool = Pool::builder()
        .acquire_timeout(Duration::from_millis(50))
        .build(NAME)
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (caller, pool, mut dice) =
                (caller.clone(), pool.clone(), Dice::new(dice.0.u64(..)));
            tokio::spawn(async move {
                while caller.goes_on() {
                    let (call, len) = (caller.begin(), dice.len());
                    let method = ["sync", "later"][dice.0.usize(0..2)];
                    let bytes = request(call, len, dice.len());
                    let ended = pool.call_bytes(method, &bytes).await;
                    let ended = ended.map(|answer| assert!(answer == reply(call, len)));
                    caller.told(call, &ended);
                    pause(&mut dice).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
