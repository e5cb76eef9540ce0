//! Memory: what there is for rings, and of which pages.

use bytesize::ByteSize;

use super::system::System;
use super::{Finding, Plan, cgroup};

/// What a connection takes at most with rings of the usual size: both segments, wholly touched.
const PER_CONNECTION: u64 = 2 * ((64 << 10) + 4096);

/// Mappings of a connection: its own segment and the peer's.
const MAPPINGS: u64 = 2;

pub fn examine(system: &System, plan: Plan) -> Vec<Finding> {
    vec![
        room(system, plan),
        mappings(system, plan),
        reserved_pages(system),
        transparent_pages(system),
    ]
}

fn human(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

fn room(system: &System, plan: Plan) -> Finding {
    const CHECK: &str = "memory";
    let available = system
        .value("/proc/meminfo", "MemAvailable")
        .map(|kilobytes| kilobytes << 10);
    let group = cgroup::memory_limit(system);
    let left = match (available, group) {
        (Some(available), Some(group)) => available.min(group.left),
        (Some(left), None) => left,
        (None, Some(group)) => group.left,
        (None, None) => {
            return Finding::warn(
                CHECK,
                "the system does not say how much there is",
                "mount /proc",
            );
        }
    };
    let need = plan.connections * PER_CONNECTION;
    let mut found = format!("{} can be had", human(left));
    if let Some(group) = group {
        found += &format!(", the control group's limit is {}", human(group.limit));
    }
    found += &format!(
        "; {} connections take {} at most",
        plan.connections,
        human(need)
    );
    if left < need {
        return Finding::fail(
            CHECK,
            found,
            "raise the limit (memory.max, the container's), or plan for fewer connections or \
             smaller rings (ring, Limits::max_ring)",
        );
    }
    if left / 2 < need {
        return Finding::warn(
            CHECK,
            format!("{found}, more than half of that"),
            "leave room for the programs themselves, or wish for smaller rings (ring)",
        );
    }
    Finding::ok(CHECK, found)
}

fn mappings(system: &System, plan: Plan) -> Finding {
    const CHECK: &str = "mappings";
    let Some(most) = system.number::<u64>("/proc/sys/vm/max_map_count") else {
        return Finding::ok(CHECK, "the system does not say how many a process may have");
    };
    let need = plan.connections * MAPPINGS;
    let found = format!("a process may have {most}, a connection takes {MAPPINGS}");
    // The program itself has some hundred.
    if need + 1000 > most {
        return Finding::fail(
            CHECK,
            format!("{found}: too few for {} connections", plan.connections),
            format!("sysctl vm.max_map_count={}", need + 65_536),
        );
    }
    Finding::ok(CHECK, found)
}

fn reserved_pages(system: &System) -> Finding {
    const CHECK: &str = "huge pages";
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let number = |name: &str| system.number::<u64>(format!("{POOL}/{name}"));
    match (number("nr_hugepages"), number("free_hugepages")) {
        (Some(0), _) => Finding::ok(
            CHECK,
            "none reserved; only huge_pages: Reserved takes them (sysctl vm.nr_hugepages)",
        ),
        (Some(all), Some(0)) => Finding::warn(
            CHECK,
            format!("{all} of 2 MiB reserved, none is free"),
            "huge_pages: Reserved falls back to ordinary pages: reserve more (sysctl \
             vm.nr_hugepages), two for each connection",
        ),
        (Some(all), free) => Finding::ok(
            CHECK,
            format!(
                "{} of {all} of 2 MiB are free, room for {} connections with huge_pages: Reserved",
                free.unwrap_or(0),
                free.unwrap_or(0) / MAPPINGS
            ),
        ),
        (None, _) => Finding::ok(
            CHECK,
            "this kernel has none of 2 MiB; only huge_pages: Reserved takes them",
        ),
    }
}

fn transparent_pages(system: &System) -> Finding {
    const CHECK: &str = "THP for shared memory";
    match system.choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled") {
        Some(choice) if matches!(&*choice, "always" | "force") => Finding::warn(
            CHECK,
            format!("{choice}: each small ring may take a page of 2 MiB"),
            "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
        Some(choice) if matches!(&*choice, "advise" | "within_size") => Finding::ok(
            CHECK,
            format!("{choice}: huge_pages: Transparent gets them"),
        ),
        Some(choice) => Finding::ok(
            CHECK,
            format!("{choice}; only huge_pages: Transparent asks for them, and needs advise"),
        ),
        None => Finding::ok(
            CHECK,
            "this kernel has none; only huge_pages: Transparent asks for them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::system::Files;
    use super::*;

    fn plan(connections: u64) -> Plan {
        Plan {
            connections,
            workers: None,
        }
    }

    #[test]
    fn the_plan_must_fit_into_memory() {
        let files = Files::new([("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 102400 kB\n")]);
        for (connections, level) in [(100, Level::Ok), (500, Level::Warn), (900, Level::Fail)] {
            let finding = room(&files, plan(connections));
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn the_groups_limit_counts() {
        let files = Files::new([
            ("/proc/meminfo", "MemAvailable: 102400000 kB\n"),
            ("/proc/self/cgroup", "0::/\n"),
            (
                "/proc/self/mountinfo",
                "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("/sys/fs/cgroup/memory.max", "20000000\n"),
            ("/sys/fs/cgroup/memory.current", "19000000\n"),
        ]);
        let finding = room(&files, plan(128));
        assert_eq!(finding.level, Level::Fail, "{finding:?}");
    }

    #[test]
    fn the_plan_must_fit_into_the_mappings() {
        let files = Files::new([("/proc/sys/vm/max_map_count", "65530\n")]);
        assert_eq!(mappings(&files, plan(10_000)).level, Level::Ok);
        assert_eq!(mappings(&files, plan(40_000)).level, Level::Fail);
    }

    #[test]
    fn pages_are_judged_by_what_asks_for_them() {
        const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        let pool = |all, free| {
            let [total, left] = ["nr_hugepages", "free_hugepages"].map(|n| format!("{POOL}/{n}"));
            let files = Files::new([(&*total, all), (&*left, free)]);
            reserved_pages(&files).level
        };
        assert_eq!(pool("0\n", "0\n"), Level::Ok);
        assert_eq!(pool("8\n", "0\n"), Level::Warn);
        assert_eq!(pool("8\n", "3\n"), Level::Ok);
        let shared = |text| {
            let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
            transparent_pages(&Files::new([(path, text)])).level
        };
        assert_eq!(
            shared("[always] within_size advise never deny force"),
            Level::Warn
        );
        assert_eq!(
            shared("always within_size advise [never] deny force"),
            Level::Ok
        );
        assert_eq!(
            shared("always within_size [advise] never deny force"),
            Level::Ok
        );
    }
}
