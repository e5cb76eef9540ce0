//! `nearwire bench` and `nearwire demo` on every system: that their processes find each other, that all is
//! measured, and that nobody stays behind. Never how fast.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

/// One short run of each.
const SHORT: [&str; 4] = ["--seconds-per", "0.05", "--rounds", "1"];

/// What reports call the connection that Nearwire is compared with.
const SOCKET: &str = if cfg!(windows) {
    "named pipe"
} else {
    "Unix socket"
};

fn nearwire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearwire"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a command that succeeds prints as JSON.
#[track_caller]
fn report(arguments: &[&str]) -> Value {
    let output = nearwire(arguments).arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names of all that a report gives a figure for, with the figures.
fn figures(report: &Value) -> Vec<(&str, f64)> {
    let sections = report["sections"].as_array().unwrap().iter();
    sections
        .flat_map(|section| section["series"].as_array().unwrap())
        .map(|series| {
            let median = series["median"].as_f64().unwrap();
            (series["name"].as_str().unwrap(), median)
        })
        .collect()
}

#[track_caller]
fn expect_figures(report: &Value, names: &[&str]) {
    let figures = figures(report);
    for name in names {
        let found = figures.iter().find(|(found, _)| found == name);
        let positive = found.is_some_and(|(_, median)| *median > 0.0);
        assert!(positive, "{name} in {figures:?}");
    }
}

#[test]
fn many_connections_in_every_shape() {
    let what = ["bench", "scale", "--connections", "6", "--size", "64,1KiB"];
    let more = ["--window", "1,4", "--processes", "2"];
    let report = report(&[&what[..], &more, &SHORT].concat());
    let points = report["points"].as_array().unwrap();
    // Sweep and tasks with either window, threads with one call at a time.
    assert_eq!(points.len(), 2 * 5, "{report}");
    for point in points {
        for side in ["nearwire", "unix_socket"] {
            let figures = &point[side];
            let calls = figures["calls_per_second"]["median"].as_f64();
            assert!(calls.is_some_and(|calls| calls > 0.0), "{side}: {point}");
            let fairness = figures["slowest_over_fastest"].as_f64();
            assert!(fairness.is_some_and(|part| part > 0.0), "{side}: {point}");
        }
        let times = point["times_the_calls"]["median"].as_f64();
        assert!(times.is_some_and(|times| times > 0.0), "{point}");
    }
}

#[test]
fn calls_at_fixed_times() {
    let what = ["bench", "scale", "--connections", "6", "--size", "64"];
    let more = ["--window", "4", "--rate", "2000", "--shape", "sweep"];
    let report = report(&[&what[..], &more, &SHORT].concat());
    let point = &report["points"].as_array().unwrap()[0];
    for side in ["nearwire", "unix_socket"] {
        let calls = point[side]["calls_per_second"]["median"].as_f64();
        assert!(calls.is_some_and(|calls| calls > 0.0), "{side}: {point}");
    }
}

#[test]
fn one_call_at_a_time() {
    let report = report(&[&["bench", "latency", "--size", "64"], &SHORT[..]].concat());
    let socket = format!("64 B: {SOCKET}");
    let names = ["64 B: Nearwire blocking", "64 B: Nearwire async", &socket];
    expect_figures(&report, &names);
}

#[test]
fn many_calls_at_a_time() {
    let what = ["bench", "throughput", "--size", "64", "--window", "8"];
    let report = report(&[&what[..], &SHORT].concat());
    let socket = format!("64 B: Tokio {SOCKET}, coalesced");
    let names = [
        "64 B: Nearwire pipeline",
        "64 B: Nearwire async tasks",
        &socket,
    ];
    expect_figures(&report, &names);
}

#[test]
fn messages_beside_the_barest_ring() {
    let report = report(&[&["bench", "ring"], &SHORT[..]].concat());
    expect_figures(&report, &["64 B singly: Nearwire"]);
}

#[test]
fn what_the_hardware_gives() {
    let report = report(&[&["bench", "floor"], &SHORT[..]].concat());
    assert!(figures(&report).len() > 3, "{report}");
}

#[test]
fn what_connecting_costs() {
    let report = report(&["bench", "scale", "--connects", "20"]);
    assert!(report.to_string().contains("20"), "{report}");
}

#[test]
fn what_idle_clients_cost() {
    let what = ["bench", "scale", "--idle", "10", "--connections", "2"];
    let more = ["--rest", "0.2"];
    let report = report(&[&what[..], &more, &SHORT].concat());
    // With one call in flight on each active connection, and with many.
    assert_eq!(report["points"].as_array().unwrap().len(), 2, "{report}");
    // Of ten it may be none: what either process had to spare.
    assert!(report["bytes_per_idle_connection"].is_u64(), "{report}");
    assert!(report["server_percent_at_rest"].is_number(), "{report}");
    // What a system does not tell is told as that.
    for side in ["server_descriptors", "client_descriptors"] {
        let each = &report[side];
        let is_told = each.as_f64().is_some_and(|each| each >= 1.0);
        let may_lack = !cfg!(target_os = "linux") && each.is_null();
        assert!(is_told || may_lack, "{side}: {report}");
    }
}

#[test]
fn what_bad_clients_cost_others() {
    let what = ["bench", "scale", "--bad-clients", "--connections", "4"];
    let more = ["--rate", "400"];
    let report = report(&[&what[..], &more, &SHORT].concat());
    let kinds = report["kinds"].as_array().unwrap();
    let is_there = |name: &str| kinds.iter().any(|kind| kind["name"] == name);
    assert!(is_there("one floods"), "{report}");
    assert_eq!(is_there("one is stopped"), cfg!(unix), "{report}");
    for (place, least) in [("here", 4), ("limited", 3), ("elsewhere", 2)] {
        let there = kinds.iter().filter(|kind| kind["place"] == place).count();
        assert!(there >= least, "{place}: {report}");
    }
    let together = kinds
        .iter()
        .map(|kind| kind["offences"].as_array().unwrap());
    let most = together.map(Vec::len).max();
    assert_eq!(most, Some(if cfg!(unix) { 4 } else { 3 }), "{report}");
    for kind in kinds {
        let ratio = kind["times_the_p99"]["median"].as_f64();
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{kind}");
        // Elsewhere the system does not tell.
        let is_busy_told = kind["busy_with"].is_number();
        assert_eq!(is_busy_told, cfg!(target_os = "linux"), "{kind}");
    }
}

#[test]
fn every_file_of_a_directory_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in [("empty", 0), ("small", 10), ("large", 300_000)] {
        std::fs::write(directory.path().join(name), vec![7; bytes]).unwrap();
    }
    let path = directory.path().to_str().unwrap();
    let report = report(&["demo", "--quick", "--dir", path]);
    assert_eq!(report["files"]["files"], 3, "{report}");
    assert_eq!(report["files"]["bytes"], 300_010, "{report}");
    assert_eq!(report["files"]["mismatches"], 0, "{report}");
}

/// Who is killed leaves no process behind: all of them hold the writing end of what this reads.
#[test]
fn children_go_with_the_command() {
    let long = ["bench", "latency", "--seconds-per", "60", "--rounds", "1"];
    let mut command = nearwire(&long);
    let (mut read, write) = std::io::pipe().unwrap();
    let mut process = command.stdout(Stdio::null()).stderr(write).spawn().unwrap();
    drop(command);
    // Until it measures.
    std::thread::sleep(Duration::from_secs(2));
    assert!(process.try_wait().unwrap().is_none(), "it has ended");
    process.kill().unwrap();
    process.wait().unwrap();
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        let outcome = read.read_to_string(&mut said).map(|_| said);
        sender.send(outcome)
    });
    // A child that is in the middle of a run has 10 s to leave.
    let ended = ended.recv_timeout(Duration::from_secs(30));
    ended.expect("a child is still there").unwrap();
}
