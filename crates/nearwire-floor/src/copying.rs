//! Copies out of shared memory, within one process: what each way of copying costs.
//!
//! A plain copy of bytes that a hostile process may be writing is a data race. Two ways around it
//! are measured beside the platform's `memcpy`: one opaque instruction, and relaxed atomic words.

use std::hint::black_box;
use std::io;

use crate::Arena;
use crate::memory::Circle;

/// Positions from which a copy may start; only the first is used.
const START: usize = 8;

/// A source in shared memory and a private target, both of one size.
pub struct Copying {
    source: Circle,
    target: Vec<u8>,
}

impl Copying {
    /// Source and target of `size` bytes each.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    pub fn new(size: usize) -> io::Result<Self> {
        let longest = size.next_multiple_of(8);
        let source = Arena::create(START + longest)?.circle(0, START, longest);
        // Some content, so that neither side is the kernel's zero page.
        let content: Vec<u8> = (0..size).map(|at| at as u8 | 1).collect();
        source.copy_in(0, &content);
        Ok(Self {
            source,
            target: vec![0; size],
        })
    }

    /// Copies by `memcpy`, the racy way.
    #[inline]
    pub fn memcpy(&mut self) {
        self.source
            .copy_out_by_memcpy(0, black_box(self.target.as_mut_slice()));
        black_box(self.target.as_mut_slice());
    }

    /// Copies by `rep movsb`.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn string_move(&mut self) {
        self.source
            .copy_out_by_string_move(0, black_box(self.target.as_mut_slice()));
        black_box(self.target.as_mut_slice());
    }

    /// Copies by relaxed atomic 64-bit words.
    #[inline]
    pub fn words(&mut self) {
        self.source
            .copy_out_by_words(0, black_box(self.target.as_mut_slice()));
        black_box(self.target.as_mut_slice());
    }

    /// What has been copied.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        &self.target
    }
}
