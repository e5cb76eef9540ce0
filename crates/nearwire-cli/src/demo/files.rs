//! All files of a directory, through the server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use serde::Serialize;

use super::client::{Checked, Client};
use super::walk::{File, Flawed, Tree, as_text};

/// A client gets so many files at a time at most, …
const MOST_FILES: usize = 64;

/// … with so many bytes together, unless a single one has more, …
const MOST_BYTES: u64 = 16 << 20;

/// … whose paths have so many bytes together.
const MOST_PATH_BYTES: usize = 64 << 10;

/// What became of a directory's files.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    #[serde(serialize_with = "as_text")]
    pub(super) directory: PathBuf,
    /// Files that the server hashed.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// From the first file to the last answer.
    pub(super) seconds: f64,
    /// 10⁹ bytes per second, through the server and its hash.
    pub(super) gigabytes_per_second: f64,
    /// Files whose answer differed from the client's own hash.
    pub(super) mismatches: usize,
    /// The same files.
    pub(super) mismatched: Vec<Flawed>,
    /// Files and directories that could not be read.
    pub(super) unreadable: Vec<Flawed>,
    pub(super) too_large: Vec<Flawed>,
    /// Files for which there was no time.
    pub(super) no_time_files: usize,
    /// Their bytes.
    pub(super) no_time_bytes: u64,
    /// Symbolic links, which are not followed.
    pub(super) symbolic_links: u64,
    /// Pipes, sockets and devices.
    pub(super) special_files: u64,
}

impl Outcome {
    fn add(&mut self, checked: Checked) {
        let flawed = |(path, reason): (OsString, String)| Flawed {
            path: path.into(),
            reason,
        };
        self.files += checked.files;
        self.bytes += checked.bytes;
        self.mismatches += checked.mismatched.len();
        for (to, from) in [
            (&mut self.mismatched, checked.mismatched),
            (&mut self.unreadable, checked.unreadable),
            (&mut self.too_large, checked.too_large),
        ] {
            to.extend(from.into_iter().map(flawed));
        }
    }
}

/// The next files for one client; takes them off `files`.
fn next_batch<'a>(files: &mut &'a [File]) -> &'a [File] {
    let (mut bytes, mut path_bytes) = (0, 0);
    let fits = |(number, file): (usize, &File)| {
        bytes += file.bytes;
        path_bytes += file.path.as_os_str().len();
        number == 0 || number < MOST_FILES && bytes <= MOST_BYTES && path_bytes <= MOST_PATH_BYTES
    };
    let count = files
        .iter()
        .enumerate()
        .map(fits)
        .take_while(|&fits| fits)
        .count();
    let (batch, rest) = files.split_at(count);
    *files = rest;
    batch
}

/// Hands the tree's files to the clients, each as it gets ready, until all are done or the time is
/// up.
pub(super) fn check(
    tree: Tree,
    clients: &[Client],
    time: Option<Duration>,
    progress: &ProgressBar,
) -> Result<Outcome> {
    progress.set_length(tree.files.iter().map(|file| file.bytes).sum());
    let start = Instant::now();
    let left = Mutex::new(&tree.files[..]);
    let take = || {
        if time.is_some_and(|time| start.elapsed() >= time) {
            return &[][..];
        }
        next_batch(&mut left.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let serve_client = |client: &Client| -> Result<Vec<Checked>> {
        let mut checked = Vec::new();
        loop {
            let batch = take();
            if batch.is_empty() {
                return Ok(checked);
            }
            let paths = batch.iter().map(|file| -> &Path { &file.path });
            checked.push(client.files(paths)?);
            progress.inc(batch.iter().map(|file| file.bytes).sum());
        }
    };
    let checked: Vec<Result<Vec<Checked>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(|| serve_client(client)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    progress.finish_and_clear();

    let no_time = left.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = Outcome {
        directory: tree.root,
        seconds,
        unreadable: tree.unreadable,
        too_large: tree.too_large,
        no_time_files: no_time.len(),
        no_time_bytes: no_time.iter().map(|file| file.bytes).sum(),
        symbolic_links: tree.links,
        special_files: tree.special,
        ..Outcome::default()
    };
    for checked in checked {
        for checked in checked? {
            outcome.add(checked);
        }
    }
    outcome.gigabytes_per_second = outcome.bytes as f64 / 1e9 / seconds;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> File {
        File {
            path: path.into(),
            bytes,
        }
    }

    fn batches(files: &[File]) -> Vec<usize> {
        let mut left = files;
        std::iter::from_fn(|| Some(next_batch(&mut left).len()).filter(|&count| count > 0))
            .collect()
    }

    #[test]
    fn batches_are_bounded_in_every_way() {
        assert!(batches(&[]).is_empty());
        assert_eq!(
            batches(&vec![file("a", 0); 2 * MOST_FILES + 1]),
            [64, 64, 1]
        );
        let half = file("a", MOST_BYTES / 2);
        assert_eq!(batches(&vec![half; 5]), [2, 2, 1]);
        let long = file(&"a".repeat(MOST_PATH_BYTES / 2), 0);
        assert_eq!(batches(&vec![long; 5]), [2, 2, 1]);
    }

    #[test]
    fn whatever_is_too_much_for_a_batch_is_one() {
        let huge = file(&"a".repeat(2 * MOST_PATH_BYTES), 2 * MOST_BYTES);
        assert_eq!(batches(&[huge.clone(), huge, file("a", 1)]), [1, 1, 1]);
    }
}
