//! One side of an established connection: two rings, two doorbells, the control socket.
//!
//! Everything above speaks through a link: it stages records into [`Tx`], takes records from
//! [`Rx`], and waits with [`Waiter`]. The halves can live in different threads. What they share is
//! in [`Shared`]: the ways to wake and to be woken, what the handshake agreed on, and whether the
//! connection is over.

#[cfg(feature = "tokio")]
mod async_wait;
mod establish;
mod incoming;
mod observe;
mod outbox;
mod outgoing;
#[cfg(feature = "mpmc_transport")]
mod requests;
mod rx;
mod socket;
mod tx;
mod wait;

#[cfg(feature = "tokio")]
pub(crate) use async_wait::{AsyncWaiter, let_others_run};
pub(crate) use establish::{Accepting, Grants, MappedMemory, Progress, Wishes, connect, features};
#[cfg(feature = "tokio")]
pub(crate) use incoming::plain_reply;
pub(crate) use incoming::{Incoming, KEPT_BUFFER, next as next_incoming, take_any};
pub(crate) use observe::observe;
pub(crate) use outbox::Outbox;
#[cfg(feature = "tokio")]
pub(crate) use outbox::Withdrawn;
pub(crate) use outgoing::{Outgoing, stage_frame, stage_plain, whole_max};
#[cfg(feature = "mpmc_transport")]
pub(crate) use requests::RequestQueue;
pub(crate) use rx::{Record, Rx};
pub(crate) use tx::Tx;
pub(crate) use wait::{Waited, Waiter, Wanted};

use crate::error::{CloseReason, Error, Identity, Violation};
use crate::proto::handshake::{
    Close, CloseCode, FEATURE_TRACE_CONTEXT, MessageKind, MessageReader, Method,
};
use crate::settings::{Spin, Transport};
#[cfg(feature = "tokio")]
use crate::sys::ReactorSleeper;
use crate::sys::{self, ControlSocket, Doorbell, Sleeper};
use crate::waiter::Fences;
use socket::{Filled, Flushed, Pump};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a sender waits for room at a time before it looks whether the connection is over.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// What the handshake agreed on, seen from one side.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The feature bits in use: of those that were agreed on, the ones that this transport makes use
    /// of.
    pub(crate) features: u64,
    pub(crate) fences: Fences,
    /// Capacity of this side's ring, in bytes.
    pub(crate) ring_out: usize,
    /// Capacity of the peer's ring, in bytes.
    pub(crate) ring_in: usize,
    /// The largest message that the peer takes, in bytes.
    pub(crate) max_message_out: u64,
    /// The largest message that this side takes, in bytes.
    pub(crate) max_message_in: u64,
    /// Calls that may be in flight.
    pub(crate) max_in_flight: usize,
    /// Credits that the peer grants each stream in advance.
    #[cfg(feature = "tokio")]
    pub(crate) stream_credits: u32,
    /// The server's number for the connection.
    pub(crate) connection_id: u64,
    /// The server's methods.
    pub(crate) methods: Arc<[Method]>,
    /// What the peer calls itself.
    pub(crate) peer_label: String,
}

impl Terms {
    /// Whether requests may carry a trace context.
    pub(crate) fn carry_traces(&self) -> bool {
        self.features & FEATURE_TRACE_CONTEXT != 0
    }
}

/// One side of an established connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) tx: Tx,
    pub(crate) rx: Rx,
    pub(crate) shared: Arc<Shared>,
}

/// What both halves of a link share.
#[derive(Debug)]
pub(crate) struct Shared {
    control: ControlSocket,
    /// Rung by the peer, slept on here.
    bell: Doorbell,
    carrier: Carrier,
    pub(crate) terms: Terms,
    /// Who the peer is, as the system says.
    pub(crate) peer: Identity,
    /// Whether this side's segment is made of huge pages.
    pub(crate) huge_pages: bool,
    /// The server's name, on the client's side: a server that is killed leaves it behind, and its
    /// clients remove it.
    name: Option<PathBuf>,
    /// A server's: what the connection has of the memory that all may map.
    #[cfg(feature = "spsc_transport")]
    _reserved: Option<establish::Reserved>,
    /// What it has of the server's request queue, if it goes through that.
    #[cfg(feature = "mpmc_transport")]
    requests: Option<requests::Requests>,
    /// Set once, when the connection is over.
    closed: OnceLock<CloseReason>,
}

