//! `nearwire serve` and `nearwire call`, from outside.
#![cfg(target_os = "linux")]

mod command;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use command::{Place, Running, eventually, write_pattern};
use rustix::process::Signal;
use serde_json::Value;

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_built_in_services_answer() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    let text = |arguments: &[&str]| String::from_utf8(place.output(arguments)).unwrap();
    let listed = text(&["call", "s"]);
    for method in ["echo", "hash", "sleep", "stream", "fail", "panic"] {
        assert!(listed.lines().any(|line| line == method), "{listed}");
    }
    assert_eq!(text(&["call", "s", "echo", "hi"]), "hi");
    assert_eq!(text(&["call", "s", "echo", "hi", "--hex"]), "6869\n");
    assert_eq!(text(&["call", "s", "echo", ""]), "");
    let hash = blake3::hash(b"hi");
    assert_eq!(place.output(&["call", "s", "hash", "hi"]), hash.as_bytes());
    assert_eq!(text(&["call", "s", "sleep", "3"]), "3");
    assert_eq!(text(&["call", "s", "stream", "3"]), "1\n2\n3\n");
    assert_eq!(text(&["call", "s", "stream", "0"]), "");
}

#[test]
fn json_is_all_that_is_printed() {
    let place = Place::new();
    let server = place.serve("s", &[]);
    let offer = place.json(&["call", "s", "--json"]);
    assert_eq!(offer["server"]["pid"], server.id());
    assert_eq!(offer["methods"][0], "echo");
    let echo = place.json(&["call", "s", "echo", "hi", "--json"]);
    assert_eq!((&echo["bytes"], &echo["hex"]), (&2.into(), &"6869".into()));
    assert!(echo["micros"].as_f64().unwrap() > 0.0);
    let lines = place.output(&["call", "s", "stream", "3", "--json"]);
    let items: Vec<Value> = String::from_utf8(lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: Vec<_> = items.iter().map(|item| item["hex"].clone()).collect();
    assert_eq!(numbers, ["1\n", "2\n", "3\n"].map(hex));
}

#[test]
fn requests_come_from_files_and_from_standard_input() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    // Far larger than the ring.
    let file = place.path("file");
    let hash = write_pattern(&file, 5 << 20);
    let path = file.to_str().unwrap();
    let answer = place.output(&["call", "s", "hash", "--file", path]);
    assert_eq!(answer, hash.as_bytes());
    for arguments in [
        &["call", "s", "hash"][..],
        &["call", "s", "hash", "--file", "-"],
    ] {
        let mut command = place.command(arguments);
        command.stdin(Stdio::from(fs::File::open(&file).unwrap()));
        assert_eq!(Running::start(command).wait().stdout, hash.as_bytes());
    }
    let echo = place.output(&["call", "s", "echo", "--file", path]);
    assert!(echo == fs::read(&file).unwrap());
}

