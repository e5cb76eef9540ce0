//! From the queue to the server's private ring of a connection.

use super::{BEGIN, CLOSE, COMMIT, Piece, SKIP};
use crate::error::Violation;
use crate::layout::WORD;
use crate::link::Shared;
use crate::ring::{self, Cursors, Sink};
use crate::segment::{LocalData, LocalWords};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::waiter::{Fences, Waking};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Whom a piece concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// Nobody yet, or somebody who is awake.
    Nothing,
    /// The worker that took it: its connection of this key.
    Own(usize),
    /// Another worker, which sleeps.
    ToWake,
}

/// Where a connection's pieces go.
#[derive(Debug)]
pub(in crate::link) struct Inlet {
    state: Mutex<State>,
    /// This side's words: how far the ring was consumed, and whether its worker sleeps.
    own: LocalWords,
    /// Bytes in the ring.
    capacity: usize,
    /// The connection. Known only when the handshake is through; pieces may come a little earlier.
    shared: OnceLock<Weak<Shared>>,
}

#[derive(Debug)]
struct State {
    data: LocalData,
    /// The number of the piece that is due.
    number: u64,
    /// Where it must be.
    position: u64,
    /// The end of what the connection can see.
    committed: u64,
    /// Where the batch that is incomplete begins, and its first word.
    held_back: Option<(u64, u64)>,
    /// Pieces, written already, whose number is not due yet.
    early: BTreeMap<u64, Written>,
    closed: bool,
    /// What the peer did wrong.
    violation: Option<Violation>,
    /// The worker that owns the connection, and its key there.
    owner: Option<(usize, usize)>,
    waking: Waking,
    /// Grants of fences are the client's to give (see `waiter`).
    granted: AtomicU64,
}

/// A piece that is in the ring, but for the first word of a batch.
#[derive(Debug, Clone, Copy)]
struct Written {
    flags: u64,
    position: u64,
    /// Where the next piece must be.
    end: u64,
    /// Its first word.
    word: u64,
}

impl Inlet {
    /// For a private ring of `capacity` bytes, of which `own` says how far it was consumed.
    pub(in crate::link) fn new(data: LocalData, own: LocalWords, capacity: usize) -> Self {
        let state = State {
            data,
            number: 0,
            position: 0,
            committed: 0,
            held_back: None,
            early: BTreeMap::new(),
            closed: false,
            violation: None,
            owner: None,
            waking: Waking::new(Fences::Symmetric),
            granted: AtomicU64::new(0),
        };
        Self {
            state: Mutex::new(state),
            own,
            capacity,
            shared: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, while there is one.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get()?.upgrade()
    }

    pub(in crate::link) fn set_shared(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    /// A worker owns the connection from now on, by this key.
    ///
    /// # Errors
    /// What the client has done wrong already.
    pub(in crate::link) fn adopt(&self, worker: usize, key: usize) -> Result<(), Violation> {
        let mut state = self.state();
        state.owner = Some((worker, key));
        state.violation.clone().map_or(Ok(()), Err)
    }

    /// Takes a piece to its place in the ring.
    ///
    /// # Errors
    /// What is wrong with it, once; more pieces of the connection are ignored then.
    pub(super) fn take(
        &self,
        piece: Piece,
        body: &[u8],
        worker: usize,
    ) -> Result<Delivered, Violation> {
        let mut state = self.state();
        if state.violation.is_some() {
            return Ok(Delivered::Nothing);
        }
        match self.write(&mut state, piece, body) {
            Ok(false) => return Ok(Delivered::Nothing),
            Ok(true) => {}
            Err(rule) => {
                let Piece {
                    number, position, ..
                } = piece;
                let text = format!(
                    "an impossible piece {number} at ring position {position} in the request \
                     queue: {rule}"
                );
                state.violation = Some(Violation::Control(text.clone()));
                return Err(Violation::Control(text));
            }
        }
        let State {
            owner,
            waking,
            granted,
            ..
        } = &mut *state;
        Ok(match *owner {
            None => Delivered::Nothing,
            Some((own, key)) if own == worker => Delivered::Own(key),
            Some(_) if waking.is_due(self.own.data_parked(), granted) => Delivered::ToWake,
            Some(_) => Delivered::Nothing,
        })
    }

    /// Whether there is something new in the ring.
    fn write(&self, state: &mut State, piece: Piece, body: &[u8]) -> Result<bool, &'static str> {
        let Piece {
            flags,
            number,
            position,
            ..
        } = piece;
        let (capacity, word) = (self.capacity as u64, WORD as u64);
        // SYNC: head-release: the consumer has read what is written over from here on
        let head = self.own.head().load(Acquire);
        let limit = head + capacity;
        if !position.is_multiple_of(word) || position < state.committed || position > limit {
            return Err("its position");
        }
        let (offset, len) = (position & (capacity - 1), body.len() as u64);
        let end = match flags & SKIP {
            0 => position + len,
            _ => position - offset + capacity,
        };
        if (len == 0) != (flags & CLOSE != 0) || offset + len > capacity || end + word > limit {
            return Err("its length");
        }
        // Honest ones lie side by side between the head and the limit.
        if number < state.number || number - state.number > capacity / word {
            return Err("its number");
        }
        let mut first = 0;
        if let Some((bytes, rest)) = body.split_first_chunk::<WORD>() {
            first = u64::from_ne_bytes(*bytes);
            // The first word of a batch is held back until all of it is there.
            if flags & BEGIN == 0 {
                state.data.copy_in(offset as usize, body);
            } else {
                state.data.copy_in(offset as usize + WORD, rest);
            }
        }
        let written = Written {
            flags,
            position,
            end,
            word: first,
        };
        if number != state.number {
            return match state.early.insert(number, written) {
                None => Ok(false),
                Some(_) => Err("it came twice"),
            };
        }
        let mut news = self.advance(state, written)?;
        while let Some(early) = state.early.remove(&state.number) {
            news |= self.advance(state, early)?;
        }
        Ok(news)
    }

    /// The piece that is due is there. Whether that completes something.
    fn advance(&self, state: &mut State, written: Written) -> Result<bool, &'static str> {
        let Written {
            flags,
            position,
            end,
            word,
        } = written;
        let offset = |position: u64| position as usize & (self.capacity - 1);
        if position != state.position || state.closed {
            return Err("it does not follow the one before it");
        }
        state.number += 1;
        state.position = end;
        if flags & CLOSE != 0 {
            if state.held_back.is_some() {
                return Err("it ends a ring in the middle of a batch");
            }
            state.closed = true;
            // SYNC: commit-publish
            let last = state.data.word(offset(position));
            last.store(ring::CLOSE, Release);
            return Ok(true);
        }
        if (flags & BEGIN != 0) == state.held_back.is_some() {
            return Err("batches do not begin where the one before ends");
        }
        let (began, word) = *state.held_back.get_or_insert((position, word));
        if flags & COMMIT == 0 {
            return Ok(false);
        }
        state.held_back = None;
        state.committed = end;
        // As a ring's producer publishes (invariants 1 and 3 there).
        state.data.word(offset(end)).store(0, Relaxed);
        // SYNC: commit-publish
        state.data.word(offset(began)).store(word, Release);
        Ok(true)
    }
}
