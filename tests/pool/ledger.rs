//! A server that writes down what it executes, in a file that outlives it; and callers that write
//! down what they were told.

use crate::support::child::{Commands, Settings, say};
use crate::support::{Place, Process};
use crate::transports;
use nearwire::{Error, Pool, Server, TransportPolicy};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The name of such a server.
pub const NAME: &str = "ledger";

/// Serves until told to shut down. Settings: `file`, `transport`.
pub fn serve(settings: &Settings, commands: Commands) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let transport = transports::of_name(settings.text("transport").unwrap());
    let server = loop {
        let file = OpenOptions::new()
            .append(true)
            .open(settings.text("file").unwrap());
        match bind(&settings.server(NAME), file.unwrap(), transport) {
            // The server before this one has the name until it begins to drain.
            Err(Error::NameInUse { .. }) => std::thread::sleep(Duration::from_millis(1)),
            bound => break bound.unwrap(),
        }
    };
    say("ready");
    let command = commands.next();
    let grace = command.strip_prefix("shutdown ").unwrap();
    server.shutdown(Duration::from_millis(grace.parse().unwrap()));
    say("shut down");
}

fn bind(name: &str, file: File, transport: TransportPolicy) -> nearwire::Result<Server> {
    let file = Arc::new(file);
    let written = file.clone();
    // Eight bytes, appended by one system call: there or not there, whatever kills the process.
    let record = |mut file: &File, id: &[u8]| file.write_all(id).unwrap();
    Server::builder()
        .transport(transport)
        .method("record", move |id: &[u8]| {
            record(&written, id);
            Ok(id.to_vec())
        })
        .method_async("record_and_wait", move |id: Vec<u8>| {
            record(&file, &id);
            async move {
                tokio::time::sleep(Duration::from_millis(u64::from(id[0]) % 4)).await;
                Ok(id)
            }
        })
        .bind(name)
}

/// The file, and the place that servers write it in.
#[derive(Debug)]
pub struct Ledger {
    place: Place,
    file: PathBuf,
}

impl Ledger {
    pub fn new() -> Self {
        let place = Place::new();
        let file = place.path().join("executed");
        File::create(&file).unwrap();
        Self { place, file }
    }

    /// What pools call the server.
    pub fn socket(&self) -> String {
        self.place.socket(NAME)
    }

    /// Starts a server and does not wait for it.
    pub fn start(&self) -> Process {
        let file = self.file.to_str().unwrap();
        self.place.start("ledger", &[("file", file)])
    }

    /// Starts a server and waits until it serves.
    pub fn start_ready(&self) -> Process {
        let process = self.start();
        process.expect("ready");
        process
    }

    /// How often each was executed.
    fn executions(&self) -> HashMap<u64, usize> {
        let mut executions = HashMap::new();
        let bytes = std::fs::read(&self.file).unwrap();
        let (ids, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty());
        for id in ids {
            *executions.entry(u64::from_le_bytes(*id)).or_default() += 1;
        }
        executions
    }

    /// Compares what callers were told with what was done.
    #[track_caller]
    pub fn check(&self, told: &Told, idempotent: bool) -> Summary {
        let mut executions = self.executions();
        let mut summary = Summary::default();
        for (id, outcome) in told.outcomes.lock().unwrap().iter() {
            let times = executions.remove(id).unwrap_or(0);
            match outcome {
                Ok(()) => {
                    summary.succeeded += 1;
                    summary.repeated += times.saturating_sub(1);
                    assert!(times >= 1, "{id} succeeded and was not executed");
                    assert!(idempotent || times == 1, "{id} was executed {times} times");
                }
                Err(error) if error.may_have_executed() => {
                    summary.maybe += 1;
                    summary.maybe_executed += times;
                    assert!(idempotent || times <= 1, "{id}: {times} times: {error}");
                }
                Err(error) => {
                    summary.not += 1;
                    assert_eq!(times, 0, "{id} was executed, and {error}");
                }
            }
        }
        assert!(executions.is_empty(), "nobody called these: {executions:?}");
        summary
    }
}

/// What became of many calls.
#[derive(Debug, Default)]
pub struct Summary {
    pub succeeded: usize,
    /// Executions beyond the first, of calls that succeeded.
    pub repeated: usize,
    /// Failed, and may have been executed.
    pub maybe: usize,
    /// Those of them that were.
    pub maybe_executed: usize,
    /// Failed, and was certain not to have been executed.
    pub not: usize,
}

/// What callers were told about each call.
#[derive(Debug, Default)]
pub struct Told {
    next: AtomicU64,
    stop: AtomicBool,
    outcomes: Mutex<Vec<(u64, Result<(), Error>)>>,
}

impl Told {
    /// Calls that ended so far.
    pub fn count(&self) -> usize {
        self.outcomes.lock().unwrap().len()
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// Has `callers` tasks call until they are stopped, on a method that answers at once and on one
/// that takes a moment.
pub fn load(
    pool: &Pool,
    callers: usize,
    idempotent: bool,
) -> (Arc<Told>, Vec<tokio::task::JoinHandle<()>>) {
    let told = Arc::new(Told::default());
    let call = |number: usize| {
        let (pool, told) = (pool.clone(), told.clone());
        tokio::spawn(async move {
            let method = ["record", "record_and_wait"][number % 2];
            while !told.stop.load(Relaxed) {
                let id = told.next.fetch_add(1, Relaxed);
                let request = id.to_le_bytes();
                let mut call = pool.call_bytes(method, &request);
                if idempotent {
                    call = call.idempotent();
                }
                let outcome = call.await.map(|reply| assert_eq!(reply, request));
                told.outcomes.lock().unwrap().push((id, outcome));
                // One that finds nobody must not fill the memory with errors.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        })
    };
    (told.clone(), (0..callers).map(call).collect())
}

/// Waits until so many more calls have ended.
pub async fn calls_later(told: &Told, more: usize) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    let enough = told.count() + more;
    while told.count() < enough {
        assert!(Instant::now() < deadline, "calls do not go on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
