//! Roles of client processes.

use crate::server::NAME;
use crate::support::child::{Commands, open_descriptors, say};
use crate::support::{Settings, current_thread, multi_thread, pattern};
use nearwire::{BlockingClient, Client, ClientBuilder, Spin};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Small, around half a default ring, and larger than it.
pub const LENGTHS: [usize; 9] = [0, 1, 64, 1000, 16_000, 32_696, 32_705, 65_600, 200_000];

/// The settings of a client that a role was given: `spin` (never), `ring`.
pub fn builder(settings: &Settings) -> ClientBuilder {
    let mut builder = ClientBuilder::new().timeout(Duration::from_secs(20));
    if settings.text("spin") == Some("never") {
        builder = builder.spin(Spin::NEVER);
    }
    if let Some(ring) = settings.number("ring") {
        builder = builder.ring(ring);
    }
    builder
}

/// A payload of which no two are alike.
fn request(settings: &Settings, n: u64) -> Vec<u8> {
    let len = settings
        .number("len")
        .unwrap_or(LENGTHS[n as usize % LENGTHS.len()]);
    pattern(n ^ u64::from(std::process::id()) << 32, len)
}

/// Says now and then that calls have ended, so that whoever waits for all of them can tell a machine that
/// is slow from a call that hangs.
#[derive(Debug, Default)]
struct Progress {
    ended: AtomicU64,
    /// After how many it is said; never, if nobody asks for it.
    every: Option<u64>,
}

impl Progress {
    fn one_ended(&self) {
        let ended = self.ended.fetch_add(1, Relaxed) + 1;
        if self.every.is_some_and(|every| ended.is_multiple_of(every)) {
            say("on");
        }
    }
}

/// Connects, makes a call and leaves, again and again.
#[cfg(unix)]
pub fn comes_and_goes(settings: &Settings, _: Commands) {
    let name = settings.server(NAME);
    say("ready");
    loop {
        let mut client = builder(settings).connect_blocking(&name).unwrap();
        assert_eq!(client.call_bytes("echo", b"here").unwrap(), b"here");
    }
}

/// Makes `calls` calls in the way of `kind` and checks each reply. With `progress` it says `on` after each so
/// many.
pub fn echoes(settings: &Settings, commands: Commands) {
    let calls = settings.number("calls").unwrap_or(200) as u64;
    let name = settings.server(NAME);
    let progress = Arc::new(Progress {
        every: settings.number("progress").map(|every| every as u64),
        ..Progress::default()
    });
    let run = || match settings.text("kind").unwrap() {
        "blocking" => {
            let mut client = builder(settings).connect_blocking(&name).unwrap();
            say("ready");
            for n in 0..calls {
                let request = request(settings, n);
                let method = ["echo", "echo_into", "echo_ready", "echo_later"][n as usize % 4];
                let method = settings.text("method").unwrap_or(method);
                assert!(client.call_bytes(method, &request).unwrap() == request);
                progress.one_ended();
            }
        }
        "pipeline" => {
            let mut client = builder(settings).connect_blocking(&name).unwrap();
            say("ready");
            pipelined(settings, &mut client, calls, &progress);
        }
        "async" => current_thread().block_on(concurrently(settings, calls, &progress)),
        "async, many threads" => multi_thread().block_on(concurrently(settings, calls, &progress)),
        "async, two runtimes" => current_thread().block_on(from_two_runtimes(settings, calls)),
        other => panic!("no kind {other:?}"),
    };
    run();
    say("done");
    commands.wait();
}

fn pipelined(settings: &Settings, client: &mut BlockingClient, calls: u64, progress: &Progress) {
    let methods = ["echo_into", "echo_later"].map(|name| client.method(name).unwrap());
    let mut pipeline = client.pipeline();
    let mut expected = HashMap::new();
    let mut submitted = 0;
    while submitted < calls || pipeline.in_flight() > 0 {
        while submitted < calls && pipeline.in_flight() < 64 {
            let request = request(settings, submitted);
            let method = methods[submitted as usize % methods.len()];
            let id = pipeline.submit(method, &request).unwrap();
            expected.insert(id, request);
            submitted += 1;
        }
        pipeline
            .next(|id, reply| assert!(expected.remove(&id).unwrap() == reply.unwrap()))
            .unwrap();
        progress.one_ended();
    }
    assert!(expected.is_empty());
}

