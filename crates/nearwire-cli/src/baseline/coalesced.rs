//! Many calls in flight over a socket on Tokio, frames coalesced by hand.
//!
//! The client writes as many frames at a time as its window has room for; the server reads large
//! chunks and answers all frames of a chunk with one write. That is what a careful author gets
//! out of a socket, not what a library on top of one gives.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::runtime::{Builder, Runtime};

use super::socket::{self, AsyncStream};
use super::{HEADER, header, payload_length};
use crate::process::{Child, Parent};

/// The role of the echo server.
pub const COALESCED_ROLE: &str = "coalesced-echo";

/// Bytes that either side reads at a time, at most.
const CHUNK: usize = 64 << 10;

/// Bytes of a payload that number it; the least size of a payload.
const NUMBER: usize = 8;

/// A client with a window of calls in flight, and its server in a child process.
pub struct CoalescedEcho {
    runtime: Runtime,
    client: Client,
    server: Child,
}

impl CoalescedEcho {
    /// Starts the server, on one CPU if `cpu` says so, and connects. `size` is in bytes, `window` in
    /// calls.
    ///
    /// # Errors
    /// If the process or the runtime cannot be started, the window is empty, or the size below 8.
    pub fn start(cpu: Option<usize>, size: usize, window: usize) -> Result<Self> {
        let server = Child::start(COALESCED_ROLE, cpu)?;
        let runtime = runtime()?;
        let end = socket::pair(&server)?;
        let client = {
            let _context = runtime.enter();
            Client::new(Arc::new(socket::open_async(end)?), size, window)?
        };
        Ok(Self {
            runtime,
            client,
            server,
        })
    }

    /// The server's process.
    pub fn server(&self) -> &Child {
        &self.server
    }

    /// Makes `count` calls, waiting for replies only while the window is full.
    ///
    /// # Errors
    /// If the server is gone, or a reply differs from its call.
    pub fn calls(&mut self, count: u64) -> Result<()> {
        self.runtime.block_on(self.client.calls(count))
    }

    /// Waits for all replies that are due.
    ///
    /// # Errors
    /// As [`calls`](Self::calls).
    pub fn drain(&mut self) -> Result<()> {
        self.runtime.block_on(self.client.drain())
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_io().build()?)
}

/// The calling side. Every payload begins with its call's number; the rest is the same for all.
pub struct Client {
    stream: Arc<AsyncStream>,
    window: u64,
    /// A whole frame, but for the number.
    template: Vec<u8>,
    /// Frames to write, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// What was read and is not yet a whole frame.
    input: Vec<u8>,
    called: u64,
    answered: u64,
}

impl Client {
    /// Calls over `stream` with up to `window` calls in flight, each of `size` bytes.
    ///
    /// # Errors
    /// If the window is empty, or the size below 8.
    pub fn new(stream: Arc<AsyncStream>, size: usize, window: usize) -> Result<Self> {
        if size < NUMBER {
            bail!("a payload takes at least {NUMBER} bytes: it is numbered");
        }
        if window == 0 {
            bail!("a window takes at least one call");
        }
        let mut template = header(size)?.to_vec();
        template.extend((0..size).map(|at| (at * 7) as u8));
        Ok(Self {
            stream,
            window: window as u64,
            template,
            output: Vec::new(),
            written: 0,
            input: Vec::new(),
            called: 0,
            answered: 0,
        })
    }

    /// Makes `count` calls, waiting for replies only while the window is full.
    ///
    /// # Errors
    /// If the server is gone, or a reply differs from its call.
    pub async fn calls(&mut self, count: u64) -> Result<()> {
        let end = self.called + count;
        while self.called < end {
            let room = self.window - (self.called - self.answered);
            for number in self.called..end.min(self.called + room) {
                let start = self.output.len() + HEADER;
                self.output.extend(&self.template);
                self.output[start..start + NUMBER].copy_from_slice(&number.to_le_bytes());
                self.called += 1;
            }
            self.write()?;
            if self.called < end || self.is_writing() {
                self.read().await?;
            }
        }
        Ok(())
    }

    /// Waits for all replies that are due.
    ///
    /// # Errors
    /// As [`calls`](Self::calls).
    pub async fn drain(&mut self) -> Result<()> {
        while self.answered < self.called {
            self.read().await?;
        }
        Ok(())
    }

