//! Where the words of a segment lie: offsets and sizes in bytes, the same on every system.
//!
//! Each side of a connection creates one segment that only it may write. It holds the ring that
//! this side produces and the words by which this side answers for the ring that it consumes:
//!
//! ```text
//! 0x000  magic, layout hash, ring capacity   written once, before the segment is handed over
//! 0x080  tail mirror                          end of what was published; for observers, may lag
//! 0x100  head                                 how far this side has consumed the PEER's ring
//! 0x180  data-parked, space-parked            whether this side sleeps for data / for space
//! 0x200  data-fenced, space-fenced            the peer's parked words for which this side fences
//! 0x400  ring data                            `capacity` bytes, a power of two
//! ```
//!
//! Each group of words has its own 128 bytes (two cache lines: adjacent-line prefetchers pull
//! pairs), so that a word that is written often never shares a line with one that is read often.

/// First word of a segment: the bytes `NEARSEG1`, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"NEARSEG1");

/// Offset of the magic word.
pub const MAGIC_AT: usize = 0x000;
/// Offset of the layout hash.
pub const LAYOUT_HASH_AT: usize = 0x008;
/// Offset of the ring's capacity in bytes. Informational: the peer's geometry is the one that the
/// handshake agreed on, never this word.
pub const CAPACITY_AT: usize = 0x010;
/// Offset of the tail mirror.
pub const TAIL_AT: usize = 0x080;
/// Offset of the head.
pub const HEAD_AT: usize = 0x100;
/// Offset of the data-parked word.
pub const DATA_PARKED_AT: usize = 0x180;
/// Offset of the space-parked word.
pub const SPACE_PARKED_AT: usize = 0x188;
/// Offset of the data-fenced word.
pub const DATA_FENCED_AT: usize = 0x200;
/// Offset of the space-fenced word.
pub const SPACE_FENCED_AT: usize = 0x208;
/// Offset of the ring's first data byte, and so the size of everything before it.
pub const DATA_AT: usize = 0x400;

/// Smallest ring capacity in bytes.
pub const MIN_CAPACITY: usize = 4 << 10;
/// Largest ring capacity in bytes.
pub const MAX_CAPACITY: usize = 256 << 20;
/// Ring capacity in bytes unless a setting says otherwise.
pub const DEFAULT_CAPACITY: usize = 128 << 10;

/// Size of a record's first word, in bytes; also the alignment of every record.
pub const WORD: usize = 8;

/// The bytes that a record with a body of `len` bytes takes in the ring.
#[inline(always)]
pub const fn record_size(len: usize) -> usize {
    WORD + ((len + WORD - 1) & !(WORD - 1))
}

/// The largest body, in bytes, of one record in a ring of `capacity` bytes: half the ring less the
/// record's first word.
#[inline(always)]
pub const fn max_body(capacity: usize) -> usize {
    capacity / 2 - WORD
}

/// The length of a segment in bytes for a ring of `capacity` bytes, rounded up to whole pages of
/// `page` bytes (a power of two).
pub const fn segment_len(capacity: usize, page: usize) -> usize {
    (DATA_AT + capacity + page - 1) & !(page - 1)
}

/// Where the words and slots of a request queue lie (`mpmc_transport`): offsets and sizes in bytes.
/// Who offers the feature in the handshake has this layout.
///
/// ```text
/// 0x000  magic                 written once, before the first client gets the segment
/// 0x080  tail                  where to look for a free slot; every client writes it
/// 0x400  SLOTS slots of SLOT bytes each:
///        +0   state            lap, owner, and free, claimed, full or skipped (see `queue`)
///        +8   four words       length and flags, number, position, connection
///        +40  body             up to BODY bytes of one client's ring
/// ```
#[cfg(feature = "mpmc_transport")]
#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod queue {
    use super::WORD;

    /// First word of the segment: the bytes `NEARQUE1`, little endian.
    pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"NEARQUE1");
    /// Offset of the tail.
    pub(crate) const TAIL_AT: usize = 0x080;
    /// Offset of the first slot.
    pub(crate) const SLOTS_AT: usize = 0x400;
    /// Slots in the queue, a power of two.
    pub(crate) const SLOTS: usize = 4096;
    /// Size of a slot.
    pub(crate) const SLOT: usize = 512;
    /// Words of a slot that say what its body is.
    pub(crate) const HEAD: usize = 4;
    /// Size of a slot's body, a multiple of [`WORD`].
    pub(crate) const BODY: usize = SLOT - (1 + HEAD) * WORD;

    /// The length of the segment, rounded up to whole pages of `page` bytes (a power of two).
    pub(crate) const fn segment_len(page: usize) -> usize {
        (SLOTS_AT + SLOTS * SLOT + page - 1) & !(page - 1)
    }
}

/// A hash of everything above, the queue excepted: two builds agree on it exactly if they agree on the layout.
///
/// FNV-1a over the constants, with a revision for changes of meaning that move no offset.
pub const LAYOUT_HASH: u64 = {
    const REVISION: u64 = 3;
    let words = [
        REVISION,
        MAGIC,
        LAYOUT_HASH_AT as u64,
        CAPACITY_AT as u64,
        TAIL_AT as u64,
        HEAD_AT as u64,
        DATA_PARKED_AT as u64,
        SPACE_PARKED_AT as u64,
        DATA_FENCED_AT as u64,
        SPACE_FENCED_AT as u64,
        DATA_AT as u64,
        WORD as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < words.len() {
        let bytes = words[i].to_le_bytes();
        let mut j = 0;
        while j < bytes.len() {
            hash = (hash ^ bytes[j] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            j += 1;
        }
        i += 1;
    }
    hash
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_groups_do_not_share_128_bytes() {
        let groups = [
            MAGIC_AT,
            TAIL_AT,
            HEAD_AT,
            DATA_PARKED_AT,
            DATA_FENCED_AT,
            DATA_AT,
        ];
        for pair in groups.windows(2) {
            assert!(pair[1] / 128 > pair[0] / 128, "{pair:x?} share 128 bytes");
        }
        assert_eq!(DATA_AT % 128, 0);
    }

    #[test]
    fn record_sizes() {
        assert_eq!(record_size(0), 8);
        assert_eq!(record_size(1), 16);
        assert_eq!(record_size(8), 16);
        assert_eq!(record_size(64), 72);
        assert_eq!(record_size(max_body(4096)), 2048);
    }
}
