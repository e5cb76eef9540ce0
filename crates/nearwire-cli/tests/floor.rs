//! `nearwire bench floor`, from outside: what it prints, and what it leaves behind.
#![cfg(target_os = "linux")]

mod command;

use std::process::{Command, Output, Stdio};

use command::{Place, Running};
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

/// A benchmark in the middle of its spinning part, and its children.
fn start(place: &Place) -> (Running, Vec<u32>) {
    let mut running = place.start(&["bench", "floor", "--seconds-per", "100"]);
    // Comes when all children have reported in.
    running.expect("measuring");
    let children = running.children();
    assert_eq!(
        children.len(),
        4,
        "the far side, two socket servers, the probe"
    );
    (running, children)
}

#[test]
fn children_die_with_a_parent_that_is_killed() {
    let place = Place::new();
    let (running, _) = start(&place);
    running.signal(Signal::KILL);
    running.wait().expect_signal(Signal::KILL);
    place.expect_nothing_left();
}

#[test]
fn the_death_of_a_child_ends_the_benchmark() {
    let place = Place::new();
    let (running, children) = start(&place);
    // The far side is the first child; this side now spins on what only that one would write.
    let far_side = Pid::from_raw(children[0].try_into().unwrap()).unwrap();
    kill_process(far_side, Signal::KILL).unwrap();
    running.wait().expect_error(&["died"]);
    place.expect_nothing_left();
}

#[test]
fn a_child_needs_its_parent() {
    let output = Command::new(env!("CARGO_BIN_EXE_nearwire"))
        .args(["__child", "floor"])
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
