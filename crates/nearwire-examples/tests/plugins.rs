//! The plugin host: plugins that are killed, and calls under way meanwhile.
#![cfg(unix)]

mod program;

use std::fs;
use std::process::Command;
use std::time::Duration;

use nearwire::{BlockingClient, Code, Error, Result};
use nearwire_examples::plugins::{Plugin, Request};
use program::{Place, Running, eventually, runs};

const HOST: &str = env!("CARGO_BIN_EXE_plugin-host");
const TEXT: &str = env!("CARGO_BIN_EXE_plugin-text");

/// A host with two plugins of the same kind, whose calls take a while.
fn serve(place: &Place, milliseconds: u32) -> Running {
    let plugin = |name: &str| {
        let log = place.path(name);
        format!("{name}={TEXT} {} {milliseconds}", log.display())
    };
    let (one, two) = (plugin("one"), plugin("two"));
    place.serve(HOST, &["serve", "host", "--plugin", &one, "--plugin", &two])
}

fn call(
    client: &mut BlockingClient,
    plugin: &str,
    method: &str,
    idempotent: bool,
) -> Result<Vec<u8>> {
    let request = Request {
        plugin: plugin.into(),
        method: method.into(),
        payload: b"hello".into(),
        idempotent,
    };
    client.call("call", &request)
}

fn plugin(place: &Place, name: &str) -> Plugin {
    let plugins: Vec<Plugin> = place.connect("host").call("list", &()).unwrap();
    plugins
        .into_iter()
        .find(|plugin| plugin.name == name)
        .unwrap()
}

/// The process of a plugin that takes calls.
fn serving(place: &Place, name: &str) -> u32 {
    call(&mut place.connect("host"), name, "upper", true).unwrap();
    plugin(place, name).process.unwrap()
}

fn kill(process: u32) {
    let status = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Calls from another thread, and kills the plugin while the call is under way.
fn call_and_kill(place: &Place, method: &'static str, idempotent: bool) -> Result<Vec<u8>> {
    let process = serving(place, "one");
    let mut client = place.connect("host");
    let caller = std::thread::spawn(move || call(&mut client, "one", method, idempotent));
    if method == "log" {
        eventually("it has begun", || place.path("one").exists());
    } else {
        std::thread::sleep(Duration::from_millis(100));
    }
    kill(process);
    let reply = caller.join().unwrap();
    eventually("it runs again", || {
        let plugin = plugin(place, "one");
        plugin.restarts == 1 && plugin.process.is_some_and(|id| id != process)
    });
    reply
}

#[test]
fn plugins_are_called() {
    let place = Place::new();
    let _host = serve(&place, 0);
    let hello = place.output(HOST, &["call", "host", "one", "upper", "hello"]);
    assert_eq!(hello, "HELLO\n");
    place.output(HOST, &["call", "host", "two", "log", "line"]);
    assert_eq!(fs::read_to_string(place.path("two")).unwrap(), "line\n");
    assert!(!place.path("one").exists());
    let listed = place.output(HOST, &["list", "host"]);
    let names: Vec<&str> = listed
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["one", "two"]);
    let mut client = place.connect("host");
    let refused = call(&mut client, "three", "upper", true).unwrap_err();
    assert!(
        matches!(&refused, Error::Status(s) if s.code == Code::NOT_FOUND),
        "{refused}"
    );
}

#[test]
fn a_call_that_may_be_made_twice_survives_kill_9() {
    let place = Place::new();
    let _host = serve(&place, 400);
    let reply = call_and_kill(&place, "upper", true);
    assert_eq!(reply.unwrap(), b"HELLO");
    // The other plugin has noticed nothing.
    assert_eq!(plugin(&place, "two").restarts, 0);
}

#[test]
fn a_call_that_may_not_is_not_made_again() {
    let place = Place::new();
    let _host = serve(&place, 2000);
    let error = call_and_kill(&place, "log", false).unwrap_err();
    let Error::Status(status) = &error else {
        panic!("{error}")
    };
    assert_eq!(status.code, Code::ABORTED, "{status}");
    assert!(status.message.contains("may have done it"), "{status}");
    // Its successor serves, and was not asked to do it again.
    serving(&place, "one");
    assert_eq!(fs::read_to_string(place.path("one")).unwrap(), "hello\n");
}

#[test]
fn plugins_end_with_their_host() {
    let place = Place::new();
    let mut host = serve(&place, 0);
    let processes = ["one", "two"].map(|name| serving(&place, name));
    // Nothing can be tidied up after this.
    host.kill();
    eventually("they are gone", || !processes.into_iter().any(runs));
}
