//! The segment of a request queue: words that many processes write.

use super::Pages;
use crate::error::SegmentRefused;
use crate::layout::WORD;
use crate::layout::queue::{MAGIC, SLOT, SLOTS, SLOTS_AT, TAIL_AT, segment_len};
use crate::queue::Memory;
use crate::sys::{self, SegmentHandle};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The memory of a request queue, of which nothing but words is ever reached.
#[derive(Debug, Clone)]
pub(crate) struct QueueWords {
    base: NonNull<u8>,
    /// Keeps them.
    pages: Arc<Pages>,
}

// SAFETY: gives access to atomics only, in pages that are Send and Sync and live as long.
unsafe impl Send for QueueWords {}
// SAFETY: as above.
unsafe impl Sync for QueueWords {}

/// A queue that this process has mapped: its identity, which no other has meanwhile.
type Known = ((u64, u64), Weak<Pages>);

/// All of them.
static OPEN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

impl QueueWords {
    fn new(pages: Pages) -> Self {
        assert!(pages.len() >= SLOTS_AT + SLOTS * SLOT, "too short");
        Self {
            base: pages.base(),
            pages: Arc::new(pages),
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

    /// Checks the segment that a server sent for its queue, and maps it, once per process.
    ///
    /// # Errors
    /// What is wrong with it; nothing was mapped then, or it was unmapped again.
    pub(crate) fn open(handle: &SegmentHandle) -> Result<Self, SegmentRefused> {
        let identity = sys::identity_of_segment(handle).map_err(SegmentRefused::Unusable)?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, pages)| pages.strong_count() > 0);
        let known = open.iter().find(|(of, _)| *of == identity);
        if let Some(pages) = known.and_then(|(_, pages)| pages.upgrade()) {
            let base = pages.base();
            return Ok(Self { base, pages });
        }
        let mapping = sys::open_common_segment(handle, segment_len(sys::page_size()))?;
        let words = Self::new(Pages::Mapped(mapping));
        if words.at(0).load(Relaxed) != MAGIC {
            return Err(SegmentRefused::NotASegment);
        }
        open.push((identity, Arc::downgrade(&words.pages)));
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

// Linux alone hands out such memory so far.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::settings::Memory as Pages;

    #[test]
    fn what_one_process_writes_another_reads() {
        let (words, handle) = QueueWords::create().unwrap();
        let theirs = QueueWords::open(&handle).unwrap();
        let again = QueueWords::open(&handle).unwrap();
        assert_eq!(again.base, theirs.base, "mapped twice");
        theirs.word(SLOTS - 1, SLOT / WORD - 1).store(7, Relaxed);
        theirs.tail().store(8, Relaxed);
        assert_eq!(words.word(SLOTS - 1, SLOT / WORD - 1).load(Relaxed), 7);
        assert_eq!(words.tail().load(Relaxed), 8);
    }

    #[test]
    fn a_segment_of_something_else_is_refused() {
        let len = segment_len(sys::page_size());
        let (handle, _mapping) = sys::create_segment(len, &Pages::default()).unwrap();
        assert!(QueueWords::open(&handle).is_err());
        let (handle, _mapping) = sys::create_common_segment(len).unwrap();
        assert!(matches!(
            QueueWords::open(&handle),
            Err(SegmentRefused::NotASegment)
        ));
        let (handle, _mapping) = sys::create_common_segment(4096).unwrap();
        assert!(matches!(
            QueueWords::open(&handle),
            Err(SegmentRefused::WrongSize { .. })
        ));
    }
}
