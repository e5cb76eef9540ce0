//! Segments as the ring sees them: words and bytes, with the rights that each side has.
//!
//! The only place besides `sys` with `unsafe`. A segment has one creator, which maps it for
//! writing, and one receiver, which maps it for reading; the kernel holds both to it (`sys`). From
//! that and from the types here follows what the safe layers above rely on:
//!
//! - [`LocalData`] is the only way to write a ring's bytes and there is one per segment, so it may
//!   hand out `&mut [u8]`: no other thread or process writes there. (The peer may read bytes that
//!   are half written; what it makes of them is its own affair.)
//! - [`PeerData`] never hands out a reference to bytes, because another process may be changing
//!   them. It copies, through instructions that the compiler knows nothing about ([`copy`]).
//! - [`LocalWords`] and [`PeerWords`] give atomics; all cross-process ordering goes through them.
//!
//! A connection over the socket has *private* segments, words on this process's heap of which both
//! ends are here ([`private`]): one end is the connection's, the other is the pump's that moves
//! records between ring and socket (`link::socket`). The types above hold for them as they are.
//!
//! A server's request queue is the one kind of segment that many processes write. `shared` gives
//! words of it and nothing else.

mod copy;
mod page;
#[cfg(feature = "mpmc_transport")]
mod shared;

#[cfg(feature = "tokio")]
pub(crate) use copy::prefetch_for_write;
pub(crate) use page::{Block, OwnPage, PageView};
#[cfg(feature = "mpmc_transport")]
pub(crate) use shared::QueueWords;

use crate::layout::{self, WORD};
use crate::ring::{Cursors, InPlace, Sink, Source};
#[cfg(feature = "spsc_transport")]
use crate::{
    error::SegmentRefused,
    settings::Memory,
    sys::{self, Mapping, SegmentHandle},
};
use std::fmt;
#[cfg(feature = "spsc_transport")]
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
#[cfg(feature = "spsc_transport")]
use std::sync::atomic::Ordering::Relaxed;

/// What a segment's bytes lie in.
enum Pages {
    #[cfg(feature = "spsc_transport")]
    Mapped(Mapping),
    Private(PrivateWords),
}

/// Words on the heap that are reached through pointers alone, like those of a mapping.
struct PrivateWords(NonNull<[u64]>);

// SAFETY: an address range that stays valid until the drop, in every thread; the type itself gives
// no access to the words.
unsafe impl Send for PrivateWords {}
// SAFETY: as above.
unsafe impl Sync for PrivateWords {}

impl PrivateWords {
    /// So many words, all zero. What is not touched is not resident where the allocator gets its
    /// memory fresh from the system.
    fn new(count: usize) -> Self {
        let words: Box<[u64]> = vec![0; count].into();
        Self(NonNull::from(Box::leak(words)))
    }
}

impl Drop for PrivateWords {
    fn drop(&mut self) {
        // SAFETY: `new` leaked exactly this box and only this takes it back; whoever took the
        // address holds these words alive (`Base` keeps them in an Arc).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Memory that is known to hold a whole segment for a ring of `capacity` bytes.
#[derive(Debug, Clone)]
struct Base {
    /// Copy of the memory's first byte: one step less on the way to a word.
    base: NonNull<u8>,
    /// Bytes in the ring, a power of two.
    capacity: usize,
    /// Keeps it.
    _pages: Arc<Pages>,
}

// SAFETY: `base` points into `pages`, which is Send and Sync and lives as long. Through `&Base`
// only atomics are reached, and a `LocalData`'s bytes only through `&mut`.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Pages {
    fn base(&self) -> NonNull<u8> {
        match self {
            #[cfg(feature = "spsc_transport")]
            Pages::Mapped(mapping) => mapping.base(),
            Pages::Private(words) => words.0.cast(),
        }
    }

    fn len(&self) -> usize {
        match self {
            #[cfg(feature = "spsc_transport")]
            Pages::Mapped(mapping) => mapping.len(),
            Pages::Private(words) => words.0.len() * WORD,
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "spsc_transport")]
            Pages::Mapped(mapping) => mapping.fmt(f),
            Pages::Private(words) => write!(f, "Private({} words)", words.0.len()),
        }
    }
}

impl Base {
    fn new(pages: Pages, capacity: usize) -> Self {
        assert!(capacity.is_power_of_two() && capacity >= 4 * WORD);
        assert!(
            layout::DATA_AT + capacity <= pages.len(),
            "the memory is too short"
        );
        Self {
            base: pages.base(),
            capacity,
            _pages: Arc::new(pages),
        }
    }

