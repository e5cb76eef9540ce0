//! A client process: one connection after another, of every kind, until it is told to stop.

use crate::heap;
use crate::payload::{HEAD, ITEM_HEAD, Request, is_item, item};
use crate::server::{BYTES, CALLS, MESSAGES, PATIENCE};
use crate::support::child::{Commands, Settings, say};
use nearwire::{Client, ClientBuilder, Code, Error};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is counted; each must happen.
pub const KINDS: &[&str] = &[
    "sync", "into", "later", "note", "empty", "given_up", "stream", "upload", "chat", "piped",
    "messages", "bytes", "lives",
];

/// How often each happened.
#[derive(Debug, Default)]
struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    fn add(&self, kind: &'static str) {
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
    }
}

/// Sizes and choices.
struct Dice(fastrand::Rng);

impl Dice {
    /// Bytes of a message: mostly few, now and then several MiB.
    fn len(&mut self) -> usize {
        match self.0.u32(0..1000) {
            0..100 => 0,
            100..800 => self.0.usize(1..512),
            800..950 => self.0.usize(512..8192),
            950..995 => self.0.usize(8192..200_000),
            _ => self.0.usize(200_000..(4 << 20)),
        }
    }

    /// Bytes of an item of a stream.
    fn item_len(&mut self) -> usize {
        match self.0.u32(0..100) {
            0..90 => self.0.usize(0..2000),
            _ => self.0.usize(2000..100_000),
        }
    }
}

/// Calls between `go` and `stop`, as often as it is told, until it is asked for its report. Settings:
/// `number`, unique among the clients.
pub fn run(settings: &Settings, commands: Commands) {
    let number = settings.number("number").unwrap() as u64;
    let tally = Arc::new(Tally::default());
    let mut dice = Dice(fastrand::Rng::with_seed(number));
    let mut sessions = number << 40;
    say("ready");
    while commands.next() == "go" {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = {
            let (tally, stop) = (tally.clone(), stop.clone());
            std::thread::spawn(move || {
                live(&mut sessions, &mut dice, &tally, &stop);
                (sessions, dice)
            })
        };
        assert_eq!(commands.next(), "stop");
        stop.store(true, Relaxed);
        (sessions, dice) = worker.join().unwrap();
        heap::trim();
        say("stopped");
    }
    let tally = tally.0.lock().unwrap();
    let counts = tally.iter().map(|(kind, count)| format!("{kind}={count}"));
    say(counts.collect::<Vec<_>>().join(" "));
}

/// A client that is patient: a machine that does other things as well, or stops all of this for a
/// while, is no fault.
fn patient() -> ClientBuilder {
    ClientBuilder::new().timeout(PATIENCE)
}

/// One connection after another, each a session with the next number.
fn live(sessions: &mut u64, dice: &mut Dice, tally: &Arc<Tally>, stop: &AtomicBool) {
    // A panic here must end the process, which waits for commands.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::exit(1);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_millis(10))
        .build()
        .unwrap();
    while !stop.load(Relaxed) {
        *sessions += 1;
        let session = *sessions;
        let calls = dice.0.u64(1..150);
        match dice.0.u32(0..100) {
            0..55 => runtime.block_on(many_tasks(session, calls, dice.0.u64(..), tally)),
            55..80 => blocking(session, calls, dice, tally),
            80..90 => messages(session, calls, dice, tally),
            _ => runtime.block_on(bytes(session, dice, tally)),
        }
        tally.add("lives");
    }
}

/// A moment in which others have their turn: this is about what goes wrong in time, not about
/// speed.
async fn pause(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_micros(dice.0.u64(0..3000))).await;
}

