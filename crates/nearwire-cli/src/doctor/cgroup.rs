//! The control group of this process: where its files are, whichever of the two versions.

use std::path::{Path, PathBuf};

use super::system::System;

/// Which interface a controller's files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// A controller's directories: this process's own first, then those around it.
#[derive(Debug, PartialEq, Eq)]
pub struct Controller {
    /// Which files they have.
    pub version: Version,
    /// The directories, from the innermost outward. All of their limits hold.
    pub directories: Vec<PathBuf>,
}

/// Finds the directories of a controller such as `memory`, if it is in use and can be seen.
pub fn controller(system: &System, name: &str) -> Option<Controller> {
    let own = system.text("/proc/self/cgroup")?;
    let mounts = system.text("/proc/self/mountinfo")?;
    let v1 = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        names.split(',').any(|n| n == name).then_some(path)
    });
    let (version, path) = match v1 {
        Some(path) => (Version::V1, path),
        None => (
            Version::V2,
            own.lines().find_map(|line| line.strip_prefix("0::"))?,
        ),
    };
    let (inside, mount) = mounts
        .lines()
        .find_map(|line| mounted(line, version, name))?;
    // A process may see less than the whole hierarchy.
    let below = Path::new(path)
        .strip_prefix(inside)
        .unwrap_or(Path::new(""));
    let mut directories = Vec::new();
    for below in below.ancestors() {
        let directory = Path::new(mount).join(below);
        if system.has(&directory) {
            directories.push(directory);
        }
    }
    Some(Controller {
        version,
        directories,
    })
}

/// The part of the hierarchy that a line of mountinfo is about, and where it is mounted, if it has
/// the controller.
fn mounted<'a>(line: &'a str, version: Version, name: &str) -> Option<(&'a str, &'a str)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (inside, mount) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let file_system = kind.next()?;
    let options = kind.nth(1)?;
    match version {
        Version::V1 if file_system == "cgroup" => {
            options.split(',').any(|o| o == name).then_some(())?;
        }
        Version::V2 if file_system == "cgroup2" => {}
        _ => return None,
    }
    Some((inside, mount))
}

/// How many processors a quota is worth.
pub fn processor_quota(system: &System) -> Option<f64> {
    let controller = controller(system, "cpu")?;
    let quotas = controller.directories.iter().filter_map(|directory| {
        let (quota, period): (f64, f64) = match controller.version {
            Version::V2 => {
                let text = system.text(directory.join("cpu.max"))?;
                let (quota, period) = text.split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
            Version::V1 => (
                system.number(directory.join("cpu.cfs_quota_us"))?,
                system.number(directory.join("cpu.cfs_period_us"))?,
            ),
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    });
    quotas.reduce(f64::min)
}

/// How often this process's group was held up because its quota was used up.
pub fn times_throttled(system: &System) -> Option<u64> {
    let controller = controller(system, "cpu")?;
    system.value(
        controller.directories.first()?.join("cpu.stat"),
        "nr_throttled",
    )
}

/// A limit of memory, and what is left below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit in bytes.
    pub limit: u64,
    /// What can still be had, in bytes: file pages that nobody needs count as free.
    pub left: u64,
}

/// The limit that leaves least.
pub fn memory_limit(system: &System) -> Option<MemoryLimit> {
    let controller = controller(system, "memory")?;
    let (limit, usage, inactive) = match controller.version {
        Version::V2 => ("memory.max", "memory.current", "inactive_file"),
        Version::V1 => (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    };
    // Version 1 says "none" by a number that no machine has.
    const NONE: u64 = 1 << 60;
    let limits = controller.directories.iter().filter_map(|directory| {
        let limit = system
            .number(directory.join(limit))
            .filter(|&limit: &u64| limit < NONE)?;
        let usage: u64 = system.number(directory.join(usage)).unwrap_or(0);
        let inactive = system.value(directory.join("memory.stat"), inactive);
        let used = usage.saturating_sub(inactive.unwrap_or(0));
        let left = limit.saturating_sub(used);
        Some(MemoryLimit { limit, left })
    });
    limits.min_by_key(|limit| limit.left)
}

#[cfg(test)]
mod tests {
    use super::super::system::Files;
    use super::*;

    const V2: [(&str, &str); 2] = [
        ("/proc/self/cgroup", "0::/service/inner\n"),
        (
            "/proc/self/mountinfo",
            "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
        ),
    ];

    #[test]
    fn every_group_around_has_its_say() {
        let files = Files::new(V2.into_iter().chain([
            ("/sys/fs/cgroup/service/inner/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/service/cpu.max", "50000 100000\n"),
            (
                "/sys/fs/cgroup/service/inner/cpu.stat",
                "nr_periods 9\nnr_throttled 4\n",
            ),
            ("/sys/fs/cgroup/service/inner/memory.max", "1000\n"),
            ("/sys/fs/cgroup/service/inner/memory.current", "900\n"),
            (
                "/sys/fs/cgroup/service/inner/memory.stat",
                "inactive_file 400\n",
            ),
            ("/sys/fs/cgroup/service/memory.max", "5000\n"),
            ("/sys/fs/cgroup/service/memory.current", "4900\n"),
            ("/sys/fs/cgroup/service/memory.stat", "inactive_file 0\n"),
        ]));
        assert_eq!(processor_quota(&files), Some(0.5));
        assert_eq!(times_throttled(&files), Some(4));
        let (limit, left) = (5000, 100);
        assert_eq!(memory_limit(&files), Some(MemoryLimit { limit, left }));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let files = Files::new(V2.into_iter().chain([
            ("/sys/fs/cgroup/service/inner/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/service/inner/memory.max", "max\n"),
        ]));
        assert_eq!(processor_quota(&files), None);
        assert_eq!(memory_limit(&files), None);
        let nothing = Files::new([]);
        assert_eq!(processor_quota(&nothing), None);
        assert_eq!(memory_limit(&nothing), None);
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_each() {
        let files = Files::new([
            (
                "/proc/self/cgroup",
                "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n",
            ),
            // A container sees its own group as the root.
            (
                "/proc/self/mountinfo",
                "31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                 32 1 0:28 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                 33 1 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n"),
        ]);
        assert_eq!(processor_quota(&files), Some(1.5));
        assert_eq!(memory_limit(&files), None);
    }
}
