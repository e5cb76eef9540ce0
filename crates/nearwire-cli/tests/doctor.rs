//! `nearwire doctor`, from outside: on this machine as it is, and on one that was made worse.
#![cfg(target_os = "linux")]

mod command;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use command::{Ended, Place, Running, eventually};
use serde_json::Value;

/// The command with these arguments, started by a shell that does something first.
fn after(place: &Place, first: &str, arguments: &[&str]) -> Ended {
    let doctor = place.command(arguments);
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("{first} exec \"$0\" \"$@\""))
        .arg(doctor.get_program())
        .args(doctor.get_args());
    for (name, value) in doctor.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Running::start(shell).wait()
}

/// What a check found, of those that were printed.
#[track_caller]
fn finding(ended: &Ended, check: &str) -> Value {
    let report: Value =
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let good = check["level"] == "ok";
        assert!(good || check["advice"].is_string(), "no advice: {check}");
    }
    let found = checks.iter().find(|finding| finding["check"] == check);
    found
        .unwrap_or_else(|| panic!("no {check}: {report}"))
        .clone()
}

#[track_caller]
fn expect(ended: &Ended, check: &str, level: &str, texts: &[&str]) {
    let finding = finding(ended, check);
    assert_eq!(finding["level"], level, "{finding}");
    for text in texts {
        assert!(finding.to_string().contains(text), "no {text:?}: {finding}");
    }
    let code = i32::from(level == "fail");
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
}

#[test]
fn a_machine_that_runs_these_tests_has_what_it_takes() {
    let place = Place::new();
    let ended = place.run(&["doctor", "--json"]);
    for check in ["memfd seals", "doorbells", "peer credentials", "a call"] {
        expect(&ended, check, "ok", &[]);
    }
    expect(&ended, "directory", "ok", &["the first server makes it"]);
    place.expect_nothing_left();
    // To look is not to make.
    assert!(!place.names().exists());

    let text = place.run(&["doctor"]);
    assert!(text.text().contains("ok    memfd seals"), "{text:?}");
    assert!(text.text().contains(", 0 fail\n"), "{text:?}");
}

#[test]
fn a_private_directory_is_tried_and_left_as_it_was() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    let ended = place.run(&["doctor", "--json"]);
    expect(&ended, "directory", "ok", &["private"]);
    let names: Vec<_> = fs::read_dir(place.names())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["s.sock"]);
}

#[test]
fn a_directory_that_others_may_enter_fails() {
    let place = Place::new();
    fs::create_dir(place.names()).unwrap();
    fs::set_permissions(place.names(), Permissions::from_mode(0o755)).unwrap();
    let ended = place.run(&["doctor", "--json"]);
    expect(&ended, "directory", "fail", &["0755", "chmod 700"]);
    assert!(ended.stderr.contains("1 check failed"), "{ended:?}");

    fs::set_permissions(place.names(), Permissions::from_mode(0o700)).unwrap();
    expect(&place.run(&["doctor", "--json"]), "directory", "ok", &[]);
}

#[test]
fn a_directory_that_is_a_link_fails() {
    let place = Place::new();
    fs::create_dir(place.path("real")).unwrap();
    symlink(place.path("real"), place.names()).unwrap();
    let ended = place.run(&["doctor", "--json"]);
    expect(
        &ended,
        "directory",
        "fail",
        &["symbolic link", "NEARWIRE_DIR"],
    );
}

#[test]
fn a_directory_that_cannot_be_made_fails() {
    let place = Place::new();
    // Not even root makes a directory below a file.
    fs::write(place.names(), "").unwrap();
    let ended = place.run(&["doctor", "--json"]);
    expect(&ended, "directory", "fail", &["Not a directory"]);
}

#[test]
fn too_few_descriptors_fail() {
    let place = Place::new();
    let ended = after(&place, "ulimit -n 64;", &["doctor", "--json"]);
    let told = ["the limit is 64", "too few for 128", "416 or more"];
    expect(&ended, "descriptors", "fail", &told);
    // It is enough for a few.
    let arguments = ["doctor", "--json", "--connections", "10"];
    let ended = after(&place, "ulimit -n 64;", &arguments);
    expect(&ended, "descriptors", "ok", &[]);
}

#[test]
fn a_limit_that_may_be_raised_is_a_warning() {
    let place = Place::new();
    let ended = after(&place, "ulimit -Sn 64;", &["doctor", "--json"]);
    expect(&ended, "descriptors", "warn", &["ulimit -n 416"]);
}

/// Hardly any descriptors at all: each line says so for itself, none is missing.
#[test]
fn a_check_that_cannot_be_made_fails_by_itself() {
    let place = Place::new();
    let all = place.run(&["doctor", "--json"]);
    let ended = after(&place, "ulimit -n 5;", &["doctor", "--json"]);
    let count = |ended: &Ended| {
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
        report["checks"].as_array().unwrap().len()
    };
    assert_eq!(count(&ended), count(&all));
    expect(&ended, "a call", "fail", &["lines above"]);
    place.expect_nothing_left();
}

#[test]
fn one_cpu_is_a_warning() {
    let place = Place::new();
    let allowed = fs::read_to_string("/proc/self/status").unwrap();
    let list = allowed
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let first = list.trim().split([',', '-']).next().unwrap();
    let ended = after(
        &place,
        &format!("taskset -pc {first} $$ >&2;"),
        &["doctor", "--json"],
    );
    expect(&ended, "CPUs", "warn", &["may use 1", "taskset"]);
    expect(&ended, "a call", "ok", &[]);
    expect(&ended, "workers", "ok", &["1 for 1 CPUs"]);
}

#[test]
fn a_plan_beyond_the_machine_is_told() {
    let place = Place::new();
    let plan = ["--connections", "1000000", "--workers", "1024"];
    let ended = place.run(&[&["doctor", "--json"], &plan[..]].concat());
    assert_eq!(finding(&ended, "workers")["level"], "warn");
    expect(&ended, "mappings", "fail", &["vm.max_map_count"]);
}

/// A control group of this machine with half a CPU, removed when dropped; none if groups cannot be
/// made here. How their files are read is tested without them, see `cgroup.rs`.
struct HalfACpu(PathBuf);

impl HalfACpu {
    fn new() -> Option<Self> {
        let name = format!("nearwire-test-{}", std::process::id());
        let group = [
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup",
        ]
        .map(|mount| Path::new(mount).join(&name))
        .into_iter()
        .find(|path| fs::create_dir(path).is_ok())
        .map(Self)?;
        let first = fs::write(group.0.join("cpu.cfs_quota_us"), "50000");
        let second = || fs::write(group.0.join("cpu.max"), "50000 100000");
        (first.is_ok() || second().is_ok()).then_some(group)
    }
}

impl Drop for HalfACpu {
    fn drop(&mut self) {
        // Not before the last of its processes is gone.
        eventually("the group is removed", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_quota_of_half_a_cpu_is_a_warning() {
    let Some(group) = HalfACpu::new() else {
        eprintln!("not tested: this process may not make control groups");
        return;
    };
    let place = Place::new();
    let first = format!("echo $$ > {}/cgroup.procs;", group.0.display());
    let ended = after(&place, &first, &["doctor", "--json"]);
    expect(&ended, "CPU quota", "warn", &["0.50 CPUs", "cpu.max"]);
    expect(&ended, "a call", "ok", &[]);
}
