//! What is sent when any bytes would do.

/// Requests that differ from each other, so that no answer can be taken for another's.
#[derive(Debug, Clone)]
pub struct Payload {
    bytes: Vec<u8>,
    number: u64,
}

impl Payload {
    /// Requests of `size` bytes. Below 8 bytes they repeat themselves sooner.
    pub fn new(size: usize) -> Self {
        Self {
            bytes: (0..size).map(|at| (at * 7) as u8).collect(),
            number: 0,
        }
    }

    /// The next request.
    #[inline]
    pub fn next(&mut self) -> &[u8] {
        let number = self.number;
        self.number += 1;
        self.numbered(number)
    }

    /// Request number `number`, counted from 0.
    #[inline]
    pub fn numbered(&mut self, number: u64) -> &[u8] {
        let number = number.to_le_bytes();
        match self.bytes.first_chunk_mut() {
            Some(start) => *start = number,
            None => {
                let length = self.bytes.len();
                self.bytes.copy_from_slice(&number[..length]);
            }
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn requests_differ_and_keep_their_size() {
        for size in [0, 1, 7, 8, 9, 64] {
            let mut payload = Payload::new(size);
            let first = payload.next().to_vec();
            assert_eq!(first.len(), size);
            assert_eq!(payload.next() != first, size > 0);
            assert_eq!(payload.numbered(0), first);
        }
    }
}
