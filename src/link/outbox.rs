//! Messages that wait for space in the ring.
//!
//! # Order
//! Messages of one call leave in the order in which they came; messages of different calls need no
//! order. So there are two lines: *small* ones, each a frame, and *large* ones, which travel in
//! fragments, the first of them perhaps half way out. Between two fragments goes a small one, so
//! that a message of many MiB delays nobody for longer than a quarter of the ring takes. So that it
//! does not overtake anything of its own call, all of a call waits in one line: a small message of
//! a call of which something stands in the large line goes there as well, and a large one takes
//! along what of its call stands in the small line.

use super::outgoing::Outgoing;
use super::tx::Tx;
use crate::error::Small;
use std::collections::VecDeque;

/// What the peer knows of a call whose messages were [withdrawn](Outbox::withdraw).
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// Nothing: its request was still here, and whole.
    Unseen,
    /// Its request, and no part of another message.
    Whole,
    /// A part of a message, the rest of which will not come. It must be told so before any other
    /// message goes out in fragments: see [`Outbox::push_first`].
    Torn {
        /// Whether that is the request, which then was never made and gets no answer.
        request: bool,
    },
}

/// Messages that wait for space.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    small: VecDeque<Outgoing<Vec<u8>>>,
    large: VecDeque<Outgoing<Vec<u8>>>,
}

impl Outbox {
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Whether there is so little that more may be taken on: at most one large message, which is
    /// being sent, and nothing else.
    #[inline(always)]
    pub(crate) fn is_nearly_empty(&self) -> bool {
        self.small.is_empty() && self.large.len() <= 1
    }

    pub(crate) fn len(&self) -> usize {
        self.small.len() + self.large.len()
    }

    /// Whether a new call's frame with a body of `len` bytes may be staged past what waits: it
    /// leaves space for the next of these.
    #[cfg(feature = "tokio")]
    #[inline(always)]
    pub(crate) fn lets_pass(&self, len: usize, tx: &mut Tx) -> bool {
        if self.is_empty() {
            return true;
        }
        self.lets_pass_slowly(len, tx)
    }

    #[cfg(feature = "tokio")]
    #[cold]
    fn lets_pass_slowly(&self, len: usize, tx: &mut Tx) -> bool {
        let both = len.saturating_add(self.next_len()) + 2 * crate::layout::WORD;
        self.small.is_empty() && both <= tx.max_body() && tx.is_ready(both)
    }

    /// Puts a message in line.
    pub(crate) fn push(&mut self, message: Outgoing<Vec<u8>>) {
        let id = message.request_id();
        let of_call = |other: &Outgoing<Vec<u8>>| other.request_id() == id;
        if message.is_fragmented() {
            let mut at = 0;
            while let Some(found) = self.small.iter().skip(at).position(of_call) {
                at += found;
                self.large.extend(self.small.remove(at));
            }
            self.large.push_back(message);
        } else if self.large.iter().any(of_call) {
            self.large.push_back(message);
        } else {
            self.small.push_back(message);
        }
    }

    /// Takes out what waits of a call.
    #[cfg(feature = "tokio")]
    pub(crate) fn withdraw(&mut self, id: u64) -> Withdrawn {
        let mut withdrawn = Withdrawn::Whole;
        for line in [&mut self.small, &mut self.large] {
            line.retain(|message| {
                let of_call = message.request_id() == id;
                if of_call && message.has_begun() {
                    let request = message.is_request();
                    withdrawn = Withdrawn::Torn { request };
                } else if of_call && message.is_request() {
                    withdrawn = Withdrawn::Unseen;
                }
                !of_call
            });
        }
        withdrawn
    }

    /// Puts a frame that gives up a half sent message before everything else: the peer takes no
    /// other fragments until it has seen it.
    #[cfg(feature = "tokio")]
    pub(crate) fn push_first(&mut self, message: Outgoing<Vec<u8>>) {
        self.small.push_front(message);
    }

    /// Bytes of body that the next frame needs at most; 0 if there is none.
    pub(crate) fn next_len(&self) -> usize {
        let first = self.small.front().or(self.large.front());
        first.map_or(0, Outgoing::next_len)
    }

    /// Stages and publishes what fits. True if nothing is left. `spent` gets the buffer of each
    /// large message that is through.
    pub(crate) fn flush(&mut self, tx: &mut Tx, mut spent: impl FnMut(Vec<u8>)) -> Small<bool> {
        loop {
            let small = Self::send_first(&mut self.small, tx, drop)?;
            // A small one that does not fit is not overtaken (see `push_first`).
            let large = small != Sent::NoSpace
                && Self::send_first(&mut self.large, tx, &mut spent)? == Sent::Frame;
            if small != Sent::Frame && !large {
                tx.publish();
                return Ok(self.is_empty());
            }
        }
    }

    fn send_first(
        line: &mut VecDeque<Outgoing<Vec<u8>>>,
        tx: &mut Tx,
        spent: impl FnOnce(Vec<u8>),
    ) -> Small<Sent> {
        let Some(first) = line.front_mut() else {
            return Ok(Sent::Nothing);
        };
        if !first.stage_next(tx)? {
            return Ok(Sent::NoSpace);
        }
        if first.is_through() {
            line.pop_front().map(Outgoing::into_payload).map(spent);
        }
        Ok(Sent::Frame)
    }
}

/// What became of the first frame of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Frame,
    NoSpace,
    Nothing,
}
