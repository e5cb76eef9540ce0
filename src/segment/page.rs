//! Pages of counters: words that one process writes and others read.
//!
//! Without shared memory a page is private, words on this process's heap: all is counted that is
//! counted otherwise, and nobody else can look.

use super::{Pages, PrivateWords};
use crate::layout::WORD;
use crate::sys::Handle;
#[cfg(feature = "spsc_transport")]
use crate::{
    settings::Memory,
    sys::{self, SegmentHandle},
};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A page that this process created and alone can write.
#[derive(Debug)]
pub(crate) struct OwnPage(PageView);

impl OwnPage {
    /// Creates a zeroed page of `len` bytes, which are rounded up to what the system gives. The handle
    /// is for readers; there is none if the page is private, because the system refuses shared memory
    /// (which is logged) or this build has none.
    pub(crate) fn create(len: usize) -> (Self, Option<Handle>) {
        #[cfg(feature = "spsc_transport")]
        match Self::create_shared(len) {
            Ok((page, handle)) => return (page, Some(handle.into())),
            Err(error) => tracing::warn!(
                %error,
                "no shared memory for the counters page: nobody can look at it from outside"
            ),
        }
        let words = PrivateWords::new(len.div_ceil(WORD));
        (Self(PageView::new(Pages::Private(words))), None)
    }

    #[cfg(feature = "spsc_transport")]
    fn create_shared(len: usize) -> std::io::Result<(Self, SegmentHandle)> {
        let len = len.next_multiple_of(sys::page_size());
        let (handle, mapping) = sys::create_segment(len, &Memory::default())?;
        Ok((Self(PageView::new(Pages::Mapped(mapping))), handle))
    }

    /// `N` words from `at` bytes on, to be written.
    ///
    /// # Panics
    /// If they are not aligned words of the page.
    pub(crate) fn block<const N: usize>(&self, at: usize) -> Block<N> {
        let end = N.checked_mul(WORD).and_then(|len| len.checked_add(at));
        assert!(at.is_multiple_of(WORD) && end.is_some_and(|end| end <= self.0.len()));
        // SAFETY: `at + N * 8 <= len`, so the address is inside the page.
        let words = unsafe { self.0.base.add(at) }.cast();
        Block {
            words,
            _pages: self.0.pages.clone(),
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
    /// Keeps the words.
    _pages: Arc<Pages>,
}

// SAFETY: gives access to atomics only, in pages that are Send and Sync and live as long.
unsafe impl<const N: usize> Send for Block<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Block<N> {}

impl<const N: usize> Deref for Block<N> {
    type Target = [AtomicU64; N];

    #[inline(always)]
    fn deref(&self) -> &[AtomicU64; N] {
        // SAFETY: `OwnPage::block` checked range and alignment; the page is writable, was zeroed
        // when it was made, and lives as long as this. Everything that any process does to these
        // words is atomic.
        unsafe { self.words.as_ref() }
    }
}

/// A page to be read, this process's own or another's. In another's a store would be a fault, and
/// no code stores through this type.
#[derive(Debug, Clone)]
pub(crate) struct PageView {
    base: NonNull<u8>,
    pages: Arc<Pages>,
}

// SAFETY: as for `Block`.
unsafe impl Send for PageView {}
// SAFETY: as above.
unsafe impl Sync for PageView {}

impl PageView {
    fn new(pages: Pages) -> Self {
        Self {
            base: pages.base(),
            pages: Arc::new(pages),
        }
    }

    /// Checks the page of `len` bytes that another process sent, and maps it for reading.
    ///
    /// # Errors
    /// What is wrong with it.
    #[cfg(feature = "spsc_transport")]
    pub(crate) fn open(
        handle: SegmentHandle,
        len: usize,
    ) -> Result<Self, crate::error::SegmentRefused> {
        Ok(Self::new(Pages::Mapped(sys::open_segment(handle, len)?)))
    }

    /// Bytes in the page.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The word at `at` bytes from the start.
    ///
    /// # Panics
    /// If there is no aligned word of the page. Readers check another process's offsets before.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD) && at.checked_add(WORD).is_some_and(|e| e <= self.len()));
        // SAFETY: inside the page and aligned (a mapping starts at a page of the system,
        // private memory is made of such words). Everything that any
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
    fn a_private_page_holds_what_is_counted() {
        let page = OwnPage(PageView::new(Pages::Private(PrivateWords::new(16))));
        assert_eq!(page.view().len(), 128);
        page.block::<4>(96)[3].store(7, Relaxed);
        let view = page.view().clone();
        drop(page);
        assert_eq!(view.word(120).load(Relaxed), 7);
        assert_eq!(view.word(0).load(Relaxed), 0);
    }

    #[cfg(feature = "spsc_transport")]
    #[test]
    fn what_one_process_counts_another_reads() {
        let (page, handle) = OwnPage::create_shared(100).unwrap();
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
        let (page, _handle) = OwnPage::create(4096);
        page.block::<2>(page.view().len() - 8);
    }

    #[test]
    #[should_panic]
    fn a_reader_cannot_leave_the_page() {
        let (page, _handle) = OwnPage::create(4096);
        page.view().word(page.view().len());
    }
}
