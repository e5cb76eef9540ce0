//! Bytes to records and back, without waiting: what blocking and async byte streams share.
//!
//! The records' boundaries mean nothing. A record is read piece by piece, in place, and consumed
//! with its last byte, so nothing is copied twice and nothing is held outside the ring.

use super::open::{Open, Progress};
use crate::error::{Error, Small, Violation};
use crate::layout::WORD;
use crate::link::{Record, Rx, Tx, Wanted};
use crate::proto::frame::{Kind, MAX_PREFIX_LEN, Tag, decode_header};
use crate::ring::Ready;
use std::io;

/// Tag of a record of bytes.
const BYTES: u32 = Tag::of(Kind::Bytes).to_bits();

/// Records of a large write: so many fill the ring. A quarter is also what a consumer gives back at
/// a time; one side copies in while the other copies out.
const RECORDS_PER_RING: usize = 4;

/// A record is cut at the ring's end, to save the filler, unless less than this would be left of
/// it.
const SHORTEST_CUT: usize = 64;

/// The writing half.
#[derive(Debug)]
pub(super) struct ByteTx {
    pub(super) tx: Tx,
    pub(super) open: Open,
    /// The longest record of a large write: its body, in bytes.
    longest: usize,
}

impl ByteTx {
    pub(super) fn new(tx: Tx, open: Open) -> Self {
        let longest = tx.capacity() / RECORDS_PER_RING - WORD;
        Self { tx, open, longest }
    }

    /// Writes what there is space for and makes it visible. Zero: the ring is full.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Small<usize> {
        if self.open.is_closed() {
            return Err(self.open.closed_error().into());
        }
        let mut written = 0;
        while written < bytes.len() {
            let len = self.next_len(bytes.len() - written);
            if !self.tx.stage(BYTES, &bytes[written..written + len])? {
                break;
            }
            // Record by record, so that the peer copies one out while the next is copied in.
            self.tx.publish();
            written += len;
        }
        Ok(written)
    }

    /// Length of the next record when `len` bytes are left to write.
    fn next_len(&self, len: usize) -> usize {
        let len = len.min(self.longest);
        let capacity = self.tx.capacity();
        let to_end = capacity - (self.tx.position() as usize & (capacity - 1)) - WORD;
        if to_end < len && to_end >= SHORTEST_CUT {
            return to_end;
        }
        len
    }

    /// What to wait for when `len` bytes are to be written and the ring is full.
    pub(super) fn space(&mut self, len: usize) -> Wanted<'_> {
        let len = self.next_len(len);
        Wanted {
            data: None,
            space: Some((&mut self.tx, len)),
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) struct ByteRx {
    pub(super) rx: Rx,
    pub(super) open: Open,
    /// Bytes of the current record that were read.
    pub(super) at: usize,
    progress: Progress,
}

/// What a look at the current record brought.
enum Read {
    Bytes { count: usize, at: usize },
    Other,
}

impl ByteRx {
    pub(super) fn new(rx: Rx, open: Open) -> Self {
        Self {
            rx,
            open,
            at: 0,
            progress: Progress::Open,
        }
    }

    /// Reads what is there, `to` at most. Zero: nothing at the moment, or nothing any more.
    ///
    /// # Errors
    /// A violation, when everything before it was read.
    pub(super) fn read(&mut self, to: &mut [u8]) -> Small<usize> {
        let mut done = 0;
        while done < to.len() && self.progress == Progress::Open {
            let (at, to) = (self.at, &mut to[done..]);
            match self.rx.pop_if(|record| read_record(&record, at, to)) {
                Ok(None) => break,
                Ok(Some(Read::Bytes { count, at })) => {
                    done += count;
                    self.at = at;
                }
                // What was read so far is given first.
                _ if done > 0 => break,
                Ok(Some(Read::Other)) => self.take_other()?,
                Err(error) => {
                    self.progress = Progress::Broken;
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    /// Takes whatever is there but bytes; the record is looked at anew.
    #[cold]
    #[inline(never)]
    fn take_other(&mut self) -> Small<()> {
        let at = self.at;
        let text = match self.rx.pop(|record| kind_of(&record, at))? {
            None | Some(Ok(Kind::Ping | Kind::Pong | Kind::GoAway)) => return Ok(()),
            Some(Ok(Kind::Finish)) => {
                self.progress = Progress::Finished;
                return Ok(());
            }
            Some(Ok(other)) => format!("a {other:?} frame on a byte stream"),
            Some(Err(text)) => text,
        };
        self.progress = Progress::Broken;
        Err(self.rx.violated(Violation::Frame(text)).into())
    }

    /// Whether nothing will come any more, asked when there is nothing to read.
    ///
    /// # Errors
    /// An earlier violation.
    pub(super) fn is_finished(&mut self) -> Small<bool> {
        match self.progress {
            Progress::Finished => return Ok(true),
            Progress::Broken => return Err(self.open.closed_error().into()),
            Progress::Open if self.rx.ready() != Ready::Closed => return Ok(false),
            Progress::Open => {}
        }
        self.progress = Progress::Finished;
        Ok(true)
    }

    /// The connection is known to be over. What the peer had published before comes first; a look
    /// from before that was known may have been too early.
    #[cold]
    pub(super) fn read_last(&mut self, to: &mut [u8]) -> Small<usize> {
        match self.read(to)? {
            0 if self.is_finished()? => Ok(0),
            0 => Err(self.open.closed_error().into()),
            count => Ok(count),
        }
    }

    /// What to wait for when nothing can be read.
    pub(super) fn data(&mut self) -> Wanted<'_> {
        Wanted {
            data: Some(&mut self.rx),
            space: None,
        }
    }
}

/// Reads a record from its byte `at` on; it is consumed with its last byte.
#[inline(always)]
fn read_record(record: &Record<'_>, at: usize, to: &mut [u8]) -> (Read, bool) {
    // The upper half of the tag is of no meaning here.
    if record.tag() as u16 != BYTES as u16 || record.len() <= at {
        return (Read::Other, false);
    }
    let count = to.len().min(record.len() - at);
    record.read(at, &mut to[..count]);
    let end = at + count;
    let consumed = end == record.len();
    let at = if consumed { 0 } else { end };
    (Read::Bytes { count, at }, consumed)
}

/// What a record is that does not look like bytes that go on at `at`.
fn kind_of(record: &Record<'_>, at: usize) -> Result<Kind, String> {
    if at > 0 {
        return Err("a record that changed while it was read".to_owned());
    }
    let mut head = [0; MAX_PREFIX_LEN];
    let head = &mut head[..record.len().min(MAX_PREFIX_LEN)];
    record.read(0, head);
    let (header, _) = decode_header(record.tag(), head, record.len()).map_err(|e| e.to_string())?;
    Ok(header.kind)
}

/// What a failed read or write is to `std::io`. The peer that finished, or this side, is a broken
/// pipe; a peer that is gone is a reset.
pub(super) fn io_error(error: impl Into<Error>) -> io::Error {
    use crate::error::CloseReason::{Finished, Local};
    match error.into() {
        error @ Error::Closed {
            reason: Finished | Local,
            ..
        } => io::Error::new(io::ErrorKind::BrokenPipe, error),
        error => error.into(),
    }
}