/// What carries the frames, and how the peer is told that there are some.
#[derive(Debug)]
enum Carrier {
    #[cfg(feature = "spsc_transport")]
    Memory {
        /// Rung here, slept on by the peer.
        peer_bell: sys::PeerDoorbell,
        /// Cuts what the control socket still brings into messages.
        reader: std::sync::Mutex<MessageReader>,
    },
    Socket(Box<Pump>),
}

impl Shared {
    /// Why the connection is over, or `None` while it is not.
    pub(crate) fn closed(&self) -> Option<&CloseReason> {
        self.closed.get()
    }

    /// The error for an operation on a closed connection. Violations keep their name.
    pub(crate) fn closed_error(&self) -> Error {
        match self.closed() {
            Some(CloseReason::Violation(violation)) => Error::Protocol(violation.clone()),
            Some(reason) => Error::closed(reason.clone()),
            None => Error::closed(CloseReason::Local),
        }
    }

    /// Ends the connection from this side; the first reason stays. The peer is told why, if the
    /// socket takes it at once, and sees the end of file.
    pub(crate) fn close(self: &Arc<Self>, reason: CloseReason) {
        let code = match reason {
            CloseReason::Violation(_) => CloseCode::Violation,
            _ => CloseCode::Finished,
        };
        self.close_as(code, reason);
    }

    /// As [`close`](Self::close), with a code for the peer.
    pub(crate) fn close_as(self: &Arc<Self>, code: CloseCode, reason: CloseReason) {
        let text = reason.to_string();
        if self.closed.set(reason).is_ok() {
            let message = Close { code, text }.encode();
            match &self.carrier {
                #[cfg(feature = "spsc_transport")]
                Carrier::Memory { .. } => {
                    // The server frees what this side has claimed when it knows of the end.
                    #[cfg(feature = "mpmc_transport")]
                    if let Some(requests::Requests::Fed(feed)) = &self.requests {
                        lock(feed).stop();
                    }
                    let _ = self.control.send(&message, &[]);
                    self.control.shut_down();
                }
                Carrier::Socket(pump) => {
                    // Behind everything that was published; then the socket is shut down.
                    pump.outward().say_last(message);
                    self.send_published(pump, false);
                    socket::nudge();
                }
            }
            // Whoever sleeps on this side must look again.
            self.bell.ring();
        }
    }

    /// Ends the connection because the peer broke the protocol, and gives the error to report.
    pub(crate) fn violated(self: &Arc<Self>, violation: Violation) -> Error {
        self.close(CloseReason::Violation(violation.clone()));
        Error::Protocol(violation)
    }

    /// Reads what the control socket has. Afterwards [`closed`](Self::closed) says whether that
    /// was the end; frames that it had are in the ring, as far as there is space.
    pub(crate) fn read_control(self: &Arc<Self>) {
        match &self.carrier {
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { reader, .. } => self.read_messages(reader),
            Carrier::Socket(pump) => {
                let filled = pump.inward().fill(&self.control, &self.bell);
                match filled {
                    Filled::Open => {}
                    Filled::Over(reason) => self.end(reason),
                    Filled::Violated(violation) => {
                        self.violated(violation);
                    }
                }
            }
        }
    }

    /// As [`read_control`](Self::read_control), when the peer's last word may be there: a peer that
    /// ends its ring has said why before.
    pub(crate) fn read_last_word(self: &Arc<Self>) {
        self.control.settle();
        self.read_control();
    }

    #[cfg(feature = "spsc_transport")]
    fn read_messages(&self, reader: &std::sync::Mutex<MessageReader>) {
        let mut reader = reader.lock().unwrap_or_else(|e| e.into_inner());
        let mut buffer = [0; 1024];
        let mut handles = Vec::new();
        let reason = loop {
            use sys::Received;
            match self.control.receive(&mut buffer, &mut handles) {
                Ok(Received::Nothing) => return,
                Ok(Received::EndOfFile) => break CloseReason::PeerGone,
                Err(error) => {
                    tracing::debug!(%error, "control socket failed");
                    break CloseReason::PeerGone;
                }
                Ok(Received::Bytes(count)) => {
                    match last_word(&mut reader, &buffer[..count], handles.len()) {
                        Ok(None) => {}
                        Ok(Some(reason)) => break reason,
                        Err(text) => break CloseReason::Violation(Violation::Control(text)),
                    }
                }
            }
        };
        drop(reader);
        self.end(reason);
    }

