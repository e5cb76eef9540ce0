//! Accepting connections: one thread per name, which shakes hands with any number of clients at a
//! time, so that one that is slow, or silent on purpose, keeps nobody waiting.

mod connect_rate;
mod queue;

pub use queue::{ByteListener, Listener, ListenerBuilder};

use crate::error::{Error, Result};
use crate::link::{Accepting, Grants, Link, Progress};
use crate::name::Place;
use crate::proto::handshake::RejectCode;
use crate::rate::RateLimit;
use crate::sys::{ControlListener, ControlSocket, Event, Multiplexer, MultiplexerWaker};
use connect_rate::{ConnectRate, Turn};
use slab::Slab;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients that may be shaking hands at a time. More wait in the system's backlog.
const MAX_HANDSHAKES: usize = 1024;

/// Observers that may look at the counters at a time.
pub(crate) const MAX_OBSERVERS: usize = 64;

/// How long accepting pauses when the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(10);

/// What becomes of accepted connections.
pub(crate) trait Admission: Send + 'static {
    /// Whether another connection may come in at all. The error is the reason that the client is
    /// told.
    ///
    /// `pending` connections were admitted and are still shaking hands.
    fn admit(&mut self, pending: usize) -> Result<(), (RejectCode, String)>;
    /// Takes a connection.
    fn take(&mut self, link: Box<Link>);
}

