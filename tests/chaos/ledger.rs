//! What was executed and what was told about it, in files that outlive the processes.
//!
//! Each entry is appended by one system call: it is there or not there, whatever kills the process.

use crate::support::Place;
use nearwire::Error;
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Nanoseconds of the clock that all processes share and nobody sets.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What an entry says about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum What {
    /// A handler got it.
    Executed,
    /// Its handler was dropped before its end: the caller gave up or is gone.
    Dropped,
    /// The caller is about to make it.
    Begun,
    /// The caller has the right answer.
    Answered,
    /// The caller was told that it failed, and may have been executed.
    Maybe,
    /// The caller was told that it failed and was not executed.
    Not,
}

impl What {
    const ALL: [Self; 6] = [
        Self::Executed,
        Self::Dropped,
        Self::Begun,
        Self::Answered,
        Self::Maybe,
        Self::Not,
    ];

    /// What a caller was told.
    pub fn told<T>(outcome: &Result<T, Error>) -> Self {
        match outcome {
            Ok(_) => Self::Answered,
            Err(error) if error.may_have_executed() => Self::Maybe,
            Err(_) => Self::Not,
        }
    }
}

/// The end of a ledger that entries are added to.
#[derive(Debug)]
pub struct Pen(File);

impl Pen {
    pub fn open(path: &Path) -> Self {
        Self(OpenOptions::new().append(true).open(path).unwrap())
    }

    pub fn write(&self, call: u64, what: What) {
        let mut entry = [0; 24];
        entry[..8].copy_from_slice(&call.to_le_bytes());
        entry[8..16].copy_from_slice(&(what as u64).to_le_bytes());
        entry[16..].copy_from_slice(&now().to_le_bytes());
        (&self.0).write_all(&entry).unwrap();
    }
}

/// An entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub call: u64,
    pub what: What,
    /// When, by [`now`].
    pub at: u64,
}

/// A directory for sockets, and the ledger of those who use it.
#[derive(Debug)]
pub struct Ledger {
    pub place: Place,
    path: PathBuf,
}

impl Ledger {
    pub fn new() -> Self {
        let place = Place::new();
        let path = place.path().join("ledger");
        File::create(&path).unwrap();
        Self { place, path }
    }

    /// Where it lies, for the processes that write it.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let bytes = std::fs::read(&self.path).unwrap();
        let (entries, rest) = bytes.as_chunks::<24>();
        assert!(rest.is_empty(), "an entry that is not whole");
        let read = |entry: &[u8; 24]| {
            let word = |n: usize| u64::from_le_bytes(entry[n * 8..][..8].try_into().unwrap());
            Entry {
                call: word(0),
                what: What::ALL[word(1) as usize],
                at: word(2),
            }
        };
        entries.iter().map(read).collect()
    }

    /// Compares what callers were told with what was done. Calls of those in `survived`, which
    /// have come to rest, must all have ended; of others the outcome may be missing.
    #[track_caller]
    pub fn check(&self, survived: impl Fn(u64) -> bool) -> Summary {
        let mut calls: HashMap<u64, Vec<What>> = HashMap::new();
        for entry in self.entries() {
            calls.entry(entry.call).or_default().push(entry.what);
        }
        let mut summary = Summary::default();
        for (call, entries) in calls {
            let count = |wanted| entries.iter().filter(|what| **what == wanted).count();
            let executed = count(What::Executed);
            let told = [What::Answered, What::Maybe, What::Not].map(count);
            assert_eq!(count(What::Begun), 1, "call {call:x}: {entries:?}");
            assert!(
                executed <= 1,
                "call {call:x} was executed twice: {entries:?}"
            );
            match told {
                [1, 0, 0] => {
                    assert_eq!(executed, 1, "call {call:x} was answered by nobody");
                    summary.answered += 1;
                }
                [0, 1, 0] => {
                    summary.maybe += 1;
                    summary.maybe_executed += executed;
                }
                [0, 0, 1] => {
                    assert_eq!(executed, 0, "call {call:x} was executed, and denied");
                    summary.not += 1;
                }
                [0, 0, 0] => {
                    assert!(!survived(call), "call {call:x} never ended: {entries:?}");
                    summary.unheard += 1;
                }
                _ => panic!("call {call:x} ended more than once: {entries:?}"),
            }
        }
        summary
    }
}

/// What became of many calls.
#[derive(Debug, Default)]
pub struct Summary {
    pub answered: usize,
    /// Failed, and may have been executed.
    pub maybe: usize,
    /// Those of them that were.
    pub maybe_executed: usize,
    /// Failed, and was certain not to have been executed.
    pub not: usize,
    /// The caller was killed before it learned of the outcome.
    pub unheard: usize,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.maybe += other.maybe;
        self.maybe_executed += other.maybe_executed;
        self.not += other.not;
        self.unheard += other.unheard;
    }
}
