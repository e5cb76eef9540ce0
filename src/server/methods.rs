//! The methods of a server: names, shapes, handlers.

use crate::error::{Error, Identity, Result, Status};
use crate::proto::handshake::{CallShape, Method};
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::{future::Future, pin::Pin};

/// What a handler may know of a call besides the request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallContext {
    /// Who calls, as the system tells.
    pub peer: Identity,
    /// The connection's number, unique within the server's life.
    pub connection: u64,
    /// When the caller stops waiting, if it said so.
    pub deadline: Option<std::time::Instant>,
}

/// A handler that runs on the worker: request in, reply appended to a buffer.
pub(crate) type SyncHandler =
    dyn Fn(&CallContext, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync;

/// A call that goes on by itself.
#[cfg(feature = "tokio")]
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Vec<u8>, Status>> + Send>>;

/// A handler that starts such a call.
#[cfg(feature = "tokio")]
pub(crate) type AsyncHandler = dyn Fn(CallContext, Vec<u8>) -> Running + Send + Sync;

/// A handler that starts a call which is answered by a stream. What it gives at the end is empty.
#[cfg(feature = "tokio")]
pub(crate) type StreamHandler =
    dyn Fn(CallContext, Vec<u8>, super::ByteItemSender) -> Running + Send + Sync;

pub(crate) enum Handler {
    Sync(Box<SyncHandler>),
    #[cfg(feature = "tokio")]
    Async(Box<AsyncHandler>),
    #[cfg(feature = "tokio")]
    Stream(Box<StreamHandler>),
}

impl Handler {
    fn shape(&self) -> CallShape {
        match self {
            #[cfg(feature = "tokio")]
            Handler::Stream(_) => CallShape::ServerStream,
            _ => CallShape::Unary,
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::Sync(_) => "sync",
            #[cfg(feature = "tokio")]
            Handler::Async(_) => "async",
            #[cfg(feature = "tokio")]
            Handler::Stream(_) => "stream",
        })
    }
}

/// All methods of a server; a method's number is its place.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    names: Vec<String>,
    handlers: Vec<Handler>,
}

impl Methods {
    /// Adds a method, or replaces the one of that name.
    pub(crate) fn add(&mut self, name: &str, handler: Handler) {
        match self.names.iter().position(|known| known == name) {
            Some(place) => self.handlers[place] = handler,
            None => {
                self.names.push(name.to_owned());
                self.handlers.push(handler);
            }
        }
    }

    /// # Errors
    /// [`Error::BadName`] for a name that the handshake cannot carry: empty, or above 255 bytes.
    pub(crate) fn check(&self) -> Result<()> {
        for name in &self.names {
            if name.is_empty() || name.len() > 255 {
                return Err(Error::BadName { name: name.clone() });
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn get(&self, method: u16) -> Option<&Handler> {
        self.handlers.get(usize::from(method))
    }
    /// The table that clients are given.
    pub(crate) fn table(&self) -> Arc<[Method]> {
        let entry = |(name, handler): (&String, &Handler)| Method {
            shape: handler.shape(),
            name: name.as_str().into(),
        };
        self.names.iter().zip(&self.handlers).map(entry).collect()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn need_a_runtime(&self) -> Option<&str> {
        let place = self
            .handlers
            .iter()
            .position(|h| !matches!(h, Handler::Sync(_)))?;
        Some(&self.names[place])
    }
}
