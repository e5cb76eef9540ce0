//! A connection's pipe as a sequence of chunks.

use super::operation::{Operation, Outcome, is_end, os_error};
use super::writer::Writer;
use crate::sys::Received;
use crate::sys::windows::event::Event;
use crate::sys::windows::process::Process;
use std::collections::VecDeque;
use std::io;
use std::os::windows::io::OwnedHandle;
use std::sync::Arc;
use windows_sys::Win32::Foundation::ERROR_OPERATION_ABORTED;

/// Handles that one chunk may carry.
pub(super) const MAX_HANDLES: usize = 4;

/// Bytes that one chunk may carry. More than any message that is sent in one piece has.
pub(super) const MAX_CHUNK: usize = 16 << 10;

/// Bytes that are read at a time, as long as no more come. Each connection keeps so many.
const LEAST_READ: usize = 512;

/// Bytes that are read at a time when they come fast. Several chunks, so that when a writer's last
/// chunk has found room, there is room for its last word too, after which it may exit: the
/// system then takes back what it has not placed.
const MOST_READ: usize = 64 << 10;

/// Bytes before the handles of a chunk.
const CHUNK_HEAD: usize = 8;

/// What comes before the bytes of a chunk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes that follow. None if the chunk says only that handles were copied.
    pub(super) len: usize,
    /// Of the handles that came in earlier chunks, how many the sender has copied since its last
    /// chunk: the other side closes them.
    pub(super) copied: usize,
    /// Values of handles in the client's process.
    pub(super) handles: Vec<u64>,
}

impl Head {
    /// What is written for it. Length and counts are within their limits.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD + 8 * self.handles.len() + self.len);
        bytes.extend_from_slice(&(self.len as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.handles.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.copied as u16).to_le_bytes());
        for value in &self.handles {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// How long the head is of which these are the first bytes, as far as they tell.
    fn wanted(bytes: &[u8]) -> io::Result<usize> {
        let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        let Some(fixed) = bytes.first_chunk::<CHUNK_HEAD>() else {
            return Ok(CHUNK_HEAD);
        };
        let (len, handles) = (Self::len_in(fixed), Self::handles_in(fixed));
        // Without bytes it says that handles were copied, and nothing else.
        let is_empty = len == 0 && (handles > 0 || Self::copied_in(fixed) == 0);
        if is_empty || len > MAX_CHUNK {
            return invalid("a chunk of no or too many bytes");
        }
        if handles > MAX_HANDLES {
            return invalid("too many handles");
        }
        Ok(CHUNK_HEAD + 8 * handles)
    }

    /// From as many bytes as are wanted.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<CHUNK_HEAD>()?;
        let values = bytes[CHUNK_HEAD..].as_chunks::<8>().0.iter();
        Some(Self {
            len: Self::len_in(fixed),
            copied: Self::copied_in(fixed),
            handles: values.map(|value| u64::from_le_bytes(*value)).collect(),
        })
    }

    fn len_in(fixed: &[u8; CHUNK_HEAD]) -> usize {
        u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) as usize
    }

    fn handles_in(fixed: &[u8; CHUNK_HEAD]) -> usize {
        u16::from_le_bytes([fixed[4], fixed[5]]).into()
    }

    fn copied_in(fixed: &[u8; CHUNK_HEAD]) -> usize {
        u16::from_le_bytes([fixed[6], fixed[7]]).into()
    }
}

/// Handles that a server put into its client, oldest first.
///
/// They stay the server's: the client copies what it is told of, and the server closes the originals
/// when the client says so, or when the connection is over. So a handle of which the client never
/// reads, or with which it does nothing more, does not stay open in it, and nobody closes a value
/// that already means something else.
#[derive(Debug, Default)]
pub(super) struct Lent(VecDeque<u64>);

impl Lent {
    pub(super) fn add(&mut self, value: u64) {
        self.0.push_back(value);
    }