    fn is_writing(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> Result<()> {
        while self.is_writing() {
            match self.stream.try_write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the server is gone"),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Waits for replies and checks them; goes on writing meanwhile, because a server that cannot
    /// get rid of its replies stops reading.
    async fn read(&mut self) -> Result<()> {
        loop {
            let interest = if self.is_writing() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            self.stream.ready(interest).await?;
            self.write()?;
            self.input.reserve(CHUNK);
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => bail!("the server is gone"),
                Ok(_) => return self.check(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("the server is gone"),
            }
        }
    }

    /// Compares all whole replies with their calls.
    fn check(&mut self) -> Result<()> {
        let (header, rest) = (&self.template[..HEADER], &self.template[HEADER + NUMBER..]);
        let mut frames = self.input.chunks_exact(self.template.len());
        for frame in &mut frames {
            let number = &frame[HEADER..HEADER + NUMBER];
            if &frame[..HEADER] != header
                || number != self.answered.to_le_bytes()
                || &frame[HEADER + NUMBER..] != rest
            {
                bail!("the reply to call {} differs from the call", self.answered);
            }
            self.answered += 1;
        }
        let left = frames.remainder().len();
        self.input.drain(..self.input.len() - left);
        Ok(())
    }
}

/// The role of the echo server: serves the connections it is handed, one after the other.
///
/// # Errors
/// If a connection fails.
pub fn serve_coalesced(parent: Parent) -> Result<()> {
    let runtime = runtime()?;
    while let Some(((), descriptors)) = parent.channel().next()? {
        for descriptor in descriptors {
            runtime.block_on(async { echo(socket::accept_async(descriptor).await?).await })?;
        }
    }
    Ok(())
}

/// Answers all whole frames of each chunk with one write, until the other side closes.
pub(super) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut input = Vec::with_capacity(CHUNK);
    let mut output = Vec::with_capacity(CHUNK);
    loop {
        input.reserve(CHUNK);
        if socket::end_of_broken(stream.read_buf(&mut input).await)? == 0 {
            if input.is_empty() {
                return Ok(());
            }
            bail!("the connection ended in the middle of a frame");
        }
        let mut done = 0;
        while let Some(start) = input[done..].first_chunk::<HEADER>() {
            let payload = payload_length(*start)?;
            let Some(payload) = input[done + HEADER..].get(..payload) else {
                break;
            };
            output.extend(header(payload.len())?);
            output.extend(payload);
            done += HEADER + payload.len();
        }
        input.drain(..done);
        stream.write_all(&output).await?;
        output.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(size: usize, window: usize) -> (Runtime, Client, std::thread::JoinHandle<Result<()>>) {
        let (near, far) = socket::ends().unwrap();
        let server = std::thread::spawn(move || {
            runtime()?.block_on(async { echo(socket::accept_async(far).await?).await })
        });
        let runtime = runtime().unwrap();
        let client = {
            let _context = runtime.enter();
            Client::new(Arc::new(socket::open_async(near).unwrap()), size, window).unwrap()
        };
        (runtime, client, server)
    }

    #[test]
    fn every_call_is_answered() {
        // The last: more bytes in flight than both directions of the socket hold.
        for (size, window, calls) in [(8, 1, 50), (64, 64, 1000), (1 << 20, 8, 40)] {
            let (runtime, mut client, server) = pair(size, window);
            runtime.block_on(client.calls(calls)).unwrap();
            assert!(client.called - client.answered <= window as u64);
            runtime.block_on(client.drain()).unwrap();
            assert_eq!((client.called, client.answered), (calls, calls));
            drop((client, runtime));
            server.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_wrong_reply_is_noticed() {
        let (near, far) = socket::ends().unwrap();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut far = socket::accept(far).unwrap();
            let mut frame = [0; HEADER + 64];
            far.read_exact(&mut frame).unwrap();
            frame[HEADER + 63] ^= 1;
            far.write_all(&frame).unwrap();
            far
        });
        let runtime = runtime().unwrap();
        let mut client = {
            let _context = runtime.enter();
            Client::new(Arc::new(socket::open_async(near).unwrap()), 64, 1).unwrap()
        };
        let result = runtime.block_on(async {
            client.calls(1).await?;
            client.drain().await
        });
        assert!(result.unwrap_err().to_string().contains("differs"));
        server.join().unwrap();
    }
}
