//! One side of an established connection: two rings, two doorbells, the control socket.
//!
//! Everything above speaks through a link: it stages records into [`Tx`], takes records from
//! [`Rx`], and waits with [`Waiter`]. The halves can live in different threads. What they share is
//! in [`Shared`]: the ways to wake and to be woken, what the handshake agreed on, and whether the
//! connection is over.

mod establish;
mod rx;
mod tx;
mod wait;

pub(crate) use establish::{Accepting, AcceptOutcome, ClientWishes, connect};
pub(crate) use rx::Rx;
pub(crate) use tx::Tx;
pub(crate) use wait::{Waited, Waiter, Wanted};

use crate::error::{CloseReason, Error, Identity, Violation};
use crate::proto::handshake::{self, Agreed};
use crate::sys::{ControlSocket, Doorbell, Received};
use rustix::fd::OwnedFd;
use std::sync::{Mutex, OnceLock};

/// One side of an established connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) tx: Tx,
    pub(crate) rx: Rx,
    pub(crate) shared: std::sync::Arc<Shared>,
}

/// What both halves of a link share.
#[derive(Debug)]
pub(crate) struct Shared {
    control: ControlSocket,
    /// Rung by the peer, slept on here.
    bell: Doorbell,
    /// Rung here, slept on by the peer.
    peer_bell: Doorbell,
    /// What the handshake agreed on.
    pub(crate) agreed: Agreed,
    /// Who the peer is, as the system says.
    pub(crate) peer: Identity,
    /// Whether this side's segment is made of huge pages.
    pub(crate) huge_pages: bool,
    /// Set once, when the connection is over.
    closed: OnceLock<CloseReason>,
    /// The beginning of a control message that has not arrived whole.
    partial: Mutex<Vec<u8>>,
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
            Some(reason) => Error::Closed { reason: reason.clone() },
            None => Error::Closed { reason: CloseReason::Local },
        }
    }

    /// Ends the connection from this side; the first reason stays. The peer is told why, if the
    /// socket takes it at once, and sees the end of file.
    pub(crate) fn close(&self, reason: CloseReason) {
        let text = reason.to_string();
        if self.closed.set(reason).is_ok() {
            let code = match self.closed() {
                Some(CloseReason::Violation(_)) => handshake::CloseCode::Violation,
                _ => handshake::CloseCode::Finished,
            };
            let message = handshake::Close::new(code, &text).encode();
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
        let mut partial = self.partial.lock().unwrap_or_else(|e| e.into_inner());
        let mut buffer = [0; 1024];
        let mut handles: Vec<OwnedFd> = Vec::new();
        let reason = loop {
            match self.control.receive(&mut buffer, &mut handles) {
                Ok(Received::Nothing) => return,
                Ok(Received::EndOfFile) => break CloseReason::PeerGone,
                Err(error) => {
                    tracing::debug!(%error, "control socket failed");
                    break CloseReason::PeerGone;
                }
                Ok(Received::Bytes(count)) => {
                    if !handles.is_empty() {
                        break CloseReason::Violation(Violation::Control(
                            "descriptors after the handshake".into(),
                        ));
                    }
                    partial.extend_from_slice(&buffer[..count]);
                    match handshake::Close::decode(&partial) {
                        Ok(None) => {}
                        Ok(Some(close)) => break close_reason(close),
                        Err(error) => {
                            break CloseReason::Violation(Violation::Control(error.to_string()));
                        }
                    }
                }
            }
        };
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

fn close_reason(close: handshake::Close) -> CloseReason {
    match close.code {
        handshake::CloseCode::Finished => CloseReason::Finished,
        _ => CloseReason::PeerSays(close.message),
    }
}
