//! A Unix stream socket and Tokio.

use std::any::Any;
use std::path::Path;
use std::thread;

use anyhow::{Result, ensure};
use nearwire_cli::comparison::{HEADER, header, payload_length};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::frames::Writing;
use crate::drive::awaited::{Lane, Lanes};
use crate::drive::runtime;
use crate::message::Expected;
use crate::peer::{Ability, About, Peer, Setup};

/// Bytes that are read at a time, at most.
const CHUNK: usize = 64 << 10;

/// One system call for each message.
pub struct Singly;

/// Messages in flight share system calls.
pub struct Coalesced;

impl Peer for Singly {
    type Clients = Lanes<Frames>;
    const ABOUT: About = About {
        name: "unix-tokio",
        title: "Unix socket, Tokio",
        spins: false,
        packages: &["tokio"],
        configuration: "Either side is a Tokio runtime of one thread (with two cores a second thread \
            only gets in the way), the server with a task for each connection. The same frames, one \
            write for each message, reads of up to 64 KiB.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(&setup.place, Writing::Singly)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, Writing::Singly)
    }
}

impl Peer for Coalesced {
    type Clients = Lanes<Frames>;
    const ABOUT: About = About {
        name: "unix-tokio-coalesced",
        title: "Unix socket, Tokio, coalesced",
        spins: false,
        packages: &["tokio"],
        configuration: "As above, with half a window of requests in one write, and all replies to what \
            a read brought in one write. Only shows with several calls in flight.",
        cannot: &[
            (
                Ability::RoundTrips,
                "one call in flight: nothing to coalesce",
            ),
            (Ability::Crowd, "one call in flight: nothing to coalesce"),
            (Ability::Connect, "connects as without"),
        ],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(&setup.place, Writing::Coalesced)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, Writing::Coalesced)
    }
}

fn serve(place: &Path, writing: Writing) -> Result<Box<dyn Any>> {
    let listener = std::os::unix::net::UnixListener::bind(place.join("socket"))?;
    listener.set_nonblocking(true)?;
    let runtime = runtime()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(async move {
                    let mut frames = Frames::new(stream, writing);
                    while frames.answer().await? {}
                    anyhow::Ok(())
                });
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            anyhow::Ok(())
        })
    });
    Ok(Box::new(()))
}

fn connect(setup: &Setup, writing: Writing) -> Result<Lanes<Frames>> {
    Lanes::open(setup.own, |_| async {
        let stream = UnixStream::connect(setup.place.join("socket")).await?;
        Ok(Frames::new(stream, writing))
    })
}

/// Either end of a connection.
pub struct Frames {
    stream: UnixStream,
    writing: Writing,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of the input that are done with.
    taken: usize,
}

impl Frames {
    fn new(stream: UnixStream, writing: Writing) -> Self {
        Self {
            stream,
            writing,
            output: Vec::with_capacity(CHUNK),
            input: Vec::with_capacity(CHUNK),
            taken: 0,
        }
    }

    /// The bytes of the next whole frame, if it is there.
    fn whole(&self) -> Result<Option<usize>> {
        let rest = &self.input[self.taken..];
        let Some(start) = rest.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = HEADER + payload_length(*start)?;
        Ok((rest.len() >= length).then_some(length))
    }

    /// Reads until there is a whole frame; `None` at the end of the stream.
    async fn read(&mut self) -> Result<Option<usize>> {
        loop {
            if let Some(length) = self.whole()? {
                return Ok(Some(length));
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            self.input.reserve(CHUNK);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Answers what is there, or the next frame; false at the end of the stream.
    async fn answer(&mut self) -> Result<bool> {
        let Some(mut length) = self.read().await? else {
            return Ok(false);
        };
        loop {
            let frame = &self.input[self.taken..self.taken + length];
            self.taken += length;
            if self.writing == Writing::Singly {
                self.stream.write_all(frame).await?;
                return Ok(true);
            }
            self.output.extend(frame);
            match self.whole()? {
                Some(next) => length = next,
                None => break,
            }
        }
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(true)
    }
}

impl Lane for Frames {
    async fn submit(&mut self, request: &[u8]) -> Result<()> {
        self.output.extend(header(request.len())?);
        self.output.extend(request);
        match self.writing {
            Writing::Singly => self.flush().await,
            Writing::Coalesced => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    async fn collect(&mut self, expected: &mut Expected) -> Result<()> {
        let length = self.read().await?;
        ensure!(length.is_some(), "the server is gone");
        let length = length.unwrap_or_default();
        expected.check(&self.input[self.taken + HEADER..self.taken + length])?;
        self.taken += length;
        Ok(())
    }
}