/// The calls of one session, some tasks at a time, on one connection.
async fn many_tasks(session: u64, calls: u64, seed: u64, tally: &Arc<Tally>) {
    let client = patient().connect(CALLS).await.unwrap();
    let numbers = Arc::new(AtomicU64::new(0));
    let mut dice = Dice(fastrand::Rng::with_seed(seed));
    let tasks: Vec<_> = (0..dice.0.u64(1..9))
        .map(|task| {
            let (client, numbers) = (client.clone(), numbers.clone());
            let (tally, seed) = (tally.clone(), dice.0.u64(..));
            let dice = Dice(fastrand::Rng::with_seed(seed));
            let session = Session {
                client,
                id: session,
                numbers,
                tally,
            };
            tokio::spawn(session.calls(calls / 8, dice, task))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let last = Request {
        session,
        number: numbers.load(Relaxed),
        reply_len: 0,
    };
    let seen = client.call_bytes("leave", &last.encode(0)).await.unwrap();
    assert_eq!(seen, last.number.to_le_bytes(), "calls that were executed");
    assert_eq!(client.in_flight(), 0);
}

/// What the tasks of one connection share.
struct Session {
    client: Client,
    id: u64,
    numbers: Arc<AtomicU64>,
    tally: Arc<Tally>,
}

impl Session {
    fn next(&self, reply_len: usize) -> Request {
        Request {
            session: self.id,
            number: self.numbers.fetch_add(1, Relaxed),
            reply_len: reply_len as u64,
        }
    }

    async fn calls(self, calls: u64, mut dice: Dice, task: u64) {
        for _ in 0..=calls {
            match dice.0.u32(0..100) {
                choice @ 0..60 => {
                    let method = ["sync", "into", "later"][choice as usize / 20];
                    let request = self.next(dice.len());
                    let bytes = request.encode(dice.len());
                    let reply = self.client.call_bytes(method, &bytes).await.unwrap();
                    assert!(
                        reply == request.reply(),
                        "a reply that is not its request's"
                    );
                    self.tally.add(method);
                }
                60..68 => {
                    // Small, so that it stays before the session's end.
                    let bytes = self.next(0).encode(dice.0.usize(0..1000));
                    self.client.notify_bytes("note", &bytes).await.unwrap();
                    self.tally.add("note");
                }
                68..76 => {
                    let reply = self.client.call_bytes("empty", b"").await.unwrap();
                    assert!(reply.is_empty());
                    self.tally.add("empty");
                }
                76..84 => self.give_up(&mut dice).await,
                84..90 => self.stream(&mut dice, task).await,
                90..95 => self.upload(&mut dice, task).await,
                _ => self.chat(&mut dice, task).await,
            }
            pause(&mut dice).await;
        }
    }

    /// A call that is dropped, or whose deadline passes; unless this process does not run for so
    /// long that its answer is there.
    async fn give_up(&self, dice: &mut Dice) {
        let request = Request {
            session: self.id,
            number: 0,
            reply_len: dice.len() as u64,
        };
        let bytes = request.encode(dice.len());
        let time = Duration::from_micros(dice.0.u64(0..3000));
        let call = self.client.call_bytes("given_up", &bytes);
        let ended = match dice.0.bool() {
            true => call.deadline(time).await,
            false => tokio::time::timeout(time, call)
                .await
                .unwrap_or(Err(Error::DeadlineExceeded)),
        };
        match ended {
            Ok(reply) => assert!(
                reply == request.reply(),
                "a reply that is not its request's"
            ),
            Err(Error::DeadlineExceeded) => self.tally.add("given_up"),
            Err(Error::Status(status)) if status.code == Code::DEADLINE_EXCEEDED => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// A request for a stream; the seed of its items is its session.
    fn of_stream(&self, dice: &mut Dice, task: u64) -> Request {
        Request {
            session: self.id.rotate_left(8) ^ task,
            number: dice.0.u64(0..200),
            reply_len: dice.item_len() as u64,
        }
    }

    async fn stream(&self, dice: &mut Dice, task: u64) {
        let request = self.of_stream(dice, task);
        let mut items = self.client.stream_bytes("stream", &request.encode(0));
        // Some are left before their end.
        let until = match dice.0.u32(0..4) {
            0 => dice.0.u64(0..=request.number),
            _ => request.number,
        };
        for n in 0..until {
            let item = items.next().await.expect("an item").unwrap();
            assert!(is_item(&item, request.session, n), "item {n} of a stream");
        }
        if until == request.number {
            assert!(items.next().await.is_none(), "more than was asked for");
        }
        self.tally.add("stream");
    }

    async fn upload(&self, dice: &mut Dice, task: u64) {
        let request = self.of_stream(dice, task);
        let mut call = self
            .client
            .client_stream_bytes("upload", &request.encode(0));
        for n in 0..request.number {
            let item = item(request.session, n, dice.item_len());
            call.send(item).await.unwrap();
        }
        let count = call.finish().await.unwrap();
        assert_eq!(count, request.number.to_le_bytes(), "items that arrived");
        self.tally.add("upload");
    }

    async fn chat(&self, dice: &mut Dice, task: u64) {
        let request = self.of_stream(dice, task);
        let bytes = request.encode(0);
        let (mut sink, mut items) = self.client.bidirectional_bytes("chat", &bytes);
        let len = dice.item_len();
        let talk = async {
            for n in 0..request.number {
                let len = if n % 7 == 0 { len } else { 30 };
                sink.send(item(request.session, n, len)).await.unwrap();
            }
            sink.finish().await.unwrap();
        };
        let listen = async {
            for n in 0..request.number {
                let item = items.next().await.expect("an item").unwrap();
                assert!(is_item(&item, request.session, n), "item {n} of a chat");
            }
            assert!(items.next().await.is_none(), "more than was said");
        };
        tokio::join!(talk, listen);
        self.tally.add("chat");
    }
}

/// Calls one by one and in a pipeline, without a runtime.
fn blocking(session: u64, calls: u64, dice: &mut Dice, tally: &Tally) {
    let mut client = patient().connect_blocking(CALLS).unwrap();
    let mut number = 0;
    let mut next = |reply_len: usize| {
        number += 1;
        Request {
            session,
            number: number - 1,
            reply_len: reply_len as u64,
        }
    };
    for _ in 0..calls / 2 {
        let request = next(dice.len());
        let method = ["sync", "into", "later"][dice.0.usize(0..3)];
        let bytes = request.encode(dice.len());
        let reply = client.call_bytes(method, &bytes).unwrap();
        assert!(
            reply == request.reply(),
            "a reply that is not its request's"
        );
        tally.add(method);
        std::thread::sleep(Duration::from_micros(dice.0.u64(0..1000)));
    }
    let method = client.method("sync").unwrap();
    let mut pipeline = client.pipeline();
    let mut waiting = HashMap::new();
    for _ in 0..calls / 2 {
        let request = next(dice.len());
        let id = pipeline
            .submit(method, &request.encode(dice.len()))
            .unwrap();
        waiting.insert(id, request);
        if waiting.len() > 30 {
            take_reply(&mut pipeline, &mut waiting);
        }
        tally.add("piped");
    }
    while !waiting.is_empty() {
        take_reply(&mut pipeline, &mut waiting);
    }
    assert_eq!(pipeline.in_flight(), 0);
    drop(pipeline);
    let mut last = next(0);
    let seen = client.call_bytes("leave", &last.encode(0)).unwrap();
    last.session = 0;
    assert_eq!(seen, last.number.to_le_bytes(), "calls that were executed");
}

fn take_reply(
    pipeline: &mut nearwire::Pipeline<'_>,
    waiting: &mut HashMap<nearwire::CallId, Request>,
) {
    let taken = pipeline.next(|id, reply| {
        let request = waiting.remove(&id).expect("a reply, once");
        let reply = reply.unwrap();
        assert!(
            reply == request.reply(),
            "a reply that is not its request's"
        );
    });
    taken.unwrap().expect("some are in flight");
}

/// What small messages may take of a ring whose reader reads nothing: half of the ring's hot bytes
/// (docs/IPC_PERFORMANCE_TUNING.md).
const AHEAD: usize = 8 << 10;

/// What an item of `len` bytes takes of a ring.
const fn record(len: usize) -> usize {
    nearwire::layout::record_size(ITEM_HEAD + len)
}

/// Messages that come back in their order.
fn messages(session: u64, count: u64, dice: &mut Dice, tally: &Tally) {
    let mut connection = patient().connect_messages_blocking(MESSAGES).unwrap();
    let mut received = Vec::new();
    let (mut sent, mut back) = (0, 0);
    let mut ahead = 0;
    while back < count {
        // A few ahead, and no more than a ring surely holds: the echo does not read while it writes,
        // nor does this, so that more would have each wait for the other for ever.
        let len = dice.item_len().min(4000);
        if sent < count && ahead + record(len) <= AHEAD && dice.0.bool() {
            connection.send(&item(session, sent, len)).unwrap();
            ahead += record(len);
            sent += 1;
        } else if back < sent {
            assert!(connection.recv(&mut received).unwrap());
            assert!(is_item(&received, session, back), "message {back}");
            ahead -= record(received.len() - ITEM_HEAD);
            back += 1;
        }
    }
    let request = Request {
        session,
        number: 0,
        reply_len: 0,
    };
    // One that is larger than the ring.
    let large = request.encode(dice.0.usize(100_000..300_000) - HEAD);
    connection.send(&large).unwrap();
    assert!(connection.recv(&mut received).unwrap());
    assert!(received == large, "a large message");
    connection.finish();
    assert!(!connection.recv(&mut received).unwrap(), "nothing more");
    tally.add("messages");
}

/// Bytes that come back as they were.
async fn bytes(session: u64, dice: &mut Dice, tally: &Tally) {
    let stream = patient().connect_bytes(BYTES).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let sent = item(session, 0, dice.0.usize(0..(1 << 20)));
    let chunk = dice.0.usize(1..100_000).max(100);
    let write = async {
        for part in sent.chunks(chunk) {
            writer.write_all(part).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let read = async { reader.read_to_end(&mut back).await.unwrap() };
    tokio::join!(write, read);
    assert!(back == sent, "a stream of {} bytes", sent.len());
    tally.add("bytes");
}
