//! Messages larger than one frame, cut into fragments.
//!
//! Per direction at most one fragmented message is in progress. Between its fragments may come
//! whole frames of other calls, and small frames of its own; CANCEL, ERROR and STREAM_END of its
//! own call abandon it. The other end is [`super::reassembly`].

use std::iter::FusedIterator;
use std::ops::Range;

use super::frame::{Fragment, MAX_BODY_LEN, MAX_PREFIX_LEN};

/// One fragment to send: which bytes of the message, and what the frame's header says about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// For [`super::frame::Header::fragment`].
    pub fragment: Fragment,
    /// The fragment's bytes within the message.
    pub range: Range<usize>,
}

/// Cuts a message of `total_len` bytes into fragments of at most `fragment_capacity` bytes of
/// payload. A message that fits is one whole piece, an empty one included.
///
/// A ring whose longest record has a body of `b` bytes takes fragments of
/// `b - MAX_PREFIX_LEN` bytes. A capacity of 0 counts as 1, and one that no frame can hold as the
/// largest that can.
pub fn fragments(total_len: usize, fragment_capacity: usize) -> Fragments {
    let capacity = fragment_capacity.clamp(1, MAX_BODY_LEN - MAX_PREFIX_LEN);
    Fragments {
        total: total_len,
        at: 0,
        capacity,
        done: false,
    }
}

/// The pieces of one message. See [`fragments`].
#[derive(Debug, Clone)]
pub struct Fragments {
    total: usize,
    at: usize,
    capacity: usize,
    done: bool,
}

impl Iterator for Fragments {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.done {
            return None;
        }
        let start = self.at;
        let end = start + self.capacity.min(self.total - start);
        self.at = end;
        self.done = end == self.total;
        let fragment = match (start == 0, self.done) {
            (true, true) => Fragment::Whole,
            (true, false) => Fragment::First {
                total: self.total as u64,
            },
            (false, false) => Fragment::Middle,
            (false, true) => Fragment::Last,
        };
        Some(Piece {
            fragment,
            range: start..end,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self.done {
            true => 0,
            false => (self.total - self.at).div_ceil(self.capacity).max(1),
        };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Fragments {}
impl FusedIterator for Fragments {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_message() {
        assert_eq!(
            fragments(0, 4).collect::<Vec<_>>(),
            [Piece {
                fragment: Fragment::Whole,
                range: 0..0
            }]
        );
        assert_eq!(
            fragments(4, 4).collect::<Vec<_>>(),
            [Piece {
                fragment: Fragment::Whole,
                range: 0..4
            }]
        );
        assert_eq!(
            fragments(9, 4).collect::<Vec<_>>(),
            [
                Piece {
                    fragment: Fragment::First { total: 9 },
                    range: 0..4
                },
                Piece {
                    fragment: Fragment::Middle,
                    range: 4..8
                },
                Piece {
                    fragment: Fragment::Last,
                    range: 8..9
                },
            ]
        );
        assert_eq!(fragments(9, 0).len(), 9);
        assert_eq!(fragments(0, 0).len(), 1);
    }
}