    /// The word at `at` bytes from the segment's start.
    #[inline(always)]
    fn control_word(&self, at: usize) -> &AtomicU64 {
        assert!(at + WORD <= layout::DATA_AT && at.is_multiple_of(WORD));
        // SAFETY: inside the mapping (`new`: it is longer than DATA_AT) and aligned (a mapping
        // starts at a page, private memory is made of such words). Everything that any process does to this word is atomic, and an
        // AtomicU64 may be formed over memory that is mapped read-only as long as it is only
        // loaded: the types below store into the creator's mapping only.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// The ring's word at `offset`.
    #[inline(always)]
    fn data_word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < self.capacity && offset.is_multiple_of(WORD));
        // SAFETY: `offset` is a multiple of 8 below `capacity`, itself a multiple of 8, so the
        // word lies inside the mapping (`new`) and is aligned. Accesses as in `control_word`; the
        // creator's plain writes to the same bytes need `&mut LocalData`, so none is under way in
        // this process through the same mapping.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(layout::DATA_AT + offset).cast()) }
    }

    /// The address of the ring's byte at `offset`, from which `len` bytes are inside the ring.
    #[inline(always)]
    fn data(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(
            offset <= self.capacity && len <= self.capacity - offset,
            "outside the ring"
        );
        // SAFETY: `DATA_AT + offset <= DATA_AT + capacity <= pages.len()` (`new`).
        unsafe { self.base.add(layout::DATA_AT + offset) }
    }
}

/// A private segment for a ring of `capacity` bytes: its creator's end and its receiver's.
pub(crate) fn private(capacity: usize) -> (LocalWords, LocalData, PeerWords, PeerData) {
    let words = PrivateWords::new((layout::DATA_AT + capacity) / WORD);
    let base = Base::new(Pages::Private(words), capacity);
    (
        LocalWords(base.clone()),
        LocalData(base.clone()),
        PeerWords(base.clone()),
        PeerData(base),
    )
}

/// The segment that this side created: what it is made of, before and while it is used.
#[cfg(feature = "spsc_transport")]
#[derive(Debug)]
pub(crate) struct LocalSegment {
    words: LocalWords,
    data: LocalData,
    huge_pages: bool,
}

#[cfg(feature = "spsc_transport")]
impl LocalSegment {
    /// Creates a segment for a ring of `capacity` bytes. The handle is for the peer, which can
    /// only read through it.
    pub(crate) fn create(capacity: usize, memory: &Memory) -> io::Result<(Self, SegmentHandle)> {
        let len = layout::segment_len(capacity, sys::page_size());
        let (handle, mapping) = sys::create_segment(len, memory)?;
        let huge_pages = mapping.huge_pages();
        let base = Base::new(Pages::Mapped(mapping), capacity);
        base.control_word(layout::MAGIC_AT)
            .store(layout::MAGIC, Relaxed);
        base.control_word(layout::LAYOUT_HASH_AT)
            .store(layout::LAYOUT_HASH, Relaxed);
        base.control_word(layout::CAPACITY_AT)
            .store(capacity as u64, Relaxed);
        let segment = Self {
            words: LocalWords(base.clone()),
            data: LocalData(base),
            huge_pages,
        };
        Ok((segment, handle))
    }

    /// Whether the segment really is made of huge pages.
    pub(crate) fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Its words.
    #[cfg(feature = "mpmc_transport")]
    pub(crate) fn words(&self) -> &LocalWords {
        &self.words
    }

    /// The two ways to use it: words from anywhere, data by one producer.
    pub(crate) fn into_parts(self) -> (LocalWords, LocalData) {
        (self.words, self.data)
    }
}

/// Checks the segment that a peer sent for its ring of `capacity` bytes, and maps it for reading.
///
/// # Errors
/// What is wrong with it; nothing was mapped then, or it was unmapped again.
#[cfg(feature = "spsc_transport")]
pub(crate) fn open_peer(
    handle: SegmentHandle,
    capacity: usize,
) -> Result<(PeerWords, PeerData), SegmentRefused> {
    let len = layout::segment_len(capacity, sys::page_size());
    let base = Base::new(Pages::Mapped(sys::open_segment(handle, len)?), capacity);
    let magic = base.control_word(layout::MAGIC_AT).load(Relaxed);
    let hash = base.control_word(layout::LAYOUT_HASH_AT).load(Relaxed);
    if magic != layout::MAGIC || hash != layout::LAYOUT_HASH {
        return Err(SegmentRefused::NotASegment);
    }
    Ok((PeerWords(base.clone()), PeerData(base)))
}

macro_rules! cursors {
    ($words:ty) => {
        impl Cursors for $words {
            #[inline(always)]
            fn head(&self) -> &AtomicU64 {
                self.0.control_word(layout::HEAD_AT)
            }
            #[inline(always)]
            fn tail(&self) -> &AtomicU64 {
                self.0.control_word(layout::TAIL_AT)
            }
            #[inline(always)]
            fn data_parked(&self) -> &AtomicU64 {
                self.0.control_word(layout::DATA_PARKED_AT)
            }
            #[inline(always)]
            fn space_parked(&self) -> &AtomicU64 {
                self.0.control_word(layout::SPACE_PARKED_AT)
            }
            #[inline(always)]
            fn data_fenced(&self) -> &AtomicU64 {
                self.0.control_word(layout::DATA_FENCED_AT)
            }
            #[inline(always)]
            fn space_fenced(&self) -> &AtomicU64 {
                self.0.control_word(layout::SPACE_FENCED_AT)
            }
        }
    };
}

