//! Messages that tell whether they are the right ones, whole and unspoilt.

use crate::support::pattern;

/// Bytes before a request's payload.
pub const HEAD: usize = 24;

/// A request: who asks, the number of the call among the asker's, how long the reply shall be, and
/// bytes that follow from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub session: u64,
    pub number: u64,
    pub reply_len: u64,
}

impl Request {
    fn seed(&self) -> u64 {
        self.session ^ self.number.rotate_left(32) ^ self.reply_len.rotate_left(17)
    }

    /// The request on the wire, with `len` bytes of payload.
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + len);
        for word in [self.session, self.number, self.reply_len] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&pattern(self.seed(), len));
        bytes
    }

    /// The request that these bytes are; `None` if any of them is not what it must be.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, payload) = bytes.split_at_checked(HEAD)?;
        let word = |n: usize| u64::from_le_bytes(head[n * 8..][..8].try_into().unwrap());
        let request = Self {
            session: word(0),
            number: word(1),
            reply_len: word(2),
        };
        (pattern(request.seed(), payload.len()) == payload).then_some(request)
    }

    /// What it is answered with.
    pub fn reply(&self) -> Vec<u8> {
        pattern(!self.seed(), self.reply_len as usize)
    }
}

/// Bytes before what follows from an item's number.
pub const ITEM_HEAD: usize = 8;

/// One item of a stream: its number, and bytes that follow from it.
pub fn item(seed: u64, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend_from_slice(&pattern(seed ^ number.rotate_left(40), len));
    bytes
}

/// Whether it is that item.
pub fn is_item(bytes: &[u8], seed: u64, number: u64) -> bool {
    bytes.len() >= ITEM_HEAD && bytes == item(seed, number, bytes.len() - ITEM_HEAD)
}
