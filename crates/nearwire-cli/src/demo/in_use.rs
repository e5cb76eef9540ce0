//! What was really in use: taken from what happened, not from what was asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use nearwire::BlockingClient;
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::arguments::human_size;
use crate::private::PrivateServer;
use crate::process::{allowed_cpus, cpus_of};

/// How a client's connection works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// CPUs that the client may run on, as the kernel says.
    pub(super) client_cpus: Vec<usize>,
    /// Capacity of the ring towards the server, in bytes.
    pub(super) ring_to_server: usize,
    /// Capacity of the ring towards the client, in bytes.
    pub(super) ring_to_client: usize,
    /// How it has waited since it was opened.
    pub(super) waits: Waits,
    /// The segments that the client has mapped, as the kernel says: its own and the server's. None
    /// where the kernel does not say.
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

/// How a client has waited for its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waits {
    /// Waits that ended while the client spun.
    pub(super) spins: u64,
    /// Waits that slept in the kernel.
    pub(super) sleeps: u64,
    /// System calls that woke the server.
    pub(super) wakeups: u64,
}

/// What was in use in the whole demonstration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct InUse {
    #[serde(flatten)]
    pub(super) connection: Connection,
    /// CPUs that each of the server's workers may run on, as the kernel says. None where it does not.
    pub(super) worker_cpus: Vec<Vec<usize>>,
}

/// What this process's connection is like, as the library and the kernel say.
pub(super) fn of_connection(client: &BlockingClient) -> Result<Connection> {
    let maps = match cfg!(target_os = "linux") {
        true => fs::read_to_string("/proc/self/smaps").context("cannot read the memory map")?,
        // Nobody else lists what is mapped.
        false => String::new(),
    };
    let info = client.info();
    let stats = client.wait_stats();
    Ok(Connection {
        client_cpus: allowed_cpus(),
        ring_to_server: info.ring_out,
        ring_to_client: info.ring_in,
        waits: Waits {
            spins: stats.spins_paid,
            sleeps: stats.sleeps,
            wakeups: stats.wakeups,
        },
        segments: segments(&maps),
    })
}

/// Asks a client, and the kernel about the server.
pub(super) fn find_out(client: &Client, server: &PrivateServer) -> Result<InUse> {
    Ok(InUse {
        connection: client.connection()?,
        worker_cpus: worker_cpus(server)?,
    })
}

/// The CPUs that each of the server's workers may run on, as the kernel says.
fn worker_cpus(server: &PrivateServer) -> Result<Vec<Vec<usize>>> {
    let mut workers = Vec::new();
    if !cfg!(target_os = "linux") {
        return Ok(workers);
    }
    let tasks = format!("/proc/{}/task", server.process().id());
    for task in fs::read_dir(tasks).context("the server process is gone")? {
        let task = task?;
        // A thread may end meanwhile.
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let number = name.trim_end().strip_prefix("nearwire-");
        if number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
            let thread = task.file_name().to_str().and_then(|id| id.parse().ok());
            workers.push(cpus_of(thread));
        }
    }
    Ok(workers)
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
                hexadecimal(to)?.checked_sub(hexadecimal(from)?)
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
        let connection = &self.connection;
        let huge = connection.segments.iter().filter(|s| s.huge_pages).count();
        let pages = match huge {
            _ if connection.segments.is_empty() => "ordinary pages",
            0 => "no huge pages",
            all if all == connection.segments.len() => "huge pages",
            _ => "huge pages on one side",
        };
        let workers: BTreeSet<String> = self.worker_cpus.iter().map(|cpus| pinned(cpus)).collect();
        let workers: Vec<String> = workers.into_iter().collect();
        let workers = match self.worker_cpus.len() {
            0 => "workers where the system puts them".to_owned(),
            1 => format!("1 worker {}", workers.join(" or ")),
            count => format!("{count} workers {}", workers.join(" or ")),
        };
        write!(
            formatter,
            "In use: rings of {} and {}, {pages}; {workers}, client {}; waiting by {}.",
            human_size(connection.ring_to_server),
            human_size(connection.ring_to_client),
            pinned(&connection.client_cpus),
            connection.waits,
        )
    }
}

/// Where a thread with these CPUs may run.
fn pinned(cpus: &[usize]) -> String {
    match cpus {
        [cpu] => format!("pinned to CPU {cpu}"),
        cpus => format!("not pinned (any of {} CPUs)", cpus.len()),
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spins, sleeps, .. } = self;
        let share = *sleeps as f64 / (spins + sleeps).max(1) as f64;
        let how = if share < 0.05 {
            "spinning"
        } else if share < 0.95 {
            "spinning and blocking"
        } else {
            "blocking"
        };
        write!(
            formatter,
            "{how} ({spins} waits ended in a spin, {sleeps} in a sleep)"
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
    fn waits_are_named_by_what_most_did() {
        let text = |spins, sleeps| {
            let wakeups = sleeps;
            Waits {
                spins,
                sleeps,
                wakeups,
            }
            .to_string()
        };
        assert!(text(1000, 1).starts_with("spinning ("));
        assert!(text(50, 50).starts_with("spinning and blocking ("));
        assert!(text(0, 50).starts_with("blocking ("));
    }
}
