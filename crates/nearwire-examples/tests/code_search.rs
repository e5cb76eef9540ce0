//! The code-search server and its clients, on the library's own source code.
#![cfg(unix)]

mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use nearwire_examples::search::Counts;
use program::{Place, eventually, source_tree};

const CODE_SEARCH: &str = env!("CARGO_BIN_EXE_code-search");

fn serve(place: &Place) -> program::Running {
    let tree = source_tree().to_str().unwrap();
    place.serve(CODE_SEARCH, &["serve", "code", tree])
}

fn status(place: &Place) -> Counts {
    place.connect("code").call("status", &()).unwrap()
}

/// Lines that contain a text, found in another way.
fn lines_with(text: &str, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(lines_with(text, &path));
            continue;
        }
        let name = path.strip_prefix(source_tree()).unwrap().display();
        let content = fs::read_to_string(&path).unwrap();
        let lines = content.lines().enumerate();
        found.extend(
            lines
                .filter(|(_, line)| line.contains(text))
                .map(|(number, line)| format!("{name}:{}: {line}", number + 1)),
        );
    }
    found.sort();
    found
}

#[test]
fn all_matches_are_found() {
    let place = Place::new();
    let _server = serve(&place);
    let expected = lines_with("SYNC: ", source_tree());
    assert!(expected.len() > 5, "{expected:?}");
    let output = place.output(CODE_SEARCH, &["find", "code", "SYNC: "]);
    let mut found: Vec<&str> = output.lines().collect();
    found.sort_unstable();
    assert_eq!(found, expected);

    // The blocking client counts them, and those of a second pattern.
    let client = env!("CARGO_BIN_EXE_blocking-client");
    let socket = place.socket("code");
    let counted = place.output(client, &[&socket, "SYNC: ", "no such text [0-9]"]);
    assert_eq!(counted, format!("{}\n0\n", expected.len()));
    eventually("three have finished", || {
        let counts = status(&place);
        (counts.running, counts.finished, counts.cancelled) == (0, 3, 0)
    });
}

#[test]
fn what_is_no_pattern_is_told() {
    let place = Place::new();
    let _server = serve(&place);
    let output = place.run(CODE_SEARCH, &["find", "code", "("]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("INVALID_ARGUMENT") && error.contains("unclosed"),
        "{error}"
    );
}

/// Each letter gives up the search before it. The server reads no further for a full screen, and
/// not at all for a search that is given up.
#[test]
fn typing_on_cancels_the_search_before() {
    let place = Place::new();
    let _server = serve(&place);
    let mut client = place.talk(CODE_SEARCH, &["type", "code", "--screen", "3"]);
    for pattern in ["e", "er", "err"] {
        client.say(pattern);
        assert_eq!(client.line(), format!("? {pattern}"));
        for _ in 0..3 {
            let line = client.line().to_lowercase();
            assert!(line.contains(pattern), "{line}");
        }
    }
    // All of them match more lines than fit into the stream ahead of its reader, so none can have
    // come to its end: two were given up, and the third waits.
    eventually("two were cancelled", || {
        let counts = status(&place);
        (counts.running, counts.finished, counts.cancelled) == (1, 0, 2)
    });
    client.say("err(");
    client.expect("! ");
    client.say("fn may_have_executed");
    client.expect("error.rs");
    client.expect("that is all");
    client.finish();
    eventually("nothing is left", || {
        let counts = status(&place);
        // What was no pattern was no search, but ended the one before.
        (counts.running, counts.finished, counts.cancelled) == (0, 1, 3)
    });
}

#[test]
fn a_client_that_is_killed_cancels_its_search() {
    let place = Place::new();
    let _server = serve(&place);
    let mut client = place.talk(CODE_SEARCH, &["type", "code", "--screen", "1"]);
    client.say("e");
    client.expect("rs:");
    assert_eq!(status(&place).running, 1);
    client.kill();
    eventually("it was cancelled", || {
        let counts = status(&place);
        (counts.running, counts.finished, counts.cancelled) == (0, 0, 1)
    });
}

#[test]
fn a_reader_who_has_seen_enough_cancels_its_search() {
    let place = Place::new();
    let _server = serve(&place);
    let mut find = place
        .command(CODE_SEARCH, &["find", "code", "."])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As `| head -1` does. All lines are more than fit into a pipe.
    let mut line = String::new();
    let mut output = BufReader::new(find.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    drop(output);
    let ended = find.wait_with_output().unwrap();
    assert!(
        ended.status.success() && ended.stderr.is_empty(),
        "{ended:?}"
    );
    eventually("it was cancelled", || {
        let counts = status(&place);
        (counts.running, counts.finished, counts.cancelled) == (0, 0, 1)
    });
}
