//! Messages to records and back, without waiting: what blocking and async connections share.

use super::open::{Open, Progress};
use crate::error::{CloseReason, Error, Result, Small, Violation};
use crate::link::{Outgoing, Rx, Tx, Wanted, take_any, whole_max};
use crate::proto::frame::{Header, Kind, Tag};
use crate::proto::reassembly::{Message, Reassembly};
use crate::ring::Ready;
use crate::settings::Transport;

/// Tag of a message in one piece. Its body is the message.
const MESSAGE: u32 = Tag::of(Kind::Message).to_bits();

/// Times in a row that nothing may be there before the control socket is asked whether the peer
/// is. One system call of some 300 ns in so many looks.
const LOOKS_PER_CONTROL: u32 = 64;

/// What a receiving call found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "without a message the buffer holds nothing new"]
pub enum Received {
    /// A message; it is in the buffer.
    Message,
    /// Nothing at the moment, or until the time was up.
    Nothing,
    /// Nothing any more: the peer has finished, and everything was received.
    Finished,
}

impl Received {
    /// Whether there was a message.
    pub fn is_message(self) -> bool {
        self == Received::Message
    }
}

/// The sending half.
#[derive(Debug)]
pub(super) struct MessageTx {
    pub(super) tx: Tx,
    pub(super) open: Open,
    /// The longest message that goes as one record and is within the peer's limit.
    plain_max: usize,
    /// The first part of a message is on its way and the rest will not follow.
    cut_off: bool,
}

impl MessageTx {
    pub(super) fn new(tx: Tx, open: Open) -> Self {
        let plain_max = whole_max(&tx).min(open.max_message_out());
        Self {
            tx,
            open,
            plain_max,
            cut_off: false,
        }
    }

    /// Stages a message that fits into one record. False: too long for that, or no space at the
    /// moment.
    #[inline(always)]
    pub(super) fn stage_plain(&mut self, message: &[u8]) -> Small<bool> {
        if self.open.is_closed() {
            return Err(self.open.closed_error().into());
        }
        Ok(message.len() <= self.plain_max && self.tx.stage(MESSAGE, message)?)
    }

    /// As [`stage_plain`](Self::stage_plain), and publishes.
    #[inline(always)]
    pub(super) fn push_plain(&mut self, message: &[u8]) -> Small<bool> {
        if self.open.is_closed() {
            return Err(self.open.closed_error().into());
        }
        Ok(message.len() <= self.plain_max && self.tx.push(MESSAGE, message)?)
    }

    /// # Errors
    /// [`Error::TooLarge`] if a message does not go as one record.
    pub(super) fn check_plain(&self, message: &[u8]) -> Result<()> {
        if message.len() <= self.plain_max {
            return Ok(());
        }
        Err(Error::TooLarge {
            len: message.len() as u64,
            limit: self.plain_max as u64,
        })
    }

    pub(super) fn plain_max(&self) -> usize {
        self.plain_max
    }

