//! What a process has of the system, counted from outside.

use crate::support::{Process, os};
use std::fs;
use std::time::{Duration, Instant};

/// What a process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Open descriptors, by what they are.
    descriptors: Vec<String>,
    /// Mapped segments, its own and its peers'.
    segments: usize,
    threads: usize,
}

impl Census {
    /// What a process uses that is at rest: it has been the same for a while. A thread or a
    /// descriptor that is about to go would be missed later (threads that close what peers sent, for one,
    /// stay for a second).
    #[track_caller]
    pub fn at_rest(process: &Process) -> Self {
        const A_WHILE: Duration = Duration::from_millis(1500);
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut last, mut since) = (Self::of(process), Instant::now());
        while since.elapsed() < A_WHILE {
            assert!(Instant::now() < deadline, "it does not come to rest");
            std::thread::sleep(Duration::from_millis(5));
            let now = Self::of(process);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    fn of(process: &Process) -> Self {
        let pid = process.id();
        let mut descriptors: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| {
                let target = fs::read_link(entry.unwrap().path()).ok()?;
                let target = target.to_str()?.to_owned();
                // Sockets and pipes have numbers.
                Some(target.split(":[").next().unwrap().to_owned())
            })
            .collect();
        descriptors.sort();
        Self {
            descriptors,
            segments: os::mapped_segments(pid),
            threads: fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(),
        }
    }

    /// Waits until the process uses what it used at this census; panics if it never does.
    #[track_caller]
    pub fn recurs(&self, process: &Process) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = Self::of(process);
            if now == *self {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "leaked: before {self:#?}\nafter {now:#?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Names in a directory, except the ledger's.
pub fn files(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "ledger").collect()
}
