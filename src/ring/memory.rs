//! What the ring's algorithms need of the memory they run over.
//!
//! The algorithms are generic over these small traits so that the very same code runs over a
//! shared segment ([`crate::segment`]), over plain heap words in property tests, and over loom's
//! atomics in the models. Offsets are in bytes from the first data byte of the ring.

use crate::sync::AtomicU64;

/// The words by which one side of a connection tells the other how far it is.
///
/// The side that owns the segment writes them; the other side only loads them and believes none
/// of them without a check.
pub trait Cursors {
    /// How far the owner has consumed the other side's ring, in bytes since the connection began.
    fn head(&self) -> &AtomicU64;
    /// How far the owner has published its own ring. For observers: it may lag behind.
    fn tail(&self) -> &AtomicU64;
    /// Whether the owner sleeps, or is about to, until there is data in the other side's ring (see
    /// `waiter`).
    fn data_parked(&self) -> &AtomicU64;
    /// Whether the owner sleeps, or is about to, until there is space in its own ring.
    fn space_parked(&self) -> &AtomicU64;
    /// The value of the other side's data-parked word for which the owner fences (see `waiter`).
    fn data_fenced(&self) -> &AtomicU64;
    /// The same for the other side's space-parked word.
    fn space_fenced(&self) -> &AtomicU64;
}

/// The data bytes of a ring, seen by its consumer.
pub trait Source {
    /// The aligned word at `offset`.
    ///
    /// # Panics
    /// If `offset` is not a multiple of eight inside the ring. The ring masks its own cursors, so
    /// no value that a peer writes can cause it.
    fn word(&self, offset: usize) -> &AtomicU64;
    /// Copies `to.len()` bytes out, from `offset` on.
    ///
    /// The bytes may be changing meanwhile; any mixture of old and new ones may arrive.
    ///
    /// # Panics
    /// If the range leaves the ring; the ring checks lengths before it copies.
    fn copy_out(&self, offset: usize, to: &mut [u8]);
    /// Appends `len` bytes to `to`, from `offset` on. Otherwise as [`copy_out`](Self::copy_out).
    fn append_out(&self, offset: usize, len: usize, to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + len, 0);
        self.copy_out(offset, &mut to[start..]);
    }
    /// Asks the processor to fetch the line at `offset` for reading: a hint, for any offset.
    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        let _ = offset;
    }
}

/// The data bytes of a ring, seen by its one producer.
pub trait Sink {
    /// The aligned word at `offset`. Panics like [`Source::word`].
    fn word(&self, offset: usize) -> &AtomicU64;
    /// Copies `from` in, from `offset` on. Panics like [`Source::copy_out`].
    fn copy_in(&mut self, offset: usize, from: &[u8]);
    /// Asks the processor to fetch the line at `offset` for writing: a hint, for any offset.
    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        let _ = offset;
    }
}

/// A [`Sink`] whose bytes can be written in place.
///
/// Only memory that nobody else writes can offer this: a segment's owner can, a peer cannot.
pub trait InPlace: Sink {
    /// The bytes from `offset` on, `len` of them. Panics like [`Source::copy_out`].
    fn slice_mut(&mut self, offset: usize, len: usize) -> &mut [u8];
}

/// Rings over plain words of this process, for models and property tests.
#[cfg(all(test, any(loom, feature = "spsc_transport")))]
pub(crate) mod heap {
    use super::*;
    use crate::sync::Ordering::Relaxed;
    #[cfg(loom)]
    use loom::cell::UnsafeCell;
    use std::ops::Range;
    use std::sync::Arc;

    /// One side's segment made of words on the heap.
    #[derive(Debug, Clone)]
    pub(crate) struct HeapSegment(Arc<Inner>);

    #[derive(Debug)]
    struct Inner {
        head: AtomicU64,
        tail: AtomicU64,
        data_parked: AtomicU64,
        space_parked: AtomicU64,
        data_fenced: AtomicU64,
        space_fenced: AtomicU64,
        data: Vec<AtomicU64>,
        /// One cell per data word, empty. loom panics when a body's bytes are copied in while they
        /// are, or may be, copied out: to it the bodies are plain memory, as they are in a segment.
        /// Without that it would miss a reader that is overtaken, because it never lets a load
        /// see a later store.
        #[cfg(loom)]
        accesses: Vec<UnsafeCell<()>>,
    }

    impl HeapSegment {
        /// A zeroed segment for a ring of `capacity` bytes; 0 if only the words are wanted.
        pub(crate) fn new(capacity: usize) -> Self {
            let words = capacity / 8;
            Self(Arc::new(Inner {
                head: AtomicU64::new(0),
                tail: AtomicU64::new(0),
                data_parked: AtomicU64::new(0),
                space_parked: AtomicU64::new(0),
                data_fenced: AtomicU64::new(0),
                space_fenced: AtomicU64::new(0),
                data: (0..words).map(|_| AtomicU64::new(0)).collect(),
                #[cfg(loom)]
                accesses: (0..words).map(|_| UnsafeCell::new(())).collect(),
            }))
        }
    }

    /// The words that `len` bytes from `offset` on touch: for each its index, which of its bytes,
    /// and which of the `len` bytes they are.
    fn pieces(
        offset: usize,
        len: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let (index, skip) = ((offset + done) / 8, (offset + done) % 8);
            let count = (8 - skip).min(len - done);
            done += count;
            (count > 0).then_some((index, skip..skip + count, done - count..done))
        })
    }

    impl Cursors for HeapSegment {
        fn head(&self) -> &AtomicU64 {
            &self.0.head
        }
        fn tail(&self) -> &AtomicU64 {
            &self.0.tail
        }
        fn data_parked(&self) -> &AtomicU64 {
            &self.0.data_parked
        }
        fn space_parked(&self) -> &AtomicU64 {
            &self.0.space_parked
        }
        fn data_fenced(&self) -> &AtomicU64 {
            &self.0.data_fenced
        }
        fn space_fenced(&self) -> &AtomicU64 {
            &self.0.space_fenced
        }
    }

    impl Source for HeapSegment {
        fn word(&self, offset: usize) -> &AtomicU64 {
            assert!(offset.is_multiple_of(8));
            &self.0.data[offset / 8]
        }
        fn copy_out(&self, offset: usize, to: &mut [u8]) {
            for (index, bytes, at) in pieces(offset, to.len()) {
                #[cfg(loom)]
                self.0.accesses[index].with(|_| ());
                let word = self.0.data[index].load(Relaxed).to_ne_bytes();
                to[at].copy_from_slice(&word[bytes]);
            }
        }
    }

    impl Sink for HeapSegment {
        fn word(&self, offset: usize) -> &AtomicU64 {
            Source::word(self, offset)
        }
        fn copy_in(&mut self, offset: usize, from: &[u8]) {
            for (index, bytes, at) in pieces(offset, from.len()) {
                #[cfg(loom)]
                self.0.accesses[index].with_mut(|_| ());
                let mut word = [0; 8];
                if bytes.len() < 8 {
                    word = self.0.data[index].load(Relaxed).to_ne_bytes();
                }
                word[bytes].copy_from_slice(&from[at]);
                self.0.data[index].store(u64::from_ne_bytes(word), Relaxed);
            }
        }
    }
}
