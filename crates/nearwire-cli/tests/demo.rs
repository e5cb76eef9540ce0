//! `nearwire demo`, from outside: what it says, and that nothing remains of it.
#![cfg(target_os = "linux")]

mod command;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use command::{Place, Running, write_pattern};
use rustix::process::Signal;

/// A directory in the place, with something in it.
fn directory(place: &Place) -> String {
    let directory = place.path("files");
    fs::create_dir(&directory).unwrap();
    write_pattern(&directory.join("file"), 1000);
    directory.to_str().unwrap().to_owned()
}

#[test]
fn every_file_is_hashed_and_checked() {
    let place = Place::new();
    let directory = directory(&place);
    let at = |name: &str| place.path("files").join(name);
    fs::write(at("empty"), []).unwrap();
    fs::create_dir(at("below")).unwrap();
    // Some hundred times as large as the ring.
    write_pattern(&at("below/large"), 10 << 20);
    symlink(at("empty"), at("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    // Who may do everything can read this one too.
    write_pattern(&at("closed"), 10);
    fs::set_permissions(at("closed"), Permissions::from_mode(0o000)).unwrap();
    let closed = u64::from(File::open(at("closed")).is_err());

    let report = place.json(&["demo", "--quick", "--json", "--dir", &directory]);
    let files = &report["files"];
    assert_eq!(files["files"], 4 - closed);
    assert_eq!(files["bytes"], 1000 + (10 << 20) + 10 * (1 - closed));
    assert_eq!(files["mismatches"], 0);
    assert_eq!(files["unreadable"].as_array().unwrap().len() as u64, closed);
    assert_eq!(files["symbolic_links"], 1);
    assert_eq!(files["special_files"], 1);
    assert!(files["gigabytes_per_second"].as_f64().unwrap() > 0.0);
    let sizes: Vec<_> = report["round_trips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of_size| {
            for way in ["nearwire", "unix_socket"] {
                for figure in ["p50_ns", "p99_ns", "p999_ns", "round_trips"] {
                    assert!(of_size[way][figure].as_f64().unwrap() > 0.0, "{figure}");
                }
            }
            assert!(of_size["times_faster"]["median"].as_f64().unwrap() > 0.0);
            of_size["bytes"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(sizes, [64, 1024, 65536]);
    let in_use = &report["in_use"];
    assert_eq!(in_use["segments"].as_array().unwrap().len(), 2);
    assert!(in_use["waits"]["spins"].as_u64().is_some());
    // Real processes, each of its own.
    let mut processes = report["processes"]["clients"].as_array().unwrap().clone();
    processes.push(report["processes"]["server"].clone());
    processes.push(report["processes"]["unix_server"].clone());
    let mut ids: Vec<_> = processes.iter().map(|id| id.as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    place.expect_nothing_left();
}

#[test]
fn tables_are_for_people_and_an_empty_directory_is_no_failure() {
    let place = Place::new();
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    let arguments = ["demo", "--quick", "--dir", empty.to_str().unwrap()];
    let ended = place.start(&arguments).wait();
    assert!(ended.status.success(), "{ended:?}");
    let text = ended.text();
    for part in [
        "64 KiB",
        "Unix socket",
        "0 files",
        "0 mismatches",
        "In use:",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("NaN"), "{text}");
    assert!(ended.stderr.contains("measuring"), "progress is shown");
    place.expect_nothing_left();
}

#[test]
fn a_directory_that_is_none_is_told_at_once() {
    let place = Place::new();
    let file = place.path("file");
    fs::write(&file, "").unwrap();
    for (path, text) in [
        ("/nonexistent", "No such file"),
        (file.to_str().unwrap(), "Not a directory"),
    ] {
        let ended = place.run(&["demo", "--dir", path]);
        ended.expect_error(&["cannot read", path, text]);
    }
    place.expect_nothing_left();
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let place = Place::new();
    let directory = directory(&place);
    let mut process = place
        .command(&["demo", "--quick", "--dir", &directory])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    assert!(process.wait().unwrap().success());
    place.expect_nothing_left();
}

/// Ends a demo that has come as far as `phase`, and looks what remains.
fn end(phase: Option<&str>, signal: Signal, end: impl Fn(&Running)) {
    let place = Place::new();
    let directory = directory(&place);
    // Some seconds of work, and no space on the disk.
    for number in 0..4 {
        let sparse = File::create(place.path("files").join(format!("sparse{number}")));
        sparse.unwrap().set_len(1 << 30).unwrap();
    }
    let mut demo = place.start(&["demo", "--quick", "--dir", &directory]);
    if let Some(phase) = phase {
        demo.expect(phase);
    }
    end(&demo);
    let ended = demo.wait();
    ended.expect_signal(signal);
    assert!(ended.stdout.is_empty());
    place.expect_nothing_left();
}

const PHASES: [Option<&str>; 2] = [Some("measuring: round trips"), Some("sending: ")];

#[test]
fn ctrl_c_leaves_nothing_behind_in_any_phase() {
    for phase in PHASES {
        // From a terminal, which tells all; and from a shell's kill.
        end(phase, Signal::INT, |demo| demo.signal_group(Signal::INT));
        end(phase, Signal::INT, |demo| demo.signal(Signal::INT));
    }
}

#[test]
fn ctrl_c_leaves_nothing_behind_while_the_processes_start() {
    for millis in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30] {
        end(None, Signal::INT, |demo| {
            std::thread::sleep(Duration::from_millis(millis));
            demo.signal_group(Signal::INT);
        });
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind_in_any_phase() {
    for phase in PHASES {
        end(phase, Signal::KILL, |demo| demo.signal(Signal::KILL));
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind_while_the_processes_start() {
    // Among these a client that looks for a server which has just left, because of the same death.
    for millis in [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30] {
        end(None, Signal::KILL, |demo| {
            std::thread::sleep(Duration::from_millis(millis));
            demo.signal(Signal::KILL);
        });
    }
}