/// The words of the segment that this side created.
#[derive(Debug, Clone)]
pub(crate) struct LocalWords(Base);
cursors!(LocalWords);

/// The words of the segment that the peer created. Mapped read-only: a store would be a fault,
/// and no code stores through this type.
#[derive(Debug, Clone)]
pub(crate) struct PeerWords(Base);
cursors!(PeerWords);

/// The ring bytes of the segment that this side created. Not `Clone`: one producer.
#[derive(Debug)]
pub(crate) struct LocalData(Base);

impl Sink for LocalData {
    #[inline(always)]
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.0.data_word(offset)
    }

    #[inline(always)]
    fn copy_in(&mut self, offset: usize, from: &[u8]) {
        let to = self.0.data(offset, from.len());
        // SAFETY: `data` checked the range; `from` is memory of this process outside the mapping
        // or, if inside, borrowed from another LocalData, so the ranges do not overlap; nobody
        // else writes there (module head).
        unsafe { copy::copy_to_shared(from.as_ptr(), to.as_ptr(), from.len()) };
    }

    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        if offset < self.0.capacity {
            copy::prefetch_for_write(self.0.data(offset, 0));
        }
    }
}

impl InPlace for LocalData {
    #[inline(always)]
    fn slice_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let data = self.0.data(offset, len);
        // SAFETY: `data` checked the range; the bytes are initialised (zeroed by the kernel); this
        // is the only LocalData of the segment and is borrowed for the slice's life, and the peer
        // cannot write (module head).
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), len) }
    }
}

/// The ring bytes of the segment that the peer created. Not `Clone`: one consumer.
#[derive(Debug)]
pub(crate) struct PeerData(Base);

impl Source for PeerData {
    #[inline(always)]
    fn word(&self, offset: usize) -> &AtomicU64 {
        self.0.data_word(offset)
    }

    #[inline(always)]
    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        let from = self.0.data(offset, to.len());
        // SAFETY: `data` checked the source range; `to` is a unique borrow, so it cannot overlap
        // a mapping that never hands out borrows.
        unsafe { copy::copy_from_shared(from.as_ptr(), to.as_mut_ptr(), to.len()) };
    }

    #[inline(always)]
    fn append_out(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let from = self.0.data(offset, len);
        to.reserve(len);
        let end = to.len();
        // SAFETY: `data` checked the source range. Behind its `end` bytes the vector has room for
        // `len` more (`reserve`), which the copy initialises before they become part of it. The
        // vector's memory cannot overlap a mapping that never hands out ownership.
        unsafe {
            copy::copy_from_shared(from.as_ptr(), to.as_mut_ptr().add(end), len);
            to.set_len(end + len);
        }
    }

    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        if offset < self.0.capacity {
            copy::prefetch_for_read(self.0.data(offset, 0));
        }
    }
}

#[cfg(all(test, not(loom), feature = "spsc_transport"))]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (local, handle) = LocalSegment::create(4096, &Memory::default()).unwrap();
        let (words, mut data) = local.into_parts();
        let (peer_words, peer_data) = open_peer(handle, 4096).unwrap();
        words.head().store(77, Relaxed);
        assert_eq!(peer_words.head().load(Relaxed), 77);
        for len in [
            0, 1, 7, 8, 15, 16, 31, 32, 33, 64, 100, 255, 256, 257, 1000, 4000,
        ] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
            for at in [0, 8, 13, 96] {
                data.copy_in(at, &bytes);
                let mut out = vec![0; len];
                peer_data.copy_out(at, &mut out);
                assert_eq!(out, bytes, "{len} bytes at {at}");
                let mut out = b"kept".to_vec();
                peer_data.append_out(at, len, &mut out);
                assert_eq!(out, [b"kept", &*bytes].concat(), "{len} bytes at {at}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside the ring")]
    fn a_copy_cannot_leave_the_ring() {
        let (local, _handle) = LocalSegment::create(4096, &Memory::default()).unwrap();
        local.into_parts().1.copy_in(4090, &[0; 8]);
    }

    #[test]
    fn a_segment_of_something_else_is_refused() {
        let len = layout::segment_len(4096, sys::page_size());
        let (handle, _mapping) = sys::create_segment(len, &Memory::default()).unwrap();
        assert!(matches!(
            open_peer(handle, 4096),
            Err(SegmentRefused::NotASegment)
        ));
    }
}
