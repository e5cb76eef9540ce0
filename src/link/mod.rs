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
mod rx;
mod tx;
mod wait;

#[cfg(feature = "tokio")]
pub(crate) use async_wait::{AsyncWaiter, let_others_run};
pub(crate) use establish::{
    Accepting, FEATURE_ASYMMETRIC_FENCES, FEATURE_TRACE_CONTEXT, Grants, MappedMemory, Progress,
    Wishes, connect, supported_features,
};
pub(crate) use incoming::{Incoming, next as next_incoming, take_any};
pub(crate) use observe::observe;
pub(crate) use outbox::Outbox;
#[cfg(feature = "tokio")]
pub(crate) use outbox::Withdrawn;
pub(crate) use outgoing::{Outgoing, stage_frame, stage_plain, whole_max};
pub(crate) use rx::{Record, Rx};
pub(crate) use tx::Tx;
pub(crate) use wait::{Waited, Waiter, Wanted};

use crate::error::{CloseReason, Error, Identity, Violation};
use crate::proto::handshake::{Close, CloseCode, MessageKind, MessageReader, Method};
use crate::sys::{self, ControlSocket, Doorbell, PeerDoorbell, Received};
use crate::waiter::Fences;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// What the handshake agreed on, seen from one side.
#[derive(Debug)]
pub(crate) struct Terms {
    /// The feature bits in use.
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
    /// Rung here, slept on by the peer.
    peer_bell: PeerDoorbell,
    pub(crate) terms: Terms,
    /// Who the peer is, as the system says.
    pub(crate) peer: Identity,
    /// Whether this side's segment is made of huge pages.
    pub(crate) huge_pages: bool,
    /// The server's name, on the client's side: a server that is killed leaves it behind, and its
    /// clients remove it.
    name: Option<PathBuf>,
    /// A server's: what the connection has of the memory that all may map.
    _reserved: Option<establish::Reserved>,
    /// Set once, when the connection is over.
    closed: OnceLock<CloseReason>,
    /// Cuts what the control socket still brings into messages.
    reader: Mutex<MessageReader>,
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
    pub(crate) fn close(&self, reason: CloseReason) {
        let code = match reason {
            CloseReason::Violation(_) => CloseCode::Violation,
            _ => CloseCode::Finished,
        };
        self.close_as(code, reason);
    }

    /// As [`close`](Self::close), with a code for the peer.
    pub(crate) fn close_as(&self, code: CloseCode, reason: CloseReason) {
        let text = reason.to_string();
        if self.closed.set(reason).is_ok() {
            let message = Close { code, text }.encode();
            let _ = self.control.send(&message, &[]);
            self.control.shut_down();
            // Whoever sleeps on this side must look again.
            self.bell.ring();
        }
    }

    /// Ends the connection because the peer broke the protocol, and gives the error to report.
    pub(crate) fn violated(&self, violation: Violation) -> Error {
        self.close(CloseReason::Violation(violation.clone()));
        Error::Protocol(violation)
    }

    /// Reads what the control socket has. Afterwards [`closed`](Self::closed) says whether that
    /// was the end.
    pub(crate) fn read_control(&self) {
        let mut reader = self.reader.lock().unwrap_or_else(|e| e.into_inner());
        let mut buffer = [0; 1024];
        let mut handles = Vec::new();
        let reason = loop {
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

    /// Wakes the peer. One system call.
    pub(crate) fn ring_peer(&self) {
        self.peer_bell.ring();
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    pub(crate) fn control(&self) -> &ControlSocket {
        &self.control
    }
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