    /// Closes the oldest `count` in the client, or none if it has fewer.
    pub(super) fn close(&mut self, count: usize, client: &Process) -> bool {
        let has_them = count <= self.0.len();
        if has_them {
            for value in self.0.drain(..count) {
                client.close(value);
            }
        }
        has_them
    }

    /// Closes all in the client.
    pub(super) fn close_all(&mut self, client: &Process) {
        self.close(self.0.len(), client);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Fields in the order in which they must be dropped.
pub(super) struct Pipe {
    reading: Operation,
    /// `None` after the shut-down.
    writer: Option<Writer>,
    writable: Arc<Event>,
    /// What was read and not taken: a part of the read's buffer.
    unread: std::ops::Range<usize>,
    /// Bytes of a chunk's head that have come.
    head: Vec<u8>,
    /// Bytes left in the current chunk.
    pub(super) left: usize,
    pub(super) ended: bool,
    /// A server's, in its client.
    pub(super) lent: Lent,
    /// A client's: how many it has copied and not said so.
    pub(super) copied: usize,
    /// Whether the current chunk belongs to a message with handles that the server had taken back.
    pub(super) taken_back: bool,
    /// Whether it is as long as one may be.
    pub(super) is_full: bool,
    /// `None` after the shut-down.
    handle: Option<OwnedHandle>,
}

impl Pipe {
    /// `readable` is signalled while something is there or the end, `writable` while no write is
    /// under way.
    pub(super) fn new(
        handle: OwnedHandle,
        readable: Arc<Event>,
        writable: Arc<Event>,
    ) -> io::Result<Self> {
        let mut pipe = Self {
            reading: Operation::new(readable),
            writer: Some(Writer::new(&handle, writable.clone())?),
            writable,
            unread: 0..0,
            head: Vec::new(),
            left: 0,
            ended: false,
            lent: Lent::default(),
            copied: 0,
            taken_back: false,
            is_full: false,
            handle: Some(handle),
        };
        pipe.reading.buffer = vec![0; LEAST_READ];
        pipe.read_on();
        Ok(pipe)
    }

    /// The end, from this side.
    pub(super) fn shut_down(&mut self) {
        self.reading.cancel();
        self.writer = None;
        self.handle = None;
        self.unread = 0..0;
        self.end();
        self.writable.set();
    }

    /// Begins to read, for as long as there is a peer.
    fn read_on(&mut self) {
        let Some(pipe) = &self.handle else {
            return;
        };
        let begun = self.reading.read(pipe);
        if begun.is_err() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.reading.event.set();
    }

    /// What a receiver is told that found nothing.
    pub(super) fn nothing(&self) -> Received {
        if self.ended {
            Received::EndOfFile
        } else {
            Received::Nothing
        }
    }

    /// Whether bytes are there, after a look at what the system has brought.
    fn has_bytes(&mut self) -> bool {
        self.look(false)
    }

    /// As [`has_bytes`](Self::has_bytes), after the end of the read that is under way (`wait`: which
    /// is near).
    fn look(&mut self, mut wait: bool) -> bool {
        while self.unread.is_empty() && !self.ended {
            match self.reading.outcome(std::mem::take(&mut wait)) {
                Outcome::Running => return false,
                Outcome::Done(0) => self.read_on(),
                Outcome::Done(count) => self.unread = 0..count,
                // The thread that began it has ended, or it was stopped.
                Outcome::Failed(ERROR_OPERATION_ABORTED) => self.read_on(),
                Outcome::Failed(_) => self.end(),
            }
        }
        !self.unread.is_empty()
    }

    /// Ends the read that is under way, with what it has got, and begins another one, which gets at
    /// once what is there.
    pub(super) fn settle(&mut self) {
        if self.unread.is_empty() && !self.ended {
            self.reading.stop();
            self.look(true);
        }
    }

    /// Takes up to `max` bytes that are there.
    fn bytes(&mut self, max: usize) -> std::ops::Range<usize> {
        let start = self.unread.start;
        let end = start + max.min(self.unread.len());
        self.unread.start = end;
        start..end
    }

    /// Reads on when all is taken. Only now may the buffer change.
    fn taken(&mut self) {
        if self.unread.is_empty() && !self.ended {
            let (count, size) = (self.unread.end, self.reading.buffer.len());
            if count == size && size < MOST_READ {
                self.reading.buffer = vec![0; MOST_READ.min(size * 8)];
            } else if count < size / 8 {
                self.reading.buffer = vec![0; LEAST_READ];
            }
            self.read_on();
        }
    }

    /// Takes bytes of the current chunk, if any are there.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.has_bytes() {
            return None;
        }
        let part = self.bytes(buffer.len().min(self.left));
        let count = part.len();
        buffer[..count].copy_from_slice(&self.reading.buffer[part]);
        self.left -= count;
        self.taken();
        Some(count)
    }

