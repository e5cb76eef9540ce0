//! Byte streams, for tasks.

use super::bytes::{ByteRx, ByteTx, io_error};
use super::open::{Open, Place, WaitStats};
use crate::client::ClientBuilder;
use crate::error::{Identity, Result, Small};
use crate::link::{AsyncWaiter, Link, Waited};
use crate::settings::{Spin, Transport};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

/// A connection that carries bytes in both directions, for tasks: [`AsyncRead`] and
/// [`AsyncWrite`].
///
/// The async counterpart of [`ByteStream`](crate::ByteStream), which tells what reads and writes
/// do and how they end; the two kinds can be at the two ends of a connection. No method blocks the
/// thread: see [`AsyncConnection`](crate::AsyncConnection). Flushing has nothing to do; shutting
/// down finishes this side's direction. Dropped futures lose nothing.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use nearwire::AsyncByteStream;
///
/// let mut stream = AsyncByteStream::connect("log").await?;
/// tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AsyncByteStream {
    reader: AsyncByteReader,
    writer: AsyncByteWriter,
}

/// The reading half of an [`AsyncByteStream`].
#[derive(Debug)]
pub struct AsyncByteReader {
    half: ByteRx,
    waiter: AsyncWaiter,
}

/// The writing half of an [`AsyncByteStream`]. Dropping it finishes this direction, and waits for
/// nothing: over the socket what the system has no room for is sent by another thread then, which
/// ends with the process. Who exits shuts it down first (`AsyncWriteExt::shutdown`).
#[derive(Debug)]
pub struct AsyncByteWriter {
    half: ByteTx,
    waiter: AsyncWaiter,
}

impl AsyncByteStream {
    /// Connects to a [`ByteListener`](crate::ByteListener) with the default settings. Takes 5 s at
    /// most.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_bytes`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect_bytes(name).await
    }

    /// Must be called inside the runtime whose reactor is to watch the connection.
    pub(crate) fn new(link: Box<Link>, spin: Spin, place: Option<Place>) -> Result<Self> {
        let Link { tx, rx, shared } = *link;
        let open = Open::new(shared.clone(), place);
        Ok(Self {
            reader: AsyncByteReader {
                half: ByteRx::new(rx, open.clone()),
                waiter: AsyncWaiter::new(shared.clone(), spin)?,
            },
            writer: AsyncByteWriter {
                half: ByteTx::new(tx, open),
                waiter: AsyncWaiter::new(shared, spin)?,
            },
        })
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (AsyncByteReader, AsyncByteWriter) {
        (self.reader, self.writer)
    }

    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.reader.peer()
    }

    /// What carries the frames.
    pub fn transport(&self) -> Transport {
        self.reader.half.open.transport()
    }

    /// What the peer calls itself; empty if it said nothing.
    pub fn peer_label(&self) -> &str {
        self.reader.half.open.peer_label()
    }

    /// How both halves have waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        self.reader.wait_stats().and(self.writer.wait_stats())
    }
}

impl AsyncByteReader {
    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.rx.rings(), waiter.sleeps(), waiter.spins())
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<Small<usize>> {
        loop {
            let count = self.half.read(to)?;
            if count > 0 {
                self.waiter.disarm(self.half.data());
                return Poll::Ready(Ok(count));
            }
            if self.half.is_finished()? {
                return Poll::Ready(Ok(0));
            }
            if ready!(self.waiter.poll_wait(cx, self.half.data()))? == Waited::Closed {
                return Poll::Ready(self.half.read_last(to));
            }
        }
    }
}

impl AsyncRead for AsyncByteReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if to.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let coop = ready!(coop::poll_proceed(cx));
        let read = ready!(self.poll_bytes(cx, to.initialize_unfilled()));
        coop.made_progress();
        to.advance(read.map_err(io_error)?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncByteWriter {
    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.tx.rings(), waiter.sleeps(), waiter.spins())
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Small<usize>> {
        loop {
            let count = self.half.write(bytes)?;
            if count > 0 {
                self.waiter.disarm(self.half.space(0));
                return Poll::Ready(Ok(count));
            }
            let space = self.half.space(bytes.len());
            if ready!(self.waiter.poll_wait(cx, space))? == Waited::Closed {
                return Poll::Ready(Err(self.half.open.closed_error().into()));
            }
        }
    }
}

impl AsyncWrite for AsyncByteWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let coop = ready!(coop::poll_proceed(cx));
        let written = ready!(self.poll_bytes(cx, bytes));
        coop.made_progress();
        Poll::Ready(written.map_err(io_error))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half.tx.close();
        self.waiter.poll_sent(cx).map_err(io_error)
    }
}

impl Drop for AsyncByteWriter {
    fn drop(&mut self) {
        self.half.tx.close();
    }
}

impl AsyncRead for AsyncByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, to)
    }
}

impl AsyncWrite for AsyncByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