    /// A message of any size, to be staged as far as there is space.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the peer does not take it.
    pub(super) fn outgoing<'a>(&self, message: &'a [u8]) -> Result<Outgoing<&'a [u8]>> {
        let limit = self.open.max_message_out();
        if message.len() > limit {
            return Err(Error::TooLarge {
                len: message.len() as u64,
                limit: limit as u64,
            });
        }
        let header = Header::new(Kind::Message, 0);
        Ok(Outgoing::new(&self.tx, header, message))
    }

    /// Ends this direction.
    pub(super) fn finish(&mut self) {
        if !self.cut_off {
            self.tx.close();
        }
    }

    /// Ends the connection because a message was left half sent, so that the peer does not take
    /// the end for an orderly one.
    #[cold]
    pub(super) fn cut_off(&mut self) {
        self.cut_off = true;
        self.open.shared().close(CloseReason::Local);
    }

    /// What to wait for before a frame of `len` bytes can be staged.
    pub(super) fn space(&mut self, len: usize) -> Wanted<'_> {
        Wanted {
            data: None,
            space: Some((&mut self.tx, len)),
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct MessageRx {
    pub(super) rx: Rx,
    pub(super) open: Open,
    reassembly: Reassembly,
    /// The largest message that this side takes.
    limit: usize,
    progress: Progress,
    /// Looks in a row at an empty ring.
    vain_looks: u32,
    /// How many of them there may be before the control socket is read.
    looks_per_control: u32,
}

impl MessageRx {
    pub(super) fn new(mut rx: Rx, open: Open) -> Self {
        rx.set_gathering(true);
        let limit = open.max_message_in();
        // Over the socket nothing comes without a look there.
        let looks_per_control = match open.transport() {
            Transport::Socket => 1,
            Transport::SharedMemory | Transport::Mpmc => LOOKS_PER_CONTROL,
        };
        Self {
            rx,
            open,
            reassembly: Reassembly::new(limit),
            limit,
            progress: Progress::Open,
            vain_looks: 0,
            looks_per_control,
        }
    }

    /// Takes the next message, if it is there, into `message`, whose content it replaces. A
    /// message in one piece is copied once, from the ring to there.
    #[inline(always)]
    pub(super) fn take(&mut self, message: &mut Vec<u8>) -> Small<bool> {
        while self.progress == Progress::Open {
            let (in_progress, limit) = (self.reassembly.in_progress().is_some(), self.limit);
            let plain = self.rx.pop_if(|record| {
                // The upper half of the tag is of no meaning here.
                let plain = record.tag() as u16 == MESSAGE as u16;
                if !plain || record.len() > limit || in_progress {
                    return (false, false);
                }
                message.clear();
                record.append_to(0, message);
                (true, true)
            });
            match plain {
                Ok(Some(true)) => return Ok(true),
                Ok(None) => return Ok(false),
                Ok(Some(false)) => {
                    if self.take_other(message)? {
                        return Ok(true);
                    }
                }
                Err(error) => {
                    self.progress = Progress::Broken;
                    return Err(error);
                }
            }
        }
        Ok(false)
    }

    /// Takes whatever is there but a message in one piece; the record is looked at anew. True if it
    /// completed a message.
    #[cold]
    #[inline(never)]
    fn take_other(&mut self, message: &mut Vec<u8>) -> Small<bool> {
        let reassembly = &mut self.reassembly;
        let taken = self.rx.pop(|record| take_any(&record, reassembly))?;
        let whole = match taken.transpose() {
            Ok(whole) => whole.flatten(),
            Err(violation) => return Err(self.violated(violation)),
        };
        let Some(Message { header, payload }) = whole else {
            return Ok(false);
        };
        match header.kind {
            Kind::Message => {
                // The buffer becomes the caller's, the caller's old one serves the next message.
                let old = std::mem::replace(message, payload.into_owned());
                self.reassembly.recycle(old);
                Ok(true)
            }
            Kind::Finish => {
                self.progress = Progress::Finished;
                Ok(false)
            }
            Kind::Ping | Kind::Pong | Kind::GoAway => Ok(false),
            other => {
                let text = format!("a {other:?} frame on a connection of messages");
                Err(self.violated(Violation::Frame(text)))
            }
        }
    }

    #[cold]
    fn violated(&mut self, violation: Violation) -> Box<Error> {
        self.progress = Progress::Broken;
        self.rx.violated(violation).into()
    }

    /// Whether nothing will come any more, asked when there is nothing to take.
    ///
    /// # Errors
    /// A violation, also an earlier one, or an end in the middle of a message.
    pub(super) fn is_finished(&mut self) -> Small<bool> {
        match self.progress {
            Progress::Finished => return Ok(true),
            Progress::Broken => return Err(self.open.closed_error().into()),
            Progress::Open if self.rx.ready() != Ready::Closed => return Ok(false),
            Progress::Open => {}
        }
        if self.reassembly.in_progress().is_some() {
            let text = "the end came in the middle of a message".to_owned();
            return Err(self.violated(Violation::Frame(text)));
        }
        self.progress = Progress::Finished;
        Ok(true)
    }

    /// Takes what is there, or says why there is nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer is gone without having finished.
    pub(super) fn try_take(&mut self, message: &mut Vec<u8>) -> Small<Received> {
        if self.take(message)? {
            self.vain_looks = 0;
            return Ok(Received::Message);
        }
        if self.is_finished()? {
            return Ok(Received::Finished);
        }
        self.rx.release();
        self.vain_looks += 1;
        if self.vain_looks >= self.looks_per_control {
            self.vain_looks = 0;
            self.open.shared().read_control();
            if self.take(message)? {
                return Ok(Received::Message);
            }
            if self.is_finished()? {
                return Ok(Received::Finished);
            }
        }
        if self.open.is_closed() {
            return self.take_last(message);
        }
        Ok(Received::Nothing)
    }

    /// The connection is known to be over. What the peer had published before comes first; a look
    /// from before that was known may have been too early.
    #[cold]
    pub(super) fn take_last(&mut self, message: &mut Vec<u8>) -> Small<Received> {
        if self.take(message)? {
            return Ok(Received::Message);
        }
        if self.is_finished()? {
            return Ok(Received::Finished);
        }
        Err(self.open.closed_error().into())
    }

    /// What to wait for when nothing can be taken.
    pub(super) fn data(&mut self) -> Wanted<'_> {
        Wanted {
            data: Some(&mut self.rx),
            space: None,
        }
    }
}