    /// Takes a chunk's head, if all of it is there.
    pub(super) fn take_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            let wanted = Head::wanted(&self.head)?;
            if self.head.len() == wanted {
                let head = Head::decode(&self.head);
                self.head.clear();
                self.left = head.as_ref().map_or(0, |head| head.len);
                return Ok(head);
            }
            if !self.has_bytes() {
                return Ok(None);
            }
            let part = self.bytes(wanted - self.head.len());
            self.head.extend_from_slice(&self.reading.buffer[part]);
            self.taken();
        }
    }

    /// Whether the last write is over.
    pub(super) fn has_room(&mut self) -> io::Result<bool> {
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if !writer.is_running() {
            return Ok(true);
        }
        match writer.outcome() {
            Outcome::Running => Ok(false),
            Outcome::Done(_) => Ok(true),
            Outcome::Failed(code) => Err(write_error(code)),
        }
    }

    pub(super) fn write(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.write(chunk).map_err(write_error)
    }
}

fn write_error(code: u32) -> io::Error {
    if is_end(code) {
        return io::ErrorKind::BrokenPipe.into();
    }
    os_error(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = Head {
            len: MAX_CHUNK,
            copied: 2,
            handles: vec![4, u64::MAX, 0, 7],
        };
        let bytes = head.encode();
        assert_eq!(Head::wanted(&[]).unwrap(), CHUNK_HEAD);
        assert_eq!(Head::wanted(&bytes).unwrap(), bytes.len());
        assert_eq!(Head::decode(&bytes), Some(head));
    }

    #[test]
    fn heads_that_promise_too_much_or_nothing_are_refused() {
        let wanted = |len, copied, handles| {
            let handles = vec![1; handles];
            let head = Head {
                len,
                copied,
                handles,
            };
            Head::wanted(&head.encode())
        };
        assert!(wanted(0, 0, 0).is_err());
        assert!(wanted(0, 0, 1).is_err());
        assert!(wanted(0, 1, 1).is_err());
        assert!(wanted(0, 1, 0).is_ok());
        assert!(wanted(MAX_CHUNK + 1, 0, 0).is_err());
        assert!(wanted(1, 0, MAX_HANDLES + 1).is_err());
        assert!(wanted(1, 0, MAX_HANDLES).is_ok());
    }

    #[test]
    fn what_was_lent_is_closed_once_oldest_first() {
        let this = Process::open(std::process::id(), true).unwrap();
        let event = Event::new(crate::sys::windows::event::Reset::Manual).unwrap();
        let put = || {
            this.put(std::os::windows::io::AsHandle::as_handle(&event))
                .unwrap()
        };
        let values = [put(), put(), put()];
        let mut lent = Lent::default();
        values.iter().for_each(|value| lent.add(*value));
        let open = || values.map(|value| this.take(value).is_ok());
        assert!(lent.close(1, &this));
        assert_eq!(open(), [false, true, true]);
        assert!(!lent.close(3, &this));
        assert_eq!(open(), [false, true, true]);
        assert!(lent.close(2, &this) && lent.is_empty());
        assert_eq!(open(), [false, false, false]);
        lent.close_all(&this);
    }
}
