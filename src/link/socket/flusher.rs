//! The thread that sends what sockets, or a request queue, had no room for.
//!
//! A process has at most one, from the first time that it is needed. Who publishes does not wait
//! for a slow reader, and need not come back: the rest of what was published goes out from here,
//! and who waits for space is woken by the doorbell as a peer would do it.

use crate::link::Shared;
use crate::sys::{Event, Multiplexer, MultiplexerWaker};
use slab::Slab;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a connection that was closed on this side may take to deliver the rest.
const LINGER: Duration = Duration::from_secs(1);

/// How often it is looked whether a connection's time is over.
const TICK: Duration = Duration::from_millis(100);

/// How often it is looked whether a request queue has room: nobody says so.
const RETRY: Duration = Duration::from_micros(500);

struct Flusher {
    waker: MultiplexerWaker,
    arriving: Arc<Mutex<Vec<Arc<Shared>>>>,
}

/// A connection that waits for room.
struct Waiting {
    shared: Arc<Shared>,
    /// Set when it was closed on this side.
    until: Option<Instant>,
}

static FLUSHER: OnceLock<Flusher> = OnceLock::new();

/// Has the flusher see that a connection was closed whose rest it is to send.
pub(in crate::link) fn nudge() {
    if let Some(flusher) = FLUSHER.get() {
        flusher.waker.wake();
    }
}

/// Has the process's flusher send the rest.
///
/// # Errors
/// If the system gives no thread or descriptor.
pub(in crate::link) fn flush_later(shared: Arc<Shared>) -> io::Result<()> {
    static START: Mutex<()> = Mutex::new(());
    let flusher = match FLUSHER.get() {
        Some(flusher) => flusher,
        None => {
            let _one_at_a_time = START.lock().unwrap_or_else(|e| e.into_inner());
            match FLUSHER.get() {
                Some(flusher) => flusher,
                None => {
                    let started = Flusher::start()?;
                    FLUSHER.get_or_init(|| started)
                }
            }
        }
    };
    lock(&flusher.arriving).push(shared);
    flusher.waker.wake();
    Ok(())
}

impl Flusher {
    fn start() -> io::Result<Self> {
        let multiplexer = Multiplexer::new()?;
        let waker = multiplexer.waker();
        let arriving = Arc::new(Mutex::default());
        let theirs = Arc::clone(&arriving);
        // A fuzzer's leak checker takes for a leak what std keeps for a thread that is just starting.
        #[cfg(fuzzing)]
        let (started, has_started) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("nearwire-flush".into())
            .spawn(move || {
                #[cfg(fuzzing)]
                let _ = started.send(());
                run(&multiplexer, &theirs);
            })?;
        #[cfg(fuzzing)]
        let _ = has_started.recv();
        Ok(Self { waker, arriving })
    }
}

fn run(multiplexer: &Multiplexer, arriving: &Mutex<Vec<Arc<Shared>>>) {
    let mut waiting: Slab<Waiting> = Slab::new();
    let mut ready = Vec::new();
    loop {
        let timeout = if waiting.iter().any(|(_, one)| one.shared.feeds_queue()) {
            Some(RETRY)
        } else {
            waiting
                .iter()
                .any(|(_, one)| one.until.is_some() || one.shared.closed().is_some())
                .then_some(TICK)
        };
        let slept = multiplexer.sleep(timeout, |event| {
            if let Event::Socket(key) = event {
                ready.push(key);
            }
        });
        if let Err(error) = slept {
            tracing::error!(%error, "the flusher cannot sleep");
            std::thread::sleep(TICK);
        }
        for shared in std::mem::take(&mut *lock(arriving)) {
            let key = waiting.insert(Waiting {
                shared,
                until: None,
            });
            if waiting[key].shared.feeds_queue() {
                continue;
            }
            let watched = multiplexer.add_for_room(key, waiting[key].shared.control());
            if let Err(error) = watched {
                tracing::error!(%error, "a connection cannot be flushed");
                waiting.remove(key).shared.control().shut_down();
            }
        }
        for key in ready.drain(..) {
            if waiting.get(key).is_some_and(|one| !one.shared.flush_on()) {
                let done = waiting.remove(key);
                multiplexer.remove(done.shared.control());
            }
        }
        waiting.retain(|_, one| !one.shared.feeds_queue() || one.shared.flush_on());
        let now = Instant::now();
        waiting.retain(|_, one| {
            if one.shared.closed().is_some() {
                let until = *one.until.get_or_insert(now + LINGER);
                if until <= now {
                    multiplexer.remove(one.shared.control());
                    one.shared.control().shut_down();
                    return false;
                }
            }
            true
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
