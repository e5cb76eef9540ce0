//! A trace through two processes.
#![cfg(unix)]

mod program;

use program::Place;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// The value behind `name=` in a line.
#[track_caller]
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let found = line.split(' ').find_map(|word| {
        let (key, value) = word.split_once('=')?;
        (key == name).then_some(value)
    });
    found.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

#[test]
fn the_servers_span_belongs_to_the_clients_trace() {
    let place = Place::new();
    let mut command = place.command(env!("CARGO_BIN_EXE_traced"), &["serve", "greeter"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut errors = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.contains("serving"), "{line:?}");
    let mut spans = BufReader::new(server.stdout.take().unwrap()).lines();

    let mut traces = Vec::new();
    for who in ["Ada", "Grace"] {
        let said = place.output(env!("CARGO_BIN_EXE_traced"), &["call", "greeter", who]);
        assert!(said.contains(&format!("Hello, {who}")), "{said}");
        let visit = said.lines().find(|line| line.starts_with("visit Client"));
        let visit = visit.unwrap_or_else(|| panic!("no span in {said:?}"));
        // Written when the handler has ended.
        let greet = spans.next().unwrap().unwrap();
        assert!(greet.starts_with("greet Server"), "{greet}");
        assert_eq!(field(&greet, "trace"), field(visit, "trace"));
        assert_eq!(field(&greet, "parent"), field(visit, "span"));
        traces.push(field(&greet, "trace").to_owned());
    }
    assert_ne!(traces[0], traces[1], "each visit is a trace of its own");
    server.kill().unwrap();
    server.wait().unwrap();
}
