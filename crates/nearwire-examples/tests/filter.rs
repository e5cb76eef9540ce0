//! The service with tower layers: what its limits do.
#![cfg(unix)]

mod program;

use std::io::{Read, Write};
use std::net::TcpStream;
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
fn its_page_has_the_metrics_of_the_server_and_its_own() {
    let place = Place::new();
    let options = ["--metrics", "127.0.0.1:0", "--timeout-ms", "300"];
    // A request that is empty takes longer than it may.
    let script = "read -r line || sleep 60; echo $line";
    let arguments = [&["format"][..], &options, &["--", "sh", "-c", script]].concat();
    let program = env!("CARGO_BIN_EXE_filter-service");
    let (mut server, address) = place.serve_after(program, &arguments, "metrics at http://");
    let address = address.trim_end_matches("/metrics");
    let mut client = place.connect("format");
    for _ in 0..3 {
        assert_eq!(client.call_bytes("filter", b"x\n").unwrap(), b"x\n");
    }
    let late = client.call_bytes("filter", b"");
    expect_status(late, Code::DEADLINE_EXCEEDED, "");

    // The server's own figures are read twice a second.
    eventually("all calls are counted", || {
        let page = get(address, "/metrics");
        let has = |name: &str, value: u32| {
            page.lines()
                .any(|line| line.starts_with(name) && line.ends_with(&format!(" {value}")))
        };
        has("nearwire_calls_total{outcome=\"ok\"", 3)
            && has("nearwire_calls_total{outcome=\"deadline_exceeded\"", 1)
            && has("filter_program_seconds_count", 3)
    });
    assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
    server.kill();
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
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
