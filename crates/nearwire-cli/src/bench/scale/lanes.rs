//! Many connections in one thread, each with several calls in flight.

use anyhow::{Context, Result, bail, ensure};
use nearwire::{Method, Pipeline};

use crate::baseline::socket::Polled;
use crate::baseline::{HEADER, header, payload_length};

/// Bytes that a socket is asked for at a time.
const CHUNK: usize = 64 << 10;

const GONE: &str = "the server is gone";

/// One connection with calls in flight, whose replies come in the order of the calls.
pub(super) trait Lane {
    /// Starts a call. It may stay here until [`flush`](Self::flush).
    fn submit(&mut self, request: &[u8]) -> Result<()>;

    /// Sends what was submitted.
    fn flush(&mut self) -> Result<()>;

    /// Hands the replies that are there to `check`, in order. Never blocks. Returns their number.
    fn collect(&mut self, check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize>;

    /// As [`collect`](Self::collect), but blocks until there is one. Some call must be in flight.
    fn wait(&mut self, check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize>;
}

/// A connection of Nearwire's.
pub(super) struct NearwireLane<'a> {
    pub(super) pipeline: Pipeline<'a>,
    pub(super) echo: Method,
}

impl Lane for NearwireLane<'_> {
    #[inline]
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        self.pipeline.submit(self.echo, request)?;
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<()> {
        self.pipeline.flush();
        Ok(())
    }

    #[inline]
    fn collect(&mut self, mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut count = 0;
        while let Some(checked) = self.pipeline.try_next(|_, reply| check(reply?))? {
            checked?;
            count += 1;
        }
        Ok(count)
    }

    fn wait(&mut self, mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        self.pipeline
            .next(|_, reply| check(reply?))?
            .context("no call is in flight")??;
        Ok(1 + self.collect(check)?)
    }
}

/// A socket that never blocks, frames coalesced by hand.
pub(super) struct SocketLane {
    stream: Polled,
    /// Frames to write, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// What was read; frames from `taken` on are still to be handed out.
    input: Vec<u8>,
    filled: usize,
    taken: usize,
    in_flight: usize,
}

impl SocketLane {
    pub(super) fn new(stream: Polled) -> Self {
        Self {
            stream,
            output: Vec::new(),
            written: 0,
            input: vec![0; CHUNK],
            filled: 0,
            taken: 0,
            in_flight: 0,
        }
    }

    /// Whole frames of what was read.
    fn take_frames(&mut self, check: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut count = 0;
        loop {
            let rest = &self.input[self.taken..self.filled];
            let Some(start) = rest.first_chunk::<HEADER>() else {
                break;
            };
            let whole = HEADER + payload_length(*start)?;
            let Some(frame) = rest.get(..whole) else {
                if whole > self.input.len() {
                    self.input.resize(whole, 0);
                }
                break;
            };
            check(&frame[HEADER..])?;
            self.taken += whole;
            count += 1;
        }
        self.input.copy_within(self.taken..self.filled, 0);
        self.filled -= std::mem::take(&mut self.taken);
        self.in_flight = self
            .in_flight
            .checked_sub(count)
            .context("a reply to no call came")?;
        Ok(count)
    }
}

impl Lane for &mut SocketLane {
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        self.output.extend(header(request.len())?);
        self.output.extend_from_slice(request);
        self.in_flight += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        while self.written < self.output.len() {
            let written = self.stream.try_write(&self.output[self.written..]);
            match written.context(GONE)? {
                Some(written) => self.written += written,
                None => return Ok(()),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    fn collect(&mut self, mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut count = 0;
        // A server that cannot get rid of its replies stops reading.
        self.flush()?;
        while self.in_flight > 0 {
            let space = self.input.len() - self.filled;
            let read = self.stream.try_read(&mut self.input[self.filled..]);
            match read.context(GONE)? {
                Some(0) => bail!(GONE),
                Some(read) => {
                    self.filled += read;
                    count += self.take_frames(&mut check)?;
                    if read < space {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(count)
    }

    fn wait(&mut self, mut check: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        loop {
            let count = self.collect(&mut check)?;
            if count > 0 {
                return Ok(count);
            }
            ensure!(self.in_flight > 0, "no call is in flight");
            self.stream.wait(!self.output.is_empty())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{blocking, socket};

    #[test]
    fn frames_come_back_in_order_whatever_fits_the_socket() {
        let (near, far) = socket::ends().unwrap();
        let server = std::thread::spawn(move || blocking::echo(socket::accept(far)?));
        let driver = socket::Driver::new().unwrap();
        let mut end = SocketLane::new(Polled::open(near, &driver).unwrap());
        let mut lane = &mut end;
        for (size, count) in [(0, 3), (8, 100), (CHUNK, 2), (3 * CHUNK, 5), (1 << 20, 3)] {
            let request = |number: usize| vec![number as u8; size];
            for number in 0..count {
                lane.submit(&request(number)).unwrap();
            }
            let mut next = 0;
            while next < count {
                let answered = lane
                    .wait(|reply| {
                        assert!(reply == request(next));
                        next += 1;
                        Ok(())
                    })
                    .unwrap();
                assert!(answered > 0);
            }
            assert_eq!(lane.collect(|_| panic!("too many")).unwrap(), 0);
        }
        drop((end, driver));
        server.join().unwrap().unwrap();
    }
}
