//! What was really in use: taken from what happened, not from what was asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use nearwire::BlockingClient;
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::arguments::human_size;
use crate::process::allowed_cpus;
use crate::serve::PrivateServer;

/// How a client's connection works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// CPUs that the client may run on, as the kernel says.
    pub(super) client_cpus: Vec<usize>,
    /// The segments that the client has mapped, as the kernel says: its own and the server's.
    pub(super) segments: Vec<Segment>,
}

/// A shared segment: a ring and its control words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    /// Its size.
    pub(super) bytes: usize,
    /// Whether this process may write it: its own.
    pub(super) writable: bool,
    /// Whether it lies in huge pages, in part at least.
    pub(super) huge_pages: bool,
}

/// Calls, and how often the kernel put the caller to sleep meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waits {
    pub(super) calls: u64,
    pub(super) sleeps: u64,
}

impl Waits {
    /// The calling thread's sleeps since it was started, as the kernel counts them.
    pub(super) fn so_far(calls: u64) -> Result<Self> {
        let status = fs::read_to_string("/proc/thread-self/status")?;
        let sleeps = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|count| count.trim().parse().ok())
            .context("the kernel does not count sleeps")?;
        Ok(Self { calls, sleeps })
    }

    /// Adds what happened between two readings.
    pub(super) fn add(&mut self, after: Self, before: Self) {
        self.calls += after.calls - before.calls;
        self.sleeps += after.sleeps - before.sleeps;
    }
}

/// What was in use in the whole demonstration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct InUse {
    #[serde(flatten)]
    pub(super) connection: Connection,
    /// CPUs that each of the server's workers may run on, as the kernel says.
    pub(super) worker_cpus: Vec<Vec<usize>>,
    /// How the client waited for its replies.
    pub(super) waits: Waits,
}

/// What this process's connection is like. Asks the kernel, whose word it is in the end.
pub(super) fn of_connection(_client: &BlockingClient) -> Result<Connection> {
    let maps = fs::read_to_string("/proc/self/smaps").context("cannot read the memory map")?;
    Ok(Connection {
        client_cpus: allowed_cpus(),
        segments: segments(&maps),
    })
}

/// Asks a client, and the kernel about the server.
pub(super) fn find_out(client: &Client, server: &PrivateServer, waits: Waits) -> Result<InUse> {
    Ok(InUse {
        connection: client.connection()?,
        worker_cpus: server.worker_cpus()?,
        waits,
    })
}

/// The segments among the mappings of `/proc/self/smaps`.
fn segments(maps: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut in_segment = false;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if !first.ends_with(':') {
            // The head of a mapping: range, permissions, offset, device, inode, name.
            let range = first.split_once('-').and_then(|(from, to)| {
                let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
                Some(hexadecimal(to)?.checked_sub(hexadecimal(from)?)?)
            });
            in_segment = words.any(|word| word.starts_with("/memfd:nearwire"));
            if let (true, Some(bytes)) = (in_segment, range) {
                segments.push(Segment {
                    bytes,
                    writable: second.contains('w'),
                    huge_pages: false,
                });
            }
        } else if in_segment && let Some(segment) = segments.last_mut() {
            let kibibytes: usize = second.parse().unwrap_or(0);
            segment.huge_pages |= match first {
                "KernelPageSize:" => kibibytes > 64,
                "ShmemPmdMapped:" | "FilePmdMapped:" => kibibytes > 0,
                _ => false,
            };
        }
    }
    segments
}

impl fmt::Display for InUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: BTreeSet<usize> = self.connection.segments.iter().map(|s| s.bytes).collect();
        let sizes: Vec<String> = sizes.into_iter().map(human_size).collect();
        let huge = self
            .connection
            .segments
            .iter()
            .filter(|s| s.huge_pages)
            .count();
        let pages = match huge {
            0 => "no huge pages",
            all if all == self.connection.segments.len() => "huge pages",
            _ => "huge pages on one side",
        };
        let pinned = |cpus: &[usize]| match cpus {
            [cpu] => format!("pinned to CPU {cpu}"),
            cpus => format!("not pinned (any of {} CPUs)", cpus.len()),
        };
        let workers: BTreeSet<String> = self.worker_cpus.iter().map(|c| pinned(c)).collect();
        let workers: Vec<String> = workers.into_iter().collect();
        write!(
            formatter,
            "In use: segments of {}, {pages}; {} worker{} {}, client {}; {}.",
            sizes.join(" and "),
            self.worker_cpus.len(),
            if self.worker_cpus.len() == 1 { "" } else { "s" },
            workers.join(" or "),
            pinned(&self.connection.client_cpus),
            self.waits,
        )
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.sleeps as f64 / self.calls.max(1) as f64;
        let how = if share < 0.05 {
            "spinning"
        } else if share < 0.95 {
            "spinning and blocking"
        } else {
            "blocking"
        };
        let Self { calls, sleeps } = self;
        write!(
            formatter,
            "{how} ({calls} calls, {sleeps} sleeps in the kernel)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_told_from_other_mappings() {
        let maps = "\
7f0000000000-7f0000011000 rw-s 00000000 00:01 1030 /memfd:nearwire (deleted)
Size:                 68 kB
KernelPageSize:        4 kB
ShmemPmdMapped:        0 kB
VmFlags: rd wr sh mr mw me ms sd
7f0000200000-7f0000400000 r--s 00000000 00:01 1031 /memfd:nearwire (deleted)
KernelPageSize:     2048 kB
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
KernelPageSize:     2048 kB
7f0000500000-7f0000600000 r-xp 00000000 08:01 77 /usr/bin/nearwire
KernelPageSize:        4 kB
";
        let segment = |bytes, writable, huge_pages| Segment {
            bytes,
            writable,
            huge_pages,
        };
        assert_eq!(
            segments(maps),
            [segment(0x11000, true, false), segment(2 << 20, false, true)]
        );
    }

    #[test]
    fn this_thread_has_slept() {
        let before = Waits::so_far(0).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let mut waits = Waits::default();
        waits.add(Waits::so_far(1).unwrap(), before);
        assert_eq!(waits.calls, 1);
        assert!(waits.sleeps >= 1);
    }
}
