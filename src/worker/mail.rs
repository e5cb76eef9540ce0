//! What other threads hand to a worker.

#[cfg(feature = "tokio")]
use crate::error::Status;
use crate::link::Link;
use crate::mailbox::{self, Wake};
use crate::sys::MultiplexerWaker;
#[cfg(feature = "tokio")]
use std::sync::Arc;
use std::time::Instant;

/// What a worker is given.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A connection, to be owned from now on.
    Connection(Box<Link>),
    /// Something happened to a call that went to the runtime.
    #[cfg(feature = "tokio")]
    Call {
        /// The worker's key of the connection.
        key: usize,
        /// The connection's number, for keys are used again.
        connection: u64,
        /// The call.
        request: u64,
        /// What happened.
        event: CallEvent,
    },
    /// Finish what is in flight, at the latest at this time, then end.
    Drain(Instant),
}

/// What a handler in the runtime does.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(crate) enum CallEvent {
    /// It is done.
    Ended(Result<Vec<u8>, Status>),
    /// It sends an item of a stream, which was paid for with credits.
    Item(Vec<u8>),
    /// It has taken items of the caller's stream, of so many credits.
    Credits(u32),
}

/// Where a call belongs.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) key: usize,
    pub(super) connection: u64,
    pub(super) request: u64,
}

#[cfg(feature = "tokio")]
impl Address {
    /// Tells the worker what the call does.
    pub(crate) fn post(&self, event: CallEvent) {
        self.mailbox.post(Mail::Call {
            key: self.key,
            connection: self.connection,
            request: self.request,
            event,
        });
    }
}

impl Wake for MultiplexerWaker {
    fn wake(&self) {
        MultiplexerWaker::wake(self);
    }
}

/// Mail for one worker, which sleeps in its multiplexer.
pub(crate) type Mailbox = mailbox::Mailbox<Mail, MultiplexerWaker>;
