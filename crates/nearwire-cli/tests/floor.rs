//! `nearwire bench floor`, from outside: what it prints, and what it leaves behind.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The command with runs of a millisecond.
fn floor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearwire"));
    command.args(["bench", "floor", "--seconds-per", "0.001", "--rounds", "1"]);
    command.args(arguments);
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    output
}

#[test]
fn json_holds_every_operation_with_a_figure() {
    let output = succeed(floor(&["--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["clock_ns"].as_f64().unwrap() > 0.0);
    assert!(report["machine"]["cpus"].as_u64().unwrap() > 0);
    let sections = report["sections"].as_array().unwrap();
    assert_eq!(sections.len(), 7);
    for section in sections {
        let series = section["series"].as_array().unwrap();
        assert!(!series.is_empty(), "nothing in {}", section["title"]);
        for series in series {
            for figure in ["min", "median", "max"] {
                assert!(
                    series[figure].as_f64().unwrap() > 0.0,
                    "{figure} of {series}"
                );
            }
            assert_eq!(series["runs"].as_array().unwrap().len(), 1);
        }
    }
    // Whatever spins stands between two readings of the probe.
    for run in sections[0]["series"].as_array().unwrap() {
        let probe = &run["runs"][0]["probe"];
        assert!(probe["before_ns"].as_f64().unwrap() > 0.0);
        assert!(probe["after_ns"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(report["ratios"].as_array().unwrap().len(), 5);
}

#[test]
fn tables_go_to_standard_output_and_progress_elsewhere() {
    let output = succeed(floor(&[]));
    let (tables, progress) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    for text in [
        "cache-line ping-pong",
        "futex",
        "memcpy",
        "membarrier",
        "comparable runs",
    ] {
        assert!(tables.contains(text), "no {text} in:\n{tables}");
    }
    assert!(progress.contains("measuring") && !tables.contains("measuring"));
}

#[test]
fn wrong_arguments_are_refused() {
    for (arguments, code, text) in [
        (&["--rounds", "0"][..], 2, "--rounds"),
        (&["--sideways"], 2, "--sideways"),
        (&["--seconds-per", "0"], 2, "--seconds-per"),
        (&["--seconds-per", "nan"], 2, "--seconds-per"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_nearwire"))
            .args(["bench", "floor"])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(text), "{errors}");
        assert!(output.stdout.is_empty());
    }
}

/// A benchmark in the middle of its spinning part.
struct Running {
    process: Child,
    children: Vec<u32>,
}

impl Running {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_nearwire"))
            .args(["bench", "floor", "--seconds-per", "100"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first line of progress comes when all children have reported in.
        let mut line = String::new();
        BufReader::new(process.stderr.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("measuring"), "{line}");
        let id = process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let children: Vec<u32> = children
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        assert_eq!(
            children.len(),
            4,
            "the far side, two socket servers, the probe"
        );
        Self { process, children }
    }

    /// Whether a process still runs (one that waits to be reaped does not).
    fn runs(id: u32) -> bool {
        fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .starts_with(" Z")
        })
    }

    fn expect_no_children(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.children.iter().any(|&id| Self::runs(id)) {
            assert!(Instant::now() < deadline, "children outlive their parent");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn children_die_with_a_parent_that_is_killed() {
    let mut running = Running::start();
    assert!(running.children.iter().all(|&id| Running::runs(id)));
    running.process.kill().unwrap();
    running.process.wait().unwrap();
    running.expect_no_children();
}

#[test]
fn the_death_of_a_child_ends_the_benchmark() {
    let mut running = Running::start();
    // The far side is the first child; this side now spins on what only that one would write.
    let far_side = Pid::from_raw(running.children[0].try_into().unwrap()).unwrap();
    kill_process(far_side, Signal::KILL).unwrap();
    let status = running.process.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let mut errors = String::new();
    running
        .process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert!(errors.contains("died"), "{errors}");
    running.expect_no_children();
}

#[test]
fn a_child_needs_its_parent() {
    let output = Command::new(env!("CARGO_BIN_EXE_nearwire"))
        .args(["__child", "floor", "--parent", "1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("parent"));
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let mut process = floor(&[])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    assert!(process.wait().unwrap().success());
}