async fn concurrently(settings: &Settings, calls: u64, progress: &Arc<Progress>) {
    let client = builder(settings)
        .connect(&settings.server(NAME))
        .await
        .unwrap();
    say("ready");
    let tasks = (0..8u64).map(|task| {
        let (client, settings) = (client.clone(), settings.clone());
        let progress = progress.clone();
        tokio::spawn(async move {
            for n in 0..calls / 8 {
                let request = request(&settings, task << 16 | n);
                let method = ["echo_into", "echo_later"][n as usize % 2];
                let method = settings.text("method").unwrap_or(method);
                assert!(client.call_bytes(method, &request).await.unwrap() == request);
                progress.one_ended();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// The connection is made and driven in a runtime of one thread, which calls; the other half of the calls comes
/// meanwhile from a thread that has a runtime of its own.
async fn from_two_runtimes(settings: &Settings, calls: u64) {
    let client = builder(settings)
        .connect(&settings.server(NAME))
        .await
        .unwrap();
    say("ready");
    let half = calls / 2;
    // Nobody but this thread has been there so far.
    one_by_one(&client, settings, 2 * calls..2 * calls + half).await;
    let elsewhere = {
        let (client, settings) = (client.clone(), settings.clone());
        std::thread::spawn(move || {
            current_thread().block_on(one_by_one(&client, &settings, calls..calls + half));
        })
    };
    while !elsewhere.is_finished() {
        one_by_one(&client, settings, 0..half).await;
    }
    elsewhere.join().unwrap();
}

async fn one_by_one(client: &Client, settings: &Settings, calls: Range<u64>) {
    for n in calls {
        let request = request(settings, n);
        let method = ["echo_into", "echo_later"][n as usize % 2];
        assert!(client.call_bytes(method, &request).await.unwrap() == request);
    }
}

/// Opens `count` connections and holds them.
pub fn hold(settings: &Settings, commands: Commands) {
    let count = settings.number("count").unwrap_or(1);
    let mut clients: Vec<_> = (0..count)
        .map(|_| builder(settings).connect_blocking(NAME).unwrap())
        .collect();
    say("ready");
    assert_eq!(commands.next(), "call");
    for client in &mut clients {
        assert_eq!(
            client.call_bytes("echo", b"still here").unwrap(),
            b"still here"
        );
    }
    say("done");
    commands.wait();
}

/// Opens `count` connections at once, makes a call on each, and closes them when told. `warm`: has done
/// so before it is ready.
pub fn many(settings: &Settings, commands: Commands) {
    let count = settings.number("count").unwrap();
    if settings.has("warm") {
        let runtime = multi_thread();
        drop(connect_all(&runtime, settings, count));
    }
    say("ready");
    assert_eq!(commands.next(), "go");
    // The first runtime of a process leaves descriptors behind, for signals.
    drop(multi_thread());
    let before = open_descriptors();
    let runtime = multi_thread();
    let clients = connect_all(&runtime, settings, count);
    say("done");
    assert_eq!(commands.next(), "close");
    drop(clients);
    drop(runtime);
    say(open_descriptors() as i64 - before as i64);
    commands.wait();
}

/// Opens `count` connections at once and makes a call on each.
fn connect_all(runtime: &Runtime, settings: &Settings, count: usize) -> Vec<Client> {
    runtime.block_on(async {
        let connecting = (0..count).map(|n| {
            let builder = builder(settings);
            tokio::spawn(async move {
                let client = builder.connect(NAME).await?;
                let request = pattern(n as u64, 100);
                let reply = client.call_bytes("echo", &request).await?;
                assert!(reply == request);
                Ok::<_, nearwire::Error>(client)
            })
        });
        let mut clients = Vec::new();
        for client in connecting.collect::<Vec<_>>() {
            clients.push(client.await.unwrap().unwrap());
        }
        clients
    })
}

/// Opens `count` connections on one thread and makes `calls` calls in each of 4 tasks on each of them. In the
/// middle of it every third connection is given up, and another runtime of the same thread calls.
pub fn on_one_thread(settings: &Settings, commands: Commands) {
    let count = settings.number("count").unwrap();
    let calls = settings.number("calls").unwrap() as u64;
    let (runtime, another) = (current_thread(), current_thread());
    let mut tasks = runtime.block_on(calling(settings, count, calls));
    say("ready");
    runtime.block_on(async {
        for place in (0..count).step_by(3).rev() {
            tasks[place].join_next().await.unwrap().unwrap();
            tasks.remove(place).abort_all();
        }
    });
    another.block_on(async {
        for tasks in calling(settings, count, calls / 10).await {
            tasks.join_all().await;
        }
    });
    runtime.block_on(async {
        for tasks in tasks {
            tasks.join_all().await;
        }
    });
    say("done");
    commands.wait();
}

/// Tasks that make `calls` calls each, of so many clients.
async fn calling(settings: &Settings, count: usize, calls: u64) -> Vec<JoinSet<()>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let client = builder(settings).connect(NAME).await.unwrap();
        let mut tasks = JoinSet::new();
        for task in 0..4 {
            let client = client.clone();
            // The first ends early: the connection is given up then.
            let calls = calls / if task == 0 { 4 } else { 1 };
            tasks.spawn(async move {
                for n in 0..calls {
                    let request = pattern(task << 16 | n, 100);
                    let method = ["echo", "echo_later"][n as usize % 2];
                    assert!(client.call_bytes(method, &request).await.unwrap() == request);
                }
            });
        }
        all.push(tasks);
    }
    all
}

/// Each time that it is told to go, tries to connect `count` times, for `time` each, which must not
/// succeed. Says how many descriptors it has when asked.
pub fn give_up(settings: &Settings, commands: Commands) {
    // What a process needs anyway.
    drop(BlockingClient::connect(NAME).unwrap());
    say("ready");
    let builder = ClientBuilder::new().timeout(settings.millis("time").unwrap());
    loop {
        match commands.next().as_str() {
            "go" => {
                for _ in 0..settings.number("count").unwrap() {
                    let error = builder.clone().connect_blocking(NAME).unwrap_err();
                    assert!(error.to_string().contains("does not answer"), "{error}");
                }
                say("gave up");
            }
            "count" => say(open_descriptors()),
            other => panic!("{other}"),
        }
    }
}

/// Has `calls` calls and one stream in flight that never end.
pub fn in_flight(settings: &Settings, commands: Commands) {
    let calls = settings.number("calls").unwrap();
    multi_thread().block_on(async {
        let client = Client::connect(NAME).await.unwrap();
        for _ in 0..calls {
            let client = client.clone();
            tokio::spawn(async move { client.call_bytes("hang", b"").await });
        }
        let mut items = client.stream::<Vec<u8>>("endless", &100u64);
        for _ in 0..100 {
            items.next().await.unwrap().unwrap();
        }
        say("ready");
        commands.wait();
    });
}

/// Has sent `calls` calls that never end, which the server need not have taken.
pub fn hang(settings: &Settings, commands: Commands) {
    let mut client = BlockingClient::connect(NAME).unwrap();
    let hang = client.method("hang").unwrap();
    let mut pipeline = client.pipeline();
    for _ in 0..settings.number("calls").unwrap() {
        pipeline.submit(hang, b"").unwrap();
    }
    pipeline.flush();
    say("ready");
    commands.wait();
}

/// Calls `hang` with a deadline and says how it ended.
pub fn deadline(settings: &Settings, commands: Commands) {
    let mut client = builder(settings).connect_blocking(NAME).unwrap();
    say("ready");
    assert_eq!(commands.next(), "call");
    say("calling");
    let time = settings.millis("time").unwrap();
    let error = client.call_bytes_timeout("hang", b"", time).unwrap_err();
    say(format!("{error:?}"));
    commands.wait();
}

/// A client that may not map the rings that it wishes for.
#[cfg(all(target_os = "linux", feature = "spsc_transport"))]
pub fn cramped(settings: &Settings, commands: Commands) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let name = settings.text("name").unwrap();
    // Everything else is there already.
    drop(BlockingClient::connect(name).unwrap());
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let mapped = pages * rustix::param::page_size() as u64;
    let limit = Rlimit {
        current: Some(mapped + (1 << 20)),
        maximum: getrlimit(Resource::As).maximum,
    };
    setrlimit(Resource::As, limit).unwrap();
    say("ready");
    let builder = ClientBuilder::new().ring(4 << 20);
    let mut client = builder.connect_blocking(name).unwrap();
    let request = pattern(7, 10_000);
    assert!(client.call_bytes("echo", &request).unwrap() == request);
    say(client.info().transport);
    commands.wait();
}
