//! A Unix stream socket.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::unless_blocking;
use crate::process::Descriptor;

/// What reports call it.
pub const NAME: &str = "Unix socket";

/// An end for a thread that waits.
pub type Stream = UnixStream;

/// An end for Tokio.
pub type AsyncStream = tokio::net::UnixStream;

/// What leads to the ends of a new connection: the caller's, and the server's.
///
/// # Errors
/// If the system refuses it.
pub fn ends() -> Result<(Descriptor, Descriptor)> {
    let (near, far) = UnixStream::pair().context("cannot make a socket pair")?;
    Ok((near.into(), far.into()))
}

/// The caller's end.
///
/// # Errors
/// None on this system.
pub fn open(end: Descriptor) -> Result<Stream> {
    Ok(end.into())
}

/// The caller's end, for the runtime that this runs in.
///
/// # Errors
/// If the system refuses it.
pub fn open_async(end: Descriptor) -> Result<AsyncStream> {
    for_tokio(end.into())
}

/// The server's end.
///
/// # Errors
/// None on this system.
pub fn accept(end: Descriptor) -> Result<Stream> {
    open(end)
}

/// The server's end, for the runtime that this runs in.
///
/// # Errors
/// If the system refuses it.
pub async fn accept_async(end: Descriptor) -> Result<AsyncStream> {
    open_async(end)
}

fn for_tokio(stream: UnixStream) -> Result<AsyncStream> {
    stream.set_nonblocking(true)?;
    Ok(AsyncStream::from_std(stream)?)
}

/// Connects to a [`Listener`].
///
/// # Errors
/// If nobody listens there.
pub fn connect(path: &str) -> Result<Stream> {
    UnixStream::connect(path).context("cannot connect to the server on a Unix socket")
}

/// As [`connect`], for the runtime that this runs in.
///
/// # Errors
/// As [`connect`].
pub fn connect_async(path: &str) -> Result<AsyncStream> {
    for_tokio(connect(path)?)
}

/// A server's socket, for the runtime that it is made in.
pub struct Listener(tokio::net::UnixListener);

impl Listener {
    /// Listens at a path.
    ///
    /// # Errors
    /// If the path is taken, or cannot be had.
    pub fn bind(path: &str) -> Result<Self> {
        let cannot = || format!("cannot serve at {path}");
        let listener = UnixListener::bind(path).with_context(cannot)?;
        listener.set_nonblocking(true)?;
        Ok(Self(tokio::net::UnixListener::from_std(listener)?))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If descriptors are used up, as a rule.
    pub async fn accept(&mut self) -> io::Result<AsyncStream> {
        Ok(self.0.accept().await?.0)
    }
}

/// What connections that never block have in common: nothing, here.
#[derive(Debug, Clone)]
pub struct Driver;

impl Driver {
    /// For all connections of a thread.
    ///
    /// # Errors
    /// None on this system.
    pub fn new() -> Result<Self> {
        Ok(Self)
    }
}

/// A caller's end that never blocks, but when asked to.
pub struct Polled(UnixStream);

impl Polled {
    /// As [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub fn connect(path: &str, driver: &Driver) -> Result<Self> {
        Self::of(connect(path)?, driver)
    }

    /// As [`open`].
    ///
    /// # Errors
    /// If the system refuses it.
    #[cfg(test)]
    pub fn open(end: Descriptor, driver: &Driver) -> Result<Self> {
        Self::of(open(end)?, driver)
    }

    fn of(stream: UnixStream, _: &Driver) -> Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(stream))
    }

    /// Reads what is there, 0 bytes at the end; `None` if there is nothing.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        unless_blocking(|| self.0.read(into))
    }

    /// Writes what there is room for; `None` if there is none.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_blocking(|| self.0.write(bytes))
    }

    /// Blocks until there is something to read, or room to write if that is wished for.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn wait(&mut self, for_room: bool) -> io::Result<()> {
        let mut flags = PollFlags::IN;
        if for_room {
            flags |= PollFlags::OUT;
        }
        loop {
            match poll(&mut [PollFd::new(&self.0, flags)], None) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
