//! The service with tower layers: what its limits do.
#![cfg(unix)]

mod program;

use std::time::Duration;

use nearwire::{Code, Error};
use program::{Place, Running, eventually, runs};

fn serve(place: &Place, options: &[&str], filter: &[&str]) -> Running {
    let arguments = [&["format"], options, &["--"], filter].concat();
    place.serve(env!("CARGO_BIN_EXE_filter-service"), &arguments)
}

#[track_caller]
fn expect_status(answer: nearwire::Result<Vec<u8>>, code: Code, text: &str) {
    match answer {
        Err(Error::Status(status)) => {
            assert_eq!(status.code, code, "{status}");
            assert!(status.message.contains(text), "{status}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_goes_through_the_program() {
    let place = Place::new();
    let _server = serve(&place, &[], &["tr", "a-z", "A-Z"]);
    let mut client = place.connect("format");
    // More than fits into a pipe.
    let request = b"let it be ".repeat(100_000);
    let reply = client.call_bytes("filter", &request).unwrap();
    assert_eq!(reply, request.to_ascii_uppercase());
}

#[test]
fn a_program_that_fails_says_why() {
    let place = Place::new();
    let _server = serve(&place, &[], &["sh", "-c", "echo no good >&2; exit 3"]);
    let answer = place.connect("format").call_bytes("filter", b"");
    expect_status(answer, Code::INVALID_ARGUMENT, "no good");
}

/// A program that says it runs, by a file, until somebody removes the file or kills it.
fn busy(place: &Place) -> String {
    let mark = place.path("runs");
    format!(
        "echo $$ > {0}; while test -e {0}; do sleep 0.01; done; echo done",
        mark.display()
    )
}

#[test]
fn what_takes_too_long_is_killed() {
    let place = Place::new();
    let script = busy(&place);
    let _server = serve(&place, &["--timeout-ms", "300"], &["sh", "-c", &script]);
    let answer = place.connect("format").call_bytes("filter", b"");
    expect_status(answer, Code::DEADLINE_EXCEEDED, "");
    expect_killed(&place);
}

fn expect_killed(place: &Place) {
    let mut process = String::new();
    eventually("it has begun", || {
        process = std::fs::read_to_string(place.path("runs")).unwrap_or_default();
        process.ends_with('\n')
    });
    let process = process.trim().parse().unwrap();
    eventually("it was killed", || !runs(process));
}

#[test]
fn what_comes_on_top_is_turned_away() {
    let place = Place::new();
    let script = busy(&place);
    let options = ["--at-once", "1", "--timeout-ms", "60000"];
    let _server = serve(&place, &options, &["sh", "-c", &script]);
    let mut first = place.connect("format");
    let first = std::thread::spawn(move || first.call_bytes("filter", b""));
    eventually("the first runs", || place.path("runs").exists());
    let second = place.connect("format").call_bytes("filter", b"");
    expect_status(second, Code::RESOURCE_EXHAUSTED, "");
    std::fs::remove_file(place.path("runs")).unwrap();
    assert_eq!(first.join().unwrap().unwrap(), b"done\n");
}

#[test]
fn a_caller_who_gives_up_stops_the_program() {
    let place = Place::new();
    let script = busy(&place);
    let _server = serve(&place, &["--timeout-ms", "60000"], &["sh", "-c", &script]);
    let mut client = place.connect("format");
    let answer = client.call_bytes_timeout("filter", b"", Duration::from_millis(300));
    assert!(answer.is_err(), "{answer:?}");
    expect_killed(&place);
}
