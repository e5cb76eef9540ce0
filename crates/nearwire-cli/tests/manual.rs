//! The manual pages, the completions and `--plot`, from outside.
#![cfg(target_os = "linux")]

mod command;

use std::fs;
use std::path::Path;
use std::process::Command;

use command::{Place, Running};

#[test]
fn every_command_has_a_page() {
    let place = Place::new();
    let pages = place.path("man");
    fs::create_dir(&pages).unwrap();
    place.output(&["man", "--all", pages.to_str().unwrap()]);
    for name in [
        "nearwire",
        "nearwire-call",
        "nearwire-doctor",
        "nearwire-bench-latency",
    ] {
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"] {
            let heading = format!(".SH {section}");
            let quoted = format!(".SH \"{section}\"");
            assert!(
                page.contains(&heading) || page.contains(&quoted),
                "{name}: {section}"
            );
        }
        assert!(!page.contains("__child"), "{name}");
    }
    let page = place.output(&["man", "bench", "latency"]);
    assert_eq!(
        page,
        fs::read(pages.join("nearwire-bench-latency.1")).unwrap()
    );
    let text = String::from_utf8(page).unwrap();
    assert!(
        text.contains("\nnearwire bench latency \\-\\-quick\n"),
        "{text}"
    );
    place
        .run(&["man", "nosuch"])
        .expect_error(&["no command \"nosuch\"", "doctor"]);
    place
        .run(&["man", "--all", "/nonexistent"])
        .expect_error(&["/nonexistent"]);
}

/// A shell of the machine completes with the script it was given.
#[test]
fn bash_completes() {
    let place = Place::new();
    let script = place.path("completions");
    fs::write(&script, place.output(&["completions", "bash"])).unwrap();
    let complete = |words: &[&str]| {
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _nearwire nearwire {:?} {:?}; \
             echo \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &line]);
        let ended = Running::start(bash).wait();
        assert!(ended.status.success(), "{ended:?}");
        ended.text().trim().to_owned()
    };
    assert_eq!(complete(&["nearwire", "doc"]), "doctor");
    assert_eq!(complete(&["nearwire", "bench", "lat"]), "latency");
    assert_eq!(
        complete(&["nearwire", "bench", "latency", "--plo"]),
        "--plot"
    );
    assert_eq!(complete(&["nearwire", "__"]), "");
    for shell in ["zsh", "fish", "powershell", "elvish"] {
        let script = String::from_utf8(place.output(&["completions", shell])).unwrap();
        assert!(script.contains("doctor"), "{shell}");
        assert!(!script.contains("__child"), "{shell}");
    }
    place
        .run(&["completions", "nosuch"])
        .expect_code(2, &["bash"]);
}

#[test]
fn a_benchmark_draws_what_it_measured() {
    let place = Place::new();
    let file = place.path("out.svg");
    let plot = ["--plot", file.to_str().unwrap()];
    let short = ["--seconds-per", "0.002", "--rounds", "1", "--size", "64"];
    let drawn = |benchmark: &str, more: &[&str]| {
        place.output(&[&["bench", benchmark], &short[..], &plot[..], more].concat());
        let svg = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(
            svg.contains("prefers-color-scheme: dark") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        svg
    };
    let svg = drawn("latency", &["--client", "blocking"]);
    for text in [
        "64 B",
        "Nearwire blocking",
        "Unix socket",
        "ping-pong",
        "time of one",
        "µs",
    ] {
        assert!(svg.contains(text), "no {text}: {svg}");
    }
    let svg = drawn("throughput", &["--client", "blocking"]);
    for text in ["Nearwire pipeline", "operations per second", "/s"] {
        assert!(svg.contains(text), "no {text}: {svg}");
    }
    let svg = drawn(
        "scale",
        &["--connections", "2,3", "--window", "1", "--shape", "sweep"],
    );
    for text in [
        "2 connections, Nearwire",
        "3 connections, Unix socket",
        "1 in flight",
    ] {
        assert!(svg.contains(text), "no {text}: {svg}");
    }
    place.expect_nothing_left();
}

#[test]
fn what_cannot_be_drawn_is_told_before_it_is_measured() {
    let place = Place::new();
    for (file, text) in [
        ("out.png", ".svg"),
        ("/nonexistent/out.svg", "/nonexistent"),
    ] {
        place
            .run(&["bench", "latency", "--plot", file])
            .expect_code(2, &[text]);
    }
}

/// What the documents tell people to type. With `--help` at its end a command does nothing, but
/// complains about whatever it does not understand.
#[test]
fn the_commands_of_the_documents_are_understood() {
    let place = Place::new();
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let documents = fs::read_dir(root.join("docs")).unwrap();
    let mut documents: Vec<_> = documents.map(|entry| entry.unwrap().path()).collect();
    documents.push(root.join("README.md"));
    documents.push(root.join("crates/nearwire-cli/README.md"));
    let mut understood = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("$ nearwire "))
        {
            let command = line.split(['|', '<', '>', '#', '&', '`']).next().unwrap();
            let mut words: Vec<&str> = command.split_whitespace().collect();
            words.push("--help");
            let ended = place.run(&words);
            let name = document.display();
            assert!(
                ended.status.success(),
                "{name}: nearwire {command}: {ended:?}"
            );
            understood += 1;
        }
    }
    assert!(understood > 10, "{understood}");
}