    /// The peer has ended the connection.
    fn end(&self, reason: CloseReason) {
        // A server that lets go of a connection that this side has closed is not dead. To find out,
        // one would have to knock, and it would wonder who knocks and says nothing.
        if self.closed().is_none()
            && let (CloseReason::PeerGone, Some(name)) = (&reason, &self.name)
        {
            sys::sweep_dead_name(name);
        }
        let _ = self.closed.set(reason);
        // Only one of several sleepers may have been told by the socket.
        self.bell.ring();
    }

    /// Tells a peer that waits for it that something was published. One system call; over the
    /// socket it sends what was published. Blocks only if `patient`, which makes a difference over
    /// the socket: until the system has all of it.
    fn tell_of_data(self: &Arc<Self>, patient: bool) {
        match &self.carrier {
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { peer_bell, .. } => peer_bell.ring(),
            Carrier::Socket(pump) => self.send_published(pump, patient),
        }
    }

    /// Tells a peer that waits for it that there is space. One system call; over the socket the
    /// space is filled with what is there.
    fn tell_of_space(self: &Arc<Self>) {
        match &self.carrier {
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { peer_bell, .. } => peer_bell.ring(),
            Carrier::Socket(_) => self.read_control(),
        }
    }

    fn send_published(self: &Arc<Self>, pump: &Pump, patient: bool) {
        loop {
            let flushed = {
                let mut outward = pump.outward();
                if outward.is_with_flusher && !patient {
                    return;
                }
                let flushed = outward.flush(&self.control, &self.bell);
                let waits = patient && self.closed().is_none();
                if flushed == Flushed::Blocked && !waits {
                    if outward.is_with_flusher {
                        return;
                    }
                    outward.is_with_flusher = true;
                }
                flushed
            };
            let is_sent = flushed != Flushed::Blocked && (!patient || self.control.is_sent());
            if !is_sent && patient && self.closed().is_none() {
                if self.control.wait_ready(true, ROOM_WAIT).is_err() {
                    return;
                }
                continue;
            }
            if flushed == Flushed::Blocked {
                if let Err(error) = socket::flush_later(self.clone()) {
                    tracing::error!(%error, "a connection cannot be flushed");
                    self.control.shut_down();
                }
                return;
            }
            return self.sent(pump, flushed);
        }
    }

