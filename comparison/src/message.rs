//! What is sent, and how a reply is checked: all peers do the same work.

use anyhow::{Result, ensure};

/// Bytes of a number.
const NUMBER: usize = 8;

/// The shortest message: a number at either end.
pub const SHORTEST: usize = 2 * NUMBER;

/// Requests of one size, each with its number at both ends.
#[derive(Debug, Clone)]
pub struct Requests {
    bytes: Vec<u8>,
    next: u64,
}

impl Requests {
    /// Requests of `size` bytes, numbered from `first` on.
    ///
    /// # Panics
    /// If the size has no room for the numbers.
    pub fn new(size: usize, first: u64) -> Self {
        assert!(size >= SHORTEST, "a message has at least {SHORTEST} bytes");
        Self {
            bytes: (0..size).map(|at| (at * 7) as u8).collect(),
            next: first,
        }
    }

    /// The next request.
    #[inline]
    pub fn next(&mut self) -> &[u8] {
        let number = self.next.to_le_bytes();
        self.next += 1;
        let end = self.bytes.len() - NUMBER;
        self.bytes[..NUMBER].copy_from_slice(&number);
        self.bytes[end..].copy_from_slice(&number);
        &self.bytes
    }

    /// What the next reply must be, if replies come in the order of their calls.
    pub fn expected(&self) -> Expected {
        Expected {
            size: self.bytes.len(),
            next: self.next,
        }
    }
}

/// What the next reply must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    size: usize,
    next: u64,
}

impl Expected {
    /// Checks a reply's length and its number, at either end.
    ///
    /// # Errors
    /// If it is another call's, or not whole.
    #[inline]
    pub fn check(&mut self, reply: &[u8]) -> Result<()> {
        check(reply, self.size, self.next)?;
        self.next += 1;
        Ok(())
    }
}

/// Checks a reply of `size` bytes to the call of that number.
///
/// # Errors
/// If it is another call's, or not whole.
#[inline]
pub fn check(reply: &[u8], size: usize, number: u64) -> Result<()> {
    let number = number.to_le_bytes();
    ensure!(
        reply.len() == size && reply.starts_with(&number) && reply.ends_with(&number),
        "a reply of {} bytes is not the answer to call {}",
        reply.len(),
        u64::from_le_bytes(number)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_and_must_be_whole() {
        let mut requests = Requests::new(64, 5);
        let mut expected = requests.expected();
        let first = requests.next().to_vec();
        let second = requests.next().to_vec();
        assert!(expected.check(&second).is_err());
        assert!(expected.check(&first[..63]).is_err());
        let mut torn = first.clone();
        torn[60] ^= 1;
        assert!(expected.check(&torn).is_err());
        expected.check(&first).unwrap();
        expected.check(&second).unwrap();
    }
}
