//! Pages of counters: words that one process writes and others read.

use crate::layout::WORD;
use crate::settings::Memory;
use crate::sys::{self, Mapping, SegmentHandle};
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A page that this process created and alone can write.
#[derive(Debug)]
pub(crate) struct OwnPage(PageView);

impl OwnPage {
    /// Creates a zeroed page of `len` bytes, which are rounded up to whole pages of the system. The
    /// handle is for readers.
    pub(crate) fn create(len: usize) -> io::Result<(Self, SegmentHandle)> {
        let len = len.next_multiple_of(sys::page_size());
        let (handle, mapping) = sys::create_segment(len, &Memory::default())?;
        Ok((Self(PageView::new(mapping)), handle))
    }

    /// `N` words from `at` bytes on, to be written.
    ///
    /// # Panics
    /// If they are not aligned words of the page.
    pub(crate) fn block<const N: usize>(&self, at: usize) -> Block<N> {
        let end = N.checked_mul(WORD).and_then(|len| len.checked_add(at));
        assert!(at.is_multiple_of(WORD) && end.is_some_and(|end| end <= self.0.len()));
        // SAFETY: `at + N * 8 <= len`, so the address is inside the mapping.
        let words = unsafe { self.0.base.add(at) }.cast();
        Block {
            words,
            _mapping: self.0.mapping.clone(),
        }
    }

    /// The same page, for reading.
    pub(crate) fn view(&self) -> &PageView {
        &self.0
    }
}

/// Some words of a page that this process writes.
#[derive(Debug, Clone)]
pub(crate) struct Block<const N: usize> {
    words: NonNull<[AtomicU64; N]>,
    /// Keeps the words mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: gives access to atomics only, in a mapping that is Send and Sync and lives as long.
unsafe impl<const N: usize> Send for Block<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Block<N> {}

impl<const N: usize> Deref for Block<N> {
    type Target = [AtomicU64; N];

    #[inline(always)]
    fn deref(&self) -> &[AtomicU64; N] {
        // SAFETY: `OwnPage::block` checked range and alignment; the mapping is writable, was zeroed
        // by the kernel, and lives as long as this. Everything that any process does to these
        // words is atomic.
        unsafe { self.words.as_ref() }
    }
}

/// A page to be read, this process's own or another's. In another's a store would be a fault, and
/// no code stores through this type.
#[derive(Debug, Clone)]
pub(crate) struct PageView {
    base: NonNull<u8>,
    mapping: Arc<Mapping>,
}

// SAFETY: as for `Block`.
unsafe impl Send for PageView {}
// SAFETY: as above.
unsafe impl Sync for PageView {}

impl PageView {
    fn new(mapping: Mapping) -> Self {
        Self {
            base: mapping.base(),
            mapping: Arc::new(mapping),
        }
    }

    /// Checks the page of `len` bytes that another process sent, and maps it for reading.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn open(
        handle: SegmentHandle,
        len: usize,
    ) -> Result<Self, crate::error::SegmentRefused> {
        Ok(Self::new(sys::open_segment(handle, len)?))
    }

    /// Bytes in the page.
    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    /// The word at `at` bytes from the start.
    ///
    /// # Panics
    /// If there is no aligned word of the page. Readers check another process's offsets before.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD) && at.checked_add(WORD).is_some_and(|e| e <= self.len()));
        // SAFETY: inside the mapping and aligned (a mapping starts at a page). Everything that any
        // process does to this word is atomic, and an AtomicU64 may be formed over memory that is
        // mapped read-only as long as it is only loaded (type's documentation).
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_one_process_counts_another_reads() {
        let (page, handle) = OwnPage::create(100).unwrap();
        let len = page.view().len();
        let view = PageView::open(handle, len).unwrap();
        let block = page.block::<4>(64);
        block[3].store(7, Relaxed);
        assert_eq!(view.word(64 + 3 * 8).load(Relaxed), 7);
        drop(page);
        block[0].store(1, Relaxed);
        assert_eq!(view.word(64).load(Relaxed), 1);
    }

    #[test]
    #[should_panic]
    fn a_block_cannot_leave_its_page() {
        let (page, _handle) = OwnPage::create(4096).unwrap();
        page.block::<2>(page.view().len() - 8);
    }

    #[test]
    #[should_panic]
    fn a_reader_cannot_leave_the_page() {
        let (page, _handle) = OwnPage::create(4096).unwrap();
        page.view().word(page.view().len());
    }
}