    /// Whether the system has all that was published. If it has not, for want of room in the socket,
    /// the doorbell will ring when it has, or when nobody receives any more.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_sent(&self) -> bool {
        match &self.carrier {
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { .. } => true,
            Carrier::Socket(pump) => {
                let mut outward = pump.outward();
                outward.is_awaited = outward.is_with_flusher;
                !outward.is_awaited
            }
        }
    }

    /// What the flusher does when the socket has room. False: all is sent.
    fn flush_on(self: &Arc<Self>) -> bool {
        match &self.carrier {
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { .. } => self.feed_on(),
            Carrier::Socket(pump) => {
                let flushed = {
                    let mut outward = pump.outward();
                    let flushed = outward.flush(&self.control, &self.bell);
                    // Decided under the lock: who publishes later does not count on the flusher.
                    outward.is_with_flusher = flushed == Flushed::Blocked;
                    flushed
                };
                self.sent(pump, flushed);
                flushed == Flushed::Blocked
            }
        }
    }

    fn sent(self: &Arc<Self>, pump: &Pump, flushed: Flushed) {
        match flushed {
            Flushed::All | Flushed::Blocked => {}
            Flushed::Said => self.control.shut_down(),
            Flushed::Gone => {
                // What the peer had sent before it went comes first, and then the end. While it
                // lies unread, a full ring must not hold up who only sends.
                self.read_control();
                if self.closed().is_none() {
                    pump.outward().discard(&self.bell);
                }
            }
        }
    }

    /// What carries the frames.
    pub(crate) fn transport(&self) -> Transport {
        match &self.carrier {
            #[cfg(feature = "mpmc_transport")]
            Carrier::Memory { .. } if self.requests.is_some() => Transport::Mpmc,
            #[cfg(feature = "spsc_transport")]
            Carrier::Memory { .. } => Transport::SharedMemory,
            Carrier::Socket(_) => Transport::Socket,
        }
    }

    /// Whether the socket carries the frames.
    pub(crate) fn is_over_socket(&self) -> bool {
        self.transport() == Transport::Socket
    }

    /// Whether this side's frames go into the server's request queue.
    pub(crate) fn feeds_queue(&self) -> bool {
        #[cfg(feature = "mpmc_transport")]
        return matches!(self.requests, Some(requests::Requests::Fed(_)));
        #[cfg(not(feature = "mpmc_transport"))]
        false
    }

    /// Whether the peer's frames come through this server's request queue.
    #[cfg(feature = "mpmc_transport")]
    pub(crate) fn is_fed_by_queue(&self) -> bool {
        matches!(self.requests, Some(requests::Requests::Taken(_)))
    }

    /// Puts into the request queue what is published up to `position`, and the end of the ring if it
    /// is there. What the queue has no room for is sent by another thread.
    #[cfg(feature = "mpmc_transport")]
    fn feed(self: &Arc<Self>, position: u64, ends: bool) {
        let Some(requests::Requests::Fed(feed)) = &self.requests else {
            return;
        };
        {
            let mut feed = lock(feed);
            let is_sent = if ends {
                feed.close(position)
            } else {
                feed.publish(position)
            };
            if is_sent || feed.is_with_flusher {
                return;
            }
            feed.is_with_flusher = true;
        }
        if let Err(error) = socket::flush_later(self.clone()) {
            tracing::error!(%error, "a connection cannot be flushed");
            self.control.shut_down();
        }
    }

    /// What the flusher does for a request queue, now and then. False: all is sent.
    #[cfg(feature = "spsc_transport")]
    fn feed_on(&self) -> bool {
        #[cfg(feature = "mpmc_transport")]
        if let (Carrier::Memory { peer_bell, .. }, Some(requests::Requests::Fed(feed))) =
            (&self.carrier, &self.requests)
        {
            let mut feed = lock(feed);
            if self.closed().is_some() {
                feed.stop();
            }
            // Decided under the lock: who publishes later does not count on the flusher.
            feed.is_with_flusher = !feed.send();
            if feed.is_server_due() {
                peer_bell.ring();
            }
            return feed.is_with_flusher;
        }
        false
    }

    /// The worker that owns the connection: requests that come through the queue are this one's.
    ///
    /// # Errors
    /// What the client did wrong before there was an owner; the connection is closed then.
    #[cfg(feature = "mpmc_transport")]
    pub(crate) fn adopt_requests(self: &Arc<Self>, worker: usize, key: usize) -> Result<(), Error> {
        match &self.requests {
            Some(requests::Requests::Taken(registration)) => registration
                .inlet()
                .adopt(worker, key)
                .map_err(|violation| self.violated(violation)),
            _ => Ok(()),
        }
    }

    /// How long it makes sense to look at the ring before a sleep: over the socket nothing comes
    /// into it meanwhile.
    pub(crate) fn spin(&self, wished: Spin) -> Spin {
        if self.is_over_socket() {
            return Spin::NEVER;
        }
        wished
    }

    /// A place to sleep for one thread.
    fn sleeper(&self) -> io::Result<Sleeper> {
        if self.is_over_socket() {
            return Sleeper::on_stream(&self.bell, &self.control);
        }
        Sleeper::new(&self.bell, &self.control)
    }

    /// A place to sleep for one task, in the runtime that this is called in.
    #[cfg(feature = "tokio")]
    fn reactor_sleeper(&self) -> io::Result<ReactorSleeper> {
        if self.is_over_socket() {
            return ReactorSleeper::on_stream(&self.bell, &self.control);
        }
        ReactorSleeper::new(&self.bell, &self.control)
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    pub(crate) fn control(&self) -> &ControlSocket {
        &self.control
    }
}

#[cfg(feature = "mpmc_transport")]
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The reason that a Close gives, if it has arrived whole. Nothing else may come.
fn last_word(
    reader: &mut MessageReader,
    bytes: &[u8],
    descriptors: usize,
) -> Result<Option<CloseReason>, String> {
    let message = reader
        .receive(bytes, descriptors)
        .map_err(|e| e.to_string())?;
    let Some(message) = message else {
        return Ok(None);
    };
    if message.kind() != MessageKind::Close {
        return Err(format!(
            "a {:?} message after the handshake",
            message.kind()
        ));
    }
    let close = Close::decode(message.body()).map_err(|e| e.to_string())?;
    Ok(Some(match close.code {
        CloseCode::Finished => CloseReason::Finished,
        CloseCode::Drained => CloseReason::Drained,
        code => CloseReason::PeerSays(format!("{code}: {}", close.text)),
    }))
}
