//! Connecting, for messages and bytes.

use super::{ByteStream, Connection};
use crate::client::ClientBuilder;
use crate::error::Result;
use crate::proto::mode::Mode;
#[cfg(feature = "tokio")]
use {
    super::{AsyncByteStream, AsyncConnection},
    crate::error::Error,
    crate::link::Link,
};

impl ClientBuilder {
    /// Connects to a [`Listener`](crate::Listener). Blocks for the timeout at most.
    ///
    /// # Errors
    /// As [`connect_blocking`](Self::connect_blocking); [`Error::Handshake`](crate::Error::Handshake)
    /// also if the server listens for something else than messages.
    pub fn connect_messages_blocking(&self, name: &str) -> Result<Connection> {
        let link = self.link(name, Mode::Messages)?;
        Ok(Connection::new(Box::new(link), self.spin, None))
    }

    /// Connects to a [`ByteListener`](crate::ByteListener). Blocks for the timeout at most.
    ///
    /// # Errors
    /// As [`connect_messages_blocking`](Self::connect_messages_blocking).
    pub fn connect_bytes_blocking(&self, name: &str) -> Result<ByteStream> {
        let link = self.link(name, Mode::Bytes)?;
        Ok(ByteStream::new(Box::new(link), self.spin, None))
    }

    /// Connects to a [`Listener`](crate::Listener). The handshake runs on a blocking thread of the
    /// runtime.
    ///
    /// # Errors
    /// As [`connect_messages_blocking`](Self::connect_messages_blocking).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[cfg(feature = "tokio")]
    pub async fn connect_messages(&self, name: &str) -> Result<AsyncConnection> {
        let link = self.link_elsewhere(name, Mode::Messages).await?;
        AsyncConnection::new(link, self.spin, None)
    }

    /// Connects to a [`ByteListener`](crate::ByteListener). The handshake runs on a blocking
    /// thread of the runtime.
    ///
    /// # Errors
    /// As [`connect_messages_blocking`](Self::connect_messages_blocking).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[cfg(feature = "tokio")]
    pub async fn connect_bytes(&self, name: &str) -> Result<AsyncByteStream> {
        let link = self.link_elsewhere(name, Mode::Bytes).await?;
        AsyncByteStream::new(link, self.spin, None)
    }

    #[cfg(feature = "tokio")]
    async fn link_elsewhere(&self, name: &str, mode: Mode) -> Result<Box<Link>> {
        let (settings, name) = (self.clone(), name.to_owned());
        let linked = tokio::task::spawn_blocking(move || settings.link(&name, mode).map(Box::new));
        linked.await.map_err(|_| {
            Error::io("connect: the runtime is shutting down")(std::io::ErrorKind::Other.into())
        })?
    }
}