/// A name that is being listened on. Dropping it frees the name and refuses clients that are not
/// through yet.
#[derive(Debug)]
pub(crate) struct Acceptor {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    waker: MultiplexerWaker,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Takes the name and starts to accept.
    pub(crate) fn start(
        place: &Place,
        grants: Arc<Grants>,
        rate: Option<RateLimit>,
        admission: impl Admission,
    ) -> Result<Self> {
        let listener = ControlListener::bind(&place.path, place.private_directory)?;
        let multiplexer = Multiplexer::new().map_err(Error::io("create the acceptor's poller"))?;
        multiplexer
            .add_socket(LISTENER, &listener)
            .map_err(Error::io("watch the control socket"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (path, waker) = (listener.path().to_owned(), multiplexer.waker());
        let accepting = Accept {
            listener,
            multiplexer,
            grants,
            admission,
            rate: rate.map(ConnectRate::new),
            pending: Slab::new(),
            observers: Slab::new(),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("nearwire-accept".into())
            .spawn(move || accepting.run())
            .map_err(Error::io("start the acceptor thread"))?;
        Ok(Self {
            path,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Stops accepting and frees the name. Blocks for the moment that the thread takes to end.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Relaxed);
        // The wake-up is a system call, which orders the store before it.
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the acceptor thread panicked");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Key of the listening socket; clients have the keys of `pending`.
const LISTENER: usize = usize::MAX >> 2;

/// Observers have keys from here on.
const OBSERVERS: usize = LISTENER >> 1;

/// Numbers for connections, unique in the process.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

struct Accept<A> {
    listener: ControlListener,
    multiplexer: Multiplexer,
    grants: Arc<Grants>,
    admission: A,
    /// How fast a process may connect, and who waits for that.
    rate: Option<ConnectRate<ControlSocket>>,
    pending: Slab<Accepting>,
    /// They have what they wanted; their sockets' ends tell them, and this side, of the other's.
    observers: Slab<ControlSocket>,
    stop: Arc<AtomicBool>,
}

impl<A: Admission> Accept<A> {
    fn run(mut self) {
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        while !self.stop.load(Relaxed) {
            let timeout = self.timeout();
            let mut listener_ready = false;
            let slept = self.multiplexer.sleep(timeout, |event| match event {
                Event::Socket(LISTENER) => listener_ready = true,
                Event::Socket(key) if key >= OBSERVERS => gone.push(key - OBSERVERS),
                Event::Socket(key) => ready.push(key),
                Event::Rung(_) | Event::Woken => {}
            });
            if let Err(error) = slept {
                tracing::error!(%error, "the acceptor cannot sleep");
                std::thread::sleep(PAUSE);
            }
            for key in ready.drain(..) {
                self.go_on(key);
            }
            for key in gone.drain(..) {
                // An observer has nothing to say: it is gone, or it is none.
                if let Some(socket) = self.observers.try_remove(key) {
                    self.multiplexer.remove(&socket);
                }
            }
            self.drop_the_slow();
            self.admit_waiting();
            if listener_ready {
                self.accept();
                if self.pending.len() >= MAX_HANDSHAKES {
                    // The backlog keeps the listening socket readable; do not spin on it.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        for (_, mut client) in std::mem::take(&mut self.pending) {
            client.refuse(RejectCode::Draining, "the server is shutting down");
        }
        let waiting = self.rate.take().map(ConnectRate::into_waiting);
        for socket in waiting.into_iter().flatten() {
            self.turn_away(socket, RejectCode::Draining, "the server is shutting down");
        }
    }

    /// Refuses a client that did not begin to shake hands.
    fn turn_away(&self, socket: ControlSocket, code: RejectCode, text: &str) {
        if let Ok(mut client) = Accepting::new(socket, self.grants.clone(), 0, None) {
            client.refuse(code, text);
        }
    }

    /// Lets those shake hands that had to wait for their process's rate.
    fn admit_waiting(&mut self) {
        while self.pending.len() < MAX_HANDSHAKES {
            let next = self
                .rate
                .as_mut()
                .and_then(|rate| rate.next(Instant::now()));
            let Some(socket) = next else {
                return;
            };
            self.begin(socket);
        }
    }

    fn accept(&mut self) {
        while self.pending.len() < MAX_HANDSHAKES {
            let socket = match self.listener.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors or memory: clients stay in the backlog meanwhile.
                    tracing::error!(%error, "cannot accept a connection, pausing");
                    std::thread::sleep(PAUSE);
                    return;
                }
            };
            let Some(rate) = &mut self.rate else {
                self.begin(socket);
                continue;
            };
            let peer = match socket.peer() {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(%error, "a client was lost while it connected");
                    continue;
                }
            };
            match rate.come(peer.into(), socket, Instant::now()) {
                Turn::Now(socket) => self.begin(socket),
                Turn::Later => {}
                Turn::Never(socket) => {
                    tracing::warn!(peer.pid, "a client was refused: too many wait before it");
                    let text = "too many connections of this process wait for its rate";
                    self.turn_away(socket, RejectCode::Limits, text);
                }
            }
        }
    }

    /// Begins to shake hands with a client.
    fn begin(&mut self, socket: ControlSocket) {
        let id = NEXT_CONNECTION.fetch_add(1, Relaxed);
        // Whoever is refused says first what it wants: it may be an observer.
        let pending = self.pending.iter().filter(|(_, c)| c.is_admitted()).count();
        let full = self.admission.admit(pending).err();
        let client = match Accepting::new(socket, self.grants.clone(), id, full) {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "a client was lost while it connected");
                return;
            }
        };
        let key = self.pending.insert(client);
        if let Err(error) = self.multiplexer.add_socket(key, self.pending[key].socket()) {
            tracing::error!(%error, "a client cannot be watched");
            self.pending.remove(key);
            return;
        }
        self.go_on(key);
    }

    /// Lets a client go on with its handshake as far as it can.
    fn go_on(&mut self, key: usize) {
        let Some(client) = self.pending.try_remove(key) else {
            return;
        };
        let was_sending = client.is_sending();
        match client.progress() {
            (Progress::Waiting { to_send }, Some(client)) => {
                // The slab gives the vacant place last freed, which is this client's.
                let again = self.pending.insert(client);
                debug_assert_eq!(again, key);
                let socket = self.pending[key].socket();
                if to_send != was_sending {
                    let watched = if to_send {
                        self.multiplexer.watch_for_room(key, socket)
                    } else {
                        self.multiplexer.watch_for_data(key, socket)
                    };
                    if let Err(error) = watched {
                        tracing::error!(%error, "a client cannot be watched");
                        let client = self.pending.remove(key);
                        self.multiplexer.remove(client.socket());
                    }
                }
            }
            (Progress::Done(link), _) => {
                self.multiplexer.remove(link.shared.control());
                tracing::debug!(
                    peer.pid = link.shared.peer.pid,
                    peer.label = link.shared.terms.peer_label,
                    connection = link.shared.terms.connection_id,
                    "connection open"
                );
                self.admission.take(link);
            }
            (Progress::Observing(socket), _) => self.keep_observer(socket),
            (Progress::Failed(error), client) => {
                // Where closing a socket does not end its watch.
                if let Some(client) = client {
                    self.multiplexer.remove(client.socket());
                }
                tracing::warn!(%error, "a client did not get through the handshake");
            }
            (Progress::Waiting { .. }, None) => unreachable!("a waiting client stays"),
        }
    }

    /// Keeps an observer's socket open.
    fn keep_observer(&mut self, socket: ControlSocket) {
        self.multiplexer.remove(&socket);
        if self.observers.len() >= MAX_OBSERVERS {
            tracing::warn!("an observer was let go: there are {MAX_OBSERVERS} others");
            return;
        }
        let key = self.observers.insert(socket);
        let watched = &self.observers[key];
        if let Err(error) = self.multiplexer.add_socket(OBSERVERS + key, watched) {
            tracing::error!(%error, "an observer cannot be watched");
            self.observers.remove(key);
        }
    }

    /// How long there is nothing to do, unless somebody says something.
    fn timeout(&self) -> Option<Duration> {
        let deadlines = self.pending.iter().map(|(_, client)| client.deadline);
        // Without room for it nobody has a turn.
        let has_room = self.pending.len() < MAX_HANDSHAKES;
        let rate = self.rate.as_ref().filter(|_| has_room);
        let turn = rate.and_then(ConnectRate::next_at);
        let earliest = deadlines.chain(turn).min()?;
        Some(earliest.saturating_duration_since(Instant::now()))
    }

    fn drop_the_slow(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now = Instant::now();
        let multiplexer = &self.multiplexer;
        self.pending.retain(|_, client| {
            let in_time = client.deadline > now;
            if !in_time {
                tracing::warn!("a client took too long to shake hands");
                client.refuse(RejectCode::Limits, "the handshake took too long");
                multiplexer.remove(client.socket());
            }
            in_time
        });
    }
}
