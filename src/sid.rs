//! Windows' names for users.

use std::fmt;

/// The longest binary form of a SID, in bytes.
const MAX_LEN: usize = 68;

/// A security identifier: who a process runs as on Windows. Shown as `S-1-5-21-...`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    /// The binary form, zeros behind it.
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl Sid {
    /// Takes a SID's binary form, if it is one.
    pub(crate) fn from_bytes(binary: &[u8]) -> Option<Self> {
        let [1, subauthorities, ..] = *binary else {
            return None;
        };
        if binary.len() != 8 + 4 * usize::from(subauthorities) || binary.len() > MAX_LEN {
            return None;
        }
        let mut bytes = [0; MAX_LEN];
        bytes[..binary.len()].copy_from_slice(binary);
        Some(Self {
            bytes,
            len: binary.len() as u8,
        })
    }

    /// The binary form that the system's own functions take.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, subauthorities) = self.as_bytes().split_at(8);
        let authority = head[2..]
            .iter()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        write!(f, "S-{}-{authority}", head[0])?;
        for part in subauthorities.chunks_exact(4) {
            let part = u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
            write!(f, "-{part}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_usual() {
        let system = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
        assert_eq!(Sid::from_bytes(&system).unwrap().to_string(), "S-1-5-18");
        assert!(Sid::from_bytes(&system[..11]).is_none());
        assert!(Sid::from_bytes(&[]).is_none());
    }
}
