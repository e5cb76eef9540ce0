//! The segment of a request queue: words that many processes write.

use super::Pages;
use crate::error::SegmentRefused;
use crate::layout::WORD;
use crate::layout::queue::{MAGIC, SLOT, SLOTS, SLOTS_AT, TAIL_AT, segment_len};
use crate::queue::Memory;
use crate::sys::{self, SegmentHandle};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The memory of a request queue, of which nothing but words is ever reached.
#[derive(Debug, Clone)]
pub(crate) struct QueueWords {
    base: NonNull<u8>,
    /// Keeps them.
    _pages: Arc<Pages>,
}

// SAFETY: gives access to atomics only, in pages that are Send and Sync and live as long.
unsafe impl Send for QueueWords {}
// SAFETY: as above.
unsafe impl Sync for QueueWords {}

impl QueueWords {
    fn new(pages: Pages) -> Self {
        assert!(pages.len() >= SLOTS_AT + SLOTS * SLOT, "too short");
        Self {
            base: pages.base(),
            _pages: Arc::new(pages),
        }
    }

    /// Creates a queue's segment. Whoever gets the handle can write it, and nobody can change its
    /// size.
    pub(crate) fn create() -> io::Result<(Self, SegmentHandle)> {
        let (handle, mapping) = sys::create_common_segment(segment_len(sys::page_size()))?;
        let words = Self::new(Pages::Mapped(mapping));
        words.at(0).store(MAGIC, Relaxed);
        Ok((words, handle))
    }

    /// Checks the segment that a server sent for its queue, and maps it.
    ///
    /// # Errors
    /// What is wrong with it; nothing was mapped then, or it was unmapped again.
    pub(crate) fn open(handle: SegmentHandle) -> Result<Self, SegmentRefused> {
        let mapping = sys::open_common_segment(handle, segment_len(sys::page_size()))?;
        let words = Self::new(Pages::Mapped(mapping));
        if words.at(0).load(Relaxed) != MAGIC {
            return Err(SegmentRefused::NotASegment);
        }
        Ok(words)
    }

    /// The word at `at` bytes from the start.
    #[inline(always)]
    fn at(&self, at: usize) -> &AtomicU64 {
        assert!(at < SLOTS_AT + SLOTS * SLOT && at.is_multiple_of(WORD));
        // SAFETY: inside the pages (`new`) and aligned (a mapping starts at a page of the system).
        // They are mapped for writing, and whatever honest processes do to them is atomic; what
        // others do cannot make a word anything but a word.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }
}

impl Memory for QueueWords {
    #[inline(always)]
    fn slots(&self) -> usize {
        SLOTS
    }

    #[inline(always)]
    fn tail(&self) -> &AtomicU64 {
        self.at(TAIL_AT)
    }

    #[inline(always)]
    fn word(&self, slot: usize, word: usize) -> &AtomicU64 {
        assert!(slot < SLOTS && word < SLOT / WORD);
        self.at(SLOTS_AT + slot * SLOT + word * WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Memory as Pages;

    #[test]
    fn what_one_process_writes_another_reads() {
        let (words, handle) = QueueWords::create().unwrap();
        let theirs = QueueWords::open(handle).unwrap();
        theirs.word(SLOTS - 1, SLOT / WORD - 1).store(7, Relaxed);
        theirs.tail().store(8, Relaxed);
        assert_eq!(words.word(SLOTS - 1, SLOT / WORD - 1).load(Relaxed), 7);
        assert_eq!(words.tail().load(Relaxed), 8);
    }

    #[test]
    fn a_segment_of_something_else_is_refused() {
        let len = segment_len(sys::page_size());
        let (handle, _mapping) = sys::create_segment(len, &Pages::default()).unwrap();
        assert!(QueueWords::open(handle).is_err());
        let (handle, _mapping) = sys::create_common_segment(len).unwrap();
        assert!(matches!(
            QueueWords::open(handle),
            Err(SegmentRefused::NotASegment)
        ));
        let (handle, _mapping) = sys::create_common_segment(4096).unwrap();
        assert!(matches!(
            QueueWords::open(handle),
            Err(SegmentRefused::WrongSize { .. })
        ));
    }
}