#[test]
fn what_the_server_refuses_is_told() {
    let place = Place::new();
    let _server = place.serve("s", &["--max-message", "1000"]);
    let file = place.path("file");
    write_pattern(&file, 1001);
    let path = file.to_str().unwrap();
    let refused = |arguments: &[&str], texts: &[&str]| {
        let arguments = [&["call", "s"], arguments].concat();
        place.run(&arguments).expect_error(texts);
    };
    refused(&["nosuch", "x"], &["no method \"nosuch\"", "it has: echo"]);
    refused(&["fail", "so sorry"], &["FAILED_PRECONDITION", "so sorry"]);
    refused(&["panic", "argh"], &["HANDLER_PANICKED", "argh"]);
    refused(&["sleep", "soon"], &["INVALID_ARGUMENT", "decimal text"]);
    refused(&["stream", "many"], &["INVALID_ARGUMENT", "decimal text"]);
    refused(
        &["echo", "--file", path],
        &["1001 bytes", "1000", "--max-message"],
    );
    refused(
        &["echo", "four", "--max-message", "3"],
        &["REPLY_TOO_LARGE", "4 bytes", "--max-message"],
    );
    // Either side may be the first to notice.
    refused(
        &["sleep", "60000", "--timeout", "20ms"],
        &["--timeout TIME"],
    );
    refused(&["echo", "--file", "/nonexistent"], &["/nonexistent"]);
    refused(&["echo", "--file", "/"], &["cannot read /", "directory"]);
    // It has harmed nobody.
    assert_eq!(place.output(&["call", "s", "echo", "hi"]), b"hi");
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let place = Place::new();
    for (arguments, text) in [
        (&[][..], "Usage"),
        (&["call"], "<NAME>"),
        (&["call", "s", "echo", "x", "--timeout", "5"], "unit"),
        (&["call", "s", "echo", "x", "--timeout", "0s"], "above zero"),
        (
            &["call", "s", "echo", "x", "--hex", "--json"],
            "cannot be used",
        ),
        (&["call", "s", "echo", "x", "--file", "y"], "cannot be used"),
        (&["call", "s", "--timeout", "5s"], "METHOD"),
        (&["serve"], "<NAME>"),
        (&["serve", "s", "--workers", "0"], "--workers"),
        (&["serve", "s", "--pin", "x"], "CPU numbers"),
        (&["serve", "s", "--max-message", "much"], "64KiB"),
        (
            &["bench", "latency", "--transport", "pigeon"],
            "--transport",
        ),
        (&["bench", "throughput", "--window", "0"], "--window"),
        (&["bench", "ring", "--rounds", "0"], "--rounds"),
        (&["bench", "scale", "--size", "7"], "at least 8 bytes"),
        (&["bench", "scale", "--connections", "0"], "--connections"),
        (&["demo", "--clients", "1"], "--clients"),
    ] {
        place.run(arguments).expect_code(2, &[text]);
    }
    place.expect_nothing_left();
}

#[test]
fn without_a_server_one_is_proposed() {
    let place = Place::new();
    let help = ["no server at", "nearwire serve s"];
    place.run(&["call", "s", "echo", "x"]).expect_error(&help);
    place.run(&["call", "s"]).expect_error(&help);
    for bench in ["latency", "throughput"] {
        place.run(&["bench", bench, "s"]).expect_error(&help);
    }
    place
        .run(&["call", "a b", "echo", "x"])
        .expect_error(&["\"a b\" is no server name"]);
    place.expect_nothing_left();
}

#[test]
fn a_killed_server_is_told_from_none_and_can_be_replaced() {
    let place = Place::new();
    let server = place.serve("s", &[]);
    server.signal(Signal::KILL);
    server.wait();
    place.run(&["call", "s", "echo", "x"]).expect_error(&[
        "left over from a server that was killed",
        "nearwire serve s",
    ]);
    let server = place.serve("s", &[]);
    assert_eq!(place.output(&["call", "s", "echo", "hi"]), b"hi");
    server.signal(Signal::INT);
    assert!(server.wait().status.success());
    place.expect_nothing_left();
}

#[test]
fn a_server_that_dies_during_a_call_is_told() {
    let place = Place::new();
    let server = place.serve("s", &["--workers", "1"]);
    let call = start_long_call(&place, "60000");
    server.signal(Signal::KILL);
    call.wait().expect_error(&["the peer is gone"]);
    server.wait();
    // Whoever saw it die has removed its name.
    place.expect_nothing_left();
}

