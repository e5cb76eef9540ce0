//! Byte streams, blocking.

use super::bytes::{ByteRx, ByteTx, io_error};
use super::open::{Open, Place, WaitStats};
use crate::client::ClientBuilder;
use crate::error::{Identity, Result, Small};
use crate::link::{Link, Waited, Waiter};
use crate::settings::{Spin, Transport};
use std::io::{self, Read, Write};

/// A connection that carries bytes in both directions, for threads: what a socket is, with the
/// ring in place of the kernel's buffers.
///
/// Every [`write`](Write::write) is visible to the peer at once and [`flush`](Write::flush) has
/// nothing to do; a `BufWriter` still pays for programs that write a few bytes at a time, since
/// each write takes at least 16 bytes of the ring. A write takes what there is space for and blocks
/// only while there is none; a read gives what is there and blocks only while nothing is.
///
/// Reading gives `Ok(0)` when the peer has finished, and [`io::ErrorKind::ConnectionReset`] when it
/// is gone without having done so, both after everything that it had written. Writing gives
/// [`io::ErrorKind::BrokenPipe`] when the peer has dropped its end or this side has finished. The
/// [`Error`](crate::Error) is inside the [`io::Error`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use nearwire::ByteStream;
/// use std::io::{BufRead, BufReader, Write};
///
/// let (reader, mut writer) = ByteStream::connect("log")?.split();
/// writeln!(writer, "tail 10")?;
/// writer.finish();
/// for line in BufReader::new(reader).lines() {
///     println!("{}", line?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ByteStream {
    reader: ByteReader,
    writer: ByteWriter,
}

/// The reading half of a [`ByteStream`].
#[derive(Debug)]
pub struct ByteReader {
    half: ByteRx,
    waiter: Waiter,
}

/// The writing half of a [`ByteStream`]. Dropping it finishes this direction, and waits for nothing:
/// over the socket the end itself may be sent by another thread then, which ends with the process.
/// Who exits [finishes](Self::finish) first.
#[derive(Debug)]
pub struct ByteWriter {
    half: ByteTx,
    waiter: Waiter,
}

impl ByteStream {
    /// Connects to a [`ByteListener`](super::ByteListener) with the default settings. Blocks for
    /// 5 s at most.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_bytes_blocking`].
    pub fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect_bytes_blocking(name)
    }

    pub(crate) fn new(link: Box<Link>, spin: Spin, place: Option<Place>) -> Self {
        let Link { mut tx, rx, shared } = *link;
        let open = Open::new(shared.clone(), place);
        tx.set_patient(true);
        Self {
            reader: ByteReader {
                half: ByteRx::new(rx, open.clone()),
                waiter: Waiter::new(shared.clone(), spin),
            },
            writer: ByteWriter {
                half: ByteTx::new(tx, open),
                waiter: Waiter::new(shared, spin),
            },
        }
    }

    /// The two halves, for two threads.
    pub fn split(self) -> (ByteReader, ByteWriter) {
        (self.reader, self.writer)
    }

    /// As [`ByteWriter::finish`].
    pub fn finish(&mut self) {
        self.writer.finish();
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

impl Read for ByteStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.reader.read(to)
    }
}

impl Write for ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ByteReader {
    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.rx.rings(), waiter.sleeps(), waiter.spins())
    }

    #[cold]
    #[inline(never)]
    fn wait_and_read(&mut self, to: &mut [u8]) -> Small<usize> {
        loop {
            if self.half.is_finished()? {
                return Ok(0);
            }
            if self.waiter.wait(self.half.data(), None)? == Waited::Closed {
                return self.half.read_last(to);
            }
            let count = self.half.read(to)?;
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

impl Read for ByteReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        match self.half.read(to).map_err(io_error)? {
            0 => self.wait_and_read(to).map_err(io_error),
            count => Ok(count),
        }
    }
}

impl ByteWriter {
    /// Ends this direction: the peer reads everything that was written and then the end of file.
    /// Needs no space in the ring, and blocks only over the socket, until the system has all of it, so
    /// that this process may exit. Writing afterwards is an error.
    pub fn finish(&mut self) {
        self.half.tx.close();
    }

    /// Who the peer is, as the system tells.
    pub fn peer(&self) -> Identity {
        self.half.open.peer()
    }

    /// How this half has waited so far.
    pub fn wait_stats(&self) -> WaitStats {
        let waiter = &self.waiter;
        WaitStats::new(self.half.tx.rings(), waiter.sleeps(), waiter.spins())
    }

    #[cold]
    #[inline(never)]
    fn wait_and_write(&mut self, bytes: &[u8]) -> Small<usize> {
        loop {
            let space = self.half.space(bytes.len());
            if self.waiter.wait(space, None)? == Waited::Closed {
                return Err(self.half.open.closed_error().into());
            }
            let count = self.half.write(bytes)?;
            if count > 0 {
                return Ok(count);
            }
        }
    }
}

impl Write for ByteWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.half.write(bytes).map_err(io_error)? {
            0 => self.wait_and_write(bytes).map_err(io_error),
            count => Ok(count),
        }
    }

    /// Nothing: what was written is visible already.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ByteWriter {
    fn drop(&mut self) {
        self.half.tx.set_patient(false);
        self.finish();
    }
}
