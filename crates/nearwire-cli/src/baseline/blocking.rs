//! One call at a time over a blocking socket.
//!
//! A small frame takes one write and one read on either side.

use std::io::{self, IoSlice, Read, Write};

use anyhow::{Context, Result, bail};

use super::socket::{self, Stream};
use super::{HEADER, header, payload_length};
use crate::process::{Child, Parent};

/// The role of the echo server.
pub const ECHO_ROLE: &str = "socket-echo";

/// Bytes that a reader asks for at least.
const CHUNK: usize = 64 << 10;

/// An echo server in a child process, and a connection to it.
pub struct SocketEcho {
    client: SocketClient,
    server: Child,
}

impl SocketEcho {
    /// Starts the server, on one CPU if `cpu` says so, and connects.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(cpu: Option<usize>) -> Result<Self> {
        let server = Child::start(ECHO_ROLE, cpu)?;
        let end = socket::pair(&server)?;
        Ok(Self {
            client: SocketClient::new(socket::open(end)?),
            server,
        })
    }

    /// The server's process.
    pub fn server(&self) -> &Child {
        &self.server
    }

    /// Sends `payload`, waits for the echo and compares it.
    ///
    /// # Errors
    /// If the server is gone, or the echo differs.
    pub fn round_trip(&mut self, payload: &[u8]) -> Result<()> {
        self.client.round_trip(payload)
    }
}

/// The role of the echo server: serves the connections it is handed, one after the other.
///
/// # Errors
/// If a connection fails.
pub fn serve_echo(parent: Parent) -> Result<()> {
    while let Some(((), descriptors)) = parent.channel().next()? {
        for descriptor in descriptors {
            echo(socket::accept(descriptor)?)?;
        }
    }
    Ok(())
}

/// Echoes frames until the other side closes the connection.
///
/// # Errors
/// If the connection breaks or a frame is too long.
pub fn echo(mut stream: impl Read + Write) -> Result<()> {
    let mut reader = FrameReader::default();
    while let Some(frame) = reader.read(&mut stream)? {
        stream.write_all(frame)?;
    }
    Ok(())
}

/// The calling end of a connection.
pub struct SocketClient {
    stream: Stream,
    reader: FrameReader,
}

impl SocketClient {
    /// Calls over `stream`.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            reader: FrameReader::default(),
        }
    }

    /// Sends `payload`, waits for the echo and compares it.
    ///
    /// # Errors
    /// If the connection breaks, or the echo differs.
    pub fn round_trip(&mut self, payload: &[u8]) -> Result<()> {
        let reply = self.call(payload)?;
        if reply != payload {
            bail!(
                "the echo of {} bytes differs from what was sent",
                payload.len()
            );
        }
        Ok(())
    }

    /// Sends `payload` and waits for the reply.
    ///
    /// # Errors
    /// If the connection breaks, or a payload is too long.
    pub fn call(&mut self, payload: &[u8]) -> Result<&[u8]> {
        write_frame(&mut self.stream, payload)?;
        let frame = self
            .reader
            .read(&mut self.stream)?
            .context("the server is gone")?;
        Ok(&frame[HEADER..])
    }
}

/// Writes a frame without copying the payload; in one system call, if the socket takes it.
///
/// # Errors
/// If the payload is too long, or the other side is gone.
pub fn write_frame(stream: &mut impl Write, payload: &[u8]) -> Result<()> {
    let header = header(payload.len())?;
    let written = loop {
        match stream.write_vectored(&[IoSlice::new(&header), IoSlice::new(payload)]) {
            Ok(written) => break written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    };
    if written < HEADER {
        stream.write_all(&header[written..])?;
    }
    stream.write_all(&payload[written.saturating_sub(HEADER)..])?;
    Ok(())
}

/// Cuts what is read into frames.
#[derive(Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes read into the buffer.
    filled: usize,
    /// Bytes of the frame that was given out last, at the buffer's start.
    given: usize,
}

impl FrameReader {
    /// Whether the next frame is here already, as a whole.
    pub fn has_more(&self) -> bool {
        let rest = &self.buffer[self.given..self.filled];
        let length = rest.first_chunk().map(|header| payload_length(*header));
        length.is_some_and(|length| length.is_ok_and(|length| rest.len() >= HEADER + length))
    }

    /// The next frame, with its header; `None` at the end of the stream.
    ///
    /// # Errors
    /// If a frame is too long or cut off, or reading fails.
    pub fn read(&mut self, stream: &mut impl Read) -> Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= std::mem::take(&mut self.given);
        loop {
            let header = self.buffer[..self.filled].first_chunk();
            let wanted = match header {
                Some(header) => HEADER + payload_length(*header)?,
                None => HEADER,
            };
            if self.filled >= wanted {
                self.given = wanted;
                return Ok(Some(&self.buffer[..wanted]));
            }
            if self.buffer.is_empty() {
                // Zero pages from the system, of which an idle connection touches one.
                self.buffer = vec![0; wanted.max(CHUNK)];
            } else if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            match stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) if self.filled == 0 => return Ok(None),
                Ok(0) => bail!("the connection ended in the middle of a frame"),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len()).min(self.0.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn frames(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend(header(payload.len()).unwrap());
            bytes.extend(*payload);
        }
        bytes
    }

    #[test]
    fn frames_are_cut_at_any_grain() {
        let long = vec![7; 3 * CHUNK];
        let payloads: [&[u8]; 4] = [b"one", b"", &long, b"four"];
        let bytes = frames(&payloads);
        for grain in [1, 3, 5, 1000, usize::MAX] {
            let (mut reader, mut stream) = (FrameReader::default(), Trickle(&bytes, grain));
            for payload in payloads {
                assert_eq!(
                    &reader.read(&mut stream).unwrap().unwrap()[HEADER..],
                    payload
                );
            }
            assert!(reader.read(&mut stream).unwrap().is_none());
        }
    }

    #[test]
    fn a_cut_off_frame_is_an_error() {
        let bytes = frames(&[b"whole"]);
        for length in 1..bytes.len() {
            let result = FrameReader::default()
                .read(&mut Trickle(&bytes[..length], 2))
                .map(drop);
            assert!(result.unwrap_err().to_string().contains("in the middle"));
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_allocates_nothing() {
        let mut reader = FrameReader::default();
        let result = reader.read(&mut Trickle(&[0xff; 64], 64)).map(drop);
        assert!(result.unwrap_err().to_string().contains("longer than"));
        assert!(reader.buffer.len() <= CHUNK);
    }

    #[test]
    fn echoes_come_back_whole() {
        let (near, far) = socket::ends().unwrap();
        let server = std::thread::spawn(move || echo(socket::accept(far)?));
        let mut client = SocketClient::new(socket::open(near).unwrap());
        for size in [0, 1, 64, CHUNK, 1 << 20] {
            client.round_trip(&vec![size as u8; size]).unwrap();
        }
        drop(client);
        server.join().unwrap().unwrap();
    }
}