/// A call of a server with one worker, under way: the server has the request.
fn start_long_call(place: &Place, millis: &str) -> Running {
    let call = place.start(&["call", "s", "sleep", millis]);
    eventually("the caller sleeps", || {
        if !cfg!(target_os = "linux") {
            // Nobody tells what it has mapped; it has, long before it is this old.
            std::thread::sleep(std::time::Duration::from_millis(500));
            let state = command::ps(&["-o", "state=", "-p", &call.id().to_string()]);
            return state.trim().starts_with('S');
        }
        // In this order: with both segments mapped, it sleeps for the reply only.
        let maps = fs::read_to_string(format!("/proc/{}/maps", call.id())).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{}/stat", call.id())).unwrap_or_default();
        maps.matches("memfd:nearwire").count() >= 2
            && stat
                .rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('S'))
    });
    // The worker was rung for the request before; whatever it answers now comes later.
    assert_eq!(place.output(&["call", "s", "echo", "x"]), b"x");
    call
}

#[test]
fn clients_that_come_and_go_are_no_news() {
    let place = Place::new();
    let server = place.serve("s", &[]);
    place.output(&["call", "s", "echo", "hi"]);
    // The async client.
    place.output(&["call", "s", "stream", "3"]);
    for client in ["blocking", "async"] {
        let short = ["--seconds-per", "0.002", "--rounds", "1", "--size", "64"];
        let bench = ["bench", "latency", "s", "--client", client];
        place.output(&[&bench[..], &short].concat());
    }
    server.signal(Signal::INT);
    let ended = server.wait();
    // A machine that stands still for a moment, as virtual ones do, is said to hold the worker up.
    let news = ended
        .stderr
        .lines()
        .filter(|line| !line.contains("a worker was held up"));
    assert_eq!(news.count(), 2, "{ended:?}");
}

#[test]
fn a_name_is_had_once() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    place
        .run(&["serve", "s"])
        .expect_error(&["in use by another server"]);
    assert_eq!(place.output(&["call", "s", "echo", "hi"]), b"hi");
    fs::write(place.names().join("file.sock"), "no socket").unwrap();
    place
        .run(&["serve", "file"])
        .expect_error(&["is not a socket"]);
    assert_eq!(
        fs::read(place.names().join("file.sock")).unwrap(),
        b"no socket"
    );
}

#[test]
fn a_directory_that_lets_others_in_is_not_used() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    fs::set_permissions(place.names(), Permissions::from_mode(0o755)).unwrap();
    place
        .run(&["serve", "t"])
        .expect_error(&["0755", "chmod 700"]);
    assert!(!place.names().join("t.sock").exists());
}

#[test]
fn a_path_is_a_name_too() {
    let place = Place::new();
    let socket = place.path("tmp").join("a.sock");
    let path = socket.to_str().unwrap();
    fs::set_permissions(place.path("tmp"), Permissions::from_mode(0o700)).unwrap();
    let server = place.serve(path, &[]);
    assert_eq!(place.output(&["call", path, "echo", "hi"]), b"hi");
    server.signal(Signal::TERM);
    assert!(server.wait().status.success());
    place.expect_nothing_left();
}

#[test]
fn calls_in_flight_are_finished_before_the_server_ends() {
    let place = Place::new();
    let mut server = place.serve("s", &["--workers", "1"]);
    let call = start_long_call(&place, "1000");
    server.signal_group(Signal::INT);
    server.expect("finishing the calls in flight");
    let ended = call.wait();
    assert_eq!(ended.stdout, b"1000", "{ended:?}");
    assert!(server.wait().status.success());
    place.expect_nothing_left();
}

#[test]
fn who_is_impatient_ends_the_server_at_once() {
    let place = Place::new();
    let mut server = place.serve("s", &["--workers", "1"]);
    let call = start_long_call(&place, "60000");
    server.signal(Signal::INT);
    server.expect("once more");
    server.signal(Signal::INT);
    assert_eq!(server.wait().status.code(), Some(1));
    call.wait().expect_error(&[]);
    place.expect_nothing_left();
}

#[test]
fn a_closed_standard_output_is_no_failure() {
    let place = Place::new();
    let _server = place.serve("s", &[]);
    // More than a pipe takes, so that the command meets the end.
    let mut command = place.command(&["call", "s", "stream", "1000000"]);
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
