//! The methods of a server: names, shapes, handlers.

use crate::error::{Error, Identity, Result, Status};
use crate::proto::frame::TraceContext;
use crate::proto::handshake::{CallShape, Method};
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::{future::Future, pin::Pin};

/// Bytes of names, with three for each, that fit into the handshake whatever else is in it.
const MAX_TABLE: usize = 1_040_000;

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
    /// The trace that the call belongs to, and the caller's span of it, if the caller said so.
    pub trace: Option<TraceContext>,
}

/// A handler that runs on the worker: request in, reply appended to a buffer.
pub(crate) type SyncHandler =
    dyn Fn(&CallContext, &[u8], &mut Vec<u8>) -> Result<(), Status> + Send + Sync;

/// A call that goes on by itself.
#[cfg(feature = "tokio")]
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, Status>> + Send>>;

/// A handler that starts such a call. What it gives at the end is empty if it answers by a stream.
#[cfg(feature = "tokio")]
pub(crate) type AsyncHandler = dyn Fn(CallContext, Vec<u8>, Streams) -> HandlerFuture + Send + Sync;

/// The handler's ends of a call's streams, as the shape has them.
#[cfg(feature = "tokio")]
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) receiver: Option<super::ByteItemReceiver>,
    pub(crate) sender: Option<super::ByteItemSender>,
}

pub(crate) enum Handler {
    Sync(Box<SyncHandler>),
    #[cfg(feature = "tokio")]
    Async {
        shape: CallShape,
        start: Box<AsyncHandler>,
    },
}

impl Handler {
    pub(crate) fn shape(&self) -> CallShape {
        match self {
            Handler::Sync(_) => CallShape::Unary,
            #[cfg(feature = "tokio")]
            Handler::Async { shape, .. } => *shape,
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handler::Sync(_) => f.write_str("sync"),
            #[cfg(feature = "tokio")]
            Handler::Async { shape, .. } => write!(f, "async {shape:?}"),
        }
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
    /// For what no client could be told: [`Error::BadName`] for a name that is empty, above 255
    /// bytes or has control characters; [`Error::Setting`] if all names together are too much.
    pub(crate) fn check(&self) -> Result<()> {
        for name in &self.names {
            let bad = name.is_empty() || name.len() > 255 || name.chars().any(char::is_control);
            if bad {
                return Err(Error::BadName { name: name.clone() });
            }
        }
        let bytes: usize = self.names.iter().map(|name| name.len() + 3).sum();
        if self.names.len() > usize::from(u16::MAX) || bytes > MAX_TABLE {
            return Err(Error::Setting {
                setting: "the table of methods",
                rule: "at most 65,535 methods whose names have 1,040,000 bytes together",
            });
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn get(&self, method: u16) -> Option<&Handler> {
        self.handlers.get(usize::from(method))
    }

    /// What a method is called.
    pub(crate) fn name(&self, method: u16) -> &str {
        self.names
            .get(usize::from(method))
            .map_or("", String::as_str)
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
