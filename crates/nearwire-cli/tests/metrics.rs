//! What a server counts, seen from the command line: `stat`, `inspect`, `top`, and by Prometheus.
#![cfg(unix)]

mod command;
mod terminal;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;

use command::{Place, Running, eventually};
use nearwire::metrics::{Counter, Kind, Metric, exported};
use nearwire::{BlockingClient, ClientBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use terminal::Terminal;

fn connect(place: &Place, name: &str, label: &str) -> BlockingClient {
    let path = place.names().join(format!("{name}.sock"));
    let builder = ClientBuilder::new().label(label).ring(8192);
    builder.connect_blocking(path.to_str().unwrap()).unwrap()
}

/// A server, a client that has called, and the client's process id.
fn busy_server(place: &Place, arguments: &[&str]) -> (Running, BlockingClient) {
    let server = place.serve("busy", arguments);
    let mut client = connect(place, "busy", "a test");
    for _ in 0..50 {
        client.call_bytes("echo", b"hello").unwrap();
    }
    client.call_bytes("fail", b"no").unwrap_err();
    (server, client)
}

#[test]
fn stat_prints_what_was_counted() {
    let place = Place::new();
    let (server, mut client) = busy_server(&place, &["--sampling", "1"]);
    let sample = place.json(&["stat", "busy", "--json"]);
    assert_eq!(sample["server"]["pid"], server.id());
    assert_eq!(sample["server"]["label"], "busy");
    assert_eq!(sample["server"]["sampling"], 1);
    assert_eq!(sample["counters"]["calls_ok"]["total"], 50);
    assert_eq!(sample["counters"]["calls_failed"]["total"], 1);
    assert_eq!(sample["gauges"]["connections"], 1);
    assert_eq!(
        sample["distributions"]["handler_duration_ns"]["samples"],
        51
    );
    assert_eq!(sample["recent"]["handler_duration_ns"]["samples"], 0);
    // All that there is.
    for counter in Counter::ALL {
        let value = &sample["counters"][counter.metric().key()];
        assert!(value["total"].is_u64(), "{counter:?}: {value}");
    }
    let text = String::from_utf8(place.output(&["stat", "busy"])).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("calls_ok "))
        .unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("50"), "{text}");

    let mut watching = place.command(&["stat", "busy", "--watch", "--json", "--interval", "20ms"]);
    let watching = watching
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut watching = watching.spawn().unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    next();
    client.call_bytes("echo", b"once more").unwrap();
    eventually("the call is seen", || {
        next()["counters"]["calls_ok"]["total"] == 51
    });
    server.signal(Signal::TERM);
    server.wait();
    let ended = watching.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("the server is gone"), "{said}");

    place.run(&["stat", "busy"]).expect_error(&["no server"]);
    place.run(&["stat"]).expect_code(2, &["Usage"]);
}

#[test]
fn inspect_shows_each_connection() {
    let place = Place::new();
    let (_server, client) = busy_server(&place, &[]);
    let _idle = connect(&place, "busy", "an idle one");
    let id = client.info().id;
    let of = |id: u64| {
        let id = id.to_string();
        let report = place.json(&["inspect", "busy", "--json", "--connection", &id]);
        report["connections"][0].clone()
    };
    eventually("what it did is written down", || {
        of(id)["messages_received"] == 51
    });
    eventually("it is parked", || of(id)["state"] == "parked");
    let connection = of(id);
    assert_eq!(connection["label"], "a test");
    assert_eq!(connection["pid"], std::process::id());
    assert_eq!(connection["requests"]["capacity"], 8192);
    assert_eq!(connection["requests"]["occupied"], 0);
    assert_eq!(connection["requests"]["consumer_parked"], true);
    assert!(connection["replies"]["produced"].as_u64().unwrap() > 50 * 16);
    let features = connection["features"].as_array().unwrap();
    assert_eq!(
        features.is_empty(),
        !client.info().asymmetric_fences && features.is_empty()
    );
    let text = String::from_utf8(place.output(&["inspect", "busy"])).unwrap();
    assert_eq!(text.matches("\nconnection ").count(), 2, "{text}");
    assert!(
        text.contains("\"an idle one\"") && text.contains("8 KiB"),
        "{text}"
    );
    let ended = place.run(&["inspect", "busy", "--connection", "9999"]);
    ended.expect_error(&["no connection 9999"]);
}

/// What is served at an address and path: the status line, the head, the body.
fn get(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A server whose metrics are served, and where.
fn scraped_server(place: &Place) -> (Running, SocketAddr) {
    let mut command = place.command(&["serve", "scraped", "--metrics", "127.0.0.1:0"]);
    command.stderr(std::process::Stdio::piped());
    let mut server = Running::start(command);
    let line = server.expect_line("metrics at http://");
    server.expect("serving");
    let address = line.split_once("http://").unwrap().1;
    (
        server,
        address.strip_suffix("/metrics").unwrap().parse().unwrap(),
    )
}

#[test]
fn a_scrape_gives_what_the_table_names() {
    let place = Place::new();
    let (server, address) = scraped_server(&place);
    let mut client = connect(&place, "scraped", "");
    for _ in 0..7 {
        client.call_bytes("echo", b"x").unwrap();
    }
    let calls = "nearwire_calls_total{outcome=\"ok\",server=\"scraped\",worker=\"0\"} 7";
    eventually("seven calls are exported", || {
        get(address, "GET /metrics").1.contains(calls)
    });
    let (head, body) = get(address, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let typed: BTreeSet<_> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let expected: BTreeSet<_> = exported().map(|metric| metric.exported_name()).collect();
    assert_eq!(typed, expected);
    assert!(get(address, "GET /").0.starts_with("HTTP/1.1 404 "));
    assert!(get(address, "POST /metrics").0.starts_with("HTTP/1.1 405 "));
    // An address in use is found before the name is taken.
    let place_of_other = Place::new();
    let ended = place_of_other.run(&["serve", "other", "--metrics", &address.to_string()]);
    ended.expect_error(&["cannot serve metrics at"]);
    server.signal(Signal::TERM);
    assert!(server.wait().status.success());
    place.expect_nothing_left();
}

/// The names that a query asks for.
fn names(query: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    query
        .split(word)
        .filter(|w| w.starts_with("nearwire_"))
        .collect()
}

fn queries(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Object(fields) => {
            for (name, child) in fields {
                match child {
                    Value::String(text) if name == "expr" || name == "query" => {
                        found.push(text.clone())
                    }
                    child => queries(child, found),
                }
            }
        }
        Value::Array(children) => children.iter().for_each(|child| queries(child, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_what_is_exported() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../dashboards/nearwire.json"
    );
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    let exported: BTreeSet<String> = exported()
        .flat_map(|metric: Metric| {
            let name = metric.exported_name();
            match metric.kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"]
                    .map(|end| format!("{name}{end}"))
                    .to_vec(),
                _ => vec![name],
            }
        })
        .collect();
    let mut asked = BTreeSet::new();
    for query in &found {
        for name in names(query) {
            assert!(exported.contains(name), "{name} is not exported: {query}");
            asked.insert(name);
        }
    }
    assert!(asked.len() > 15, "{asked:?}");
}

#[test]
fn top_shows_a_server_and_leaves_the_terminal_clean() {
    let place = Place::new();
    let (server, mut client) = busy_server(&place, &["--sampling", "1"]);
    let path = place.names().join("busy.sock");
    let _stuck = std::thread::spawn(move || {
        // Takes no replies, and they are more than there is room for. The requests all fit, however
        // late the server takes them: for want of room, `submit` would take replies.
        let builder = ClientBuilder::new().label("takes nothing").ring(4096);
        let mut client = builder.connect_blocking(path.to_str().unwrap()).unwrap();
        let hash = client.method("hash").unwrap();
        let mut pipeline = client.pipeline();
        for _ in 0..100 {
            pipeline.submit(hash, b"x").unwrap();
        }
        pipeline.flush();
        std::thread::sleep(command::PATIENCE * 2);
    });
    let top = |extra: &[&str]| {
        let arguments = [&["top", "busy", "--interval", "50ms"], extra].concat();
        let mut command = place.command(&arguments);
        command.env("LANG", "C.UTF-8");
        Terminal::start(command)
    };
    let mut terminal = top(&[]);
    terminal.expect(&format!("process {}", server.id()));
    terminal.expect("a test");
    terminal.expect("parked");
    terminal.expect("stuck");
    terminal.expect("takes nothing");
    terminal.expect("calls/s");
    for _ in 0..100 {
        client.call_bytes("echo", b"x").unwrap();
    }
    // The time of a handler, whatever it is.
    terminal.expect_so("a p99", |contents| {
        let line = contents
            .lines()
            .find(|line| line.starts_with("handler p99"));
        line.is_some_and(|line| line.contains(" ns") || line.contains("µs") || line.contains("ms"))
    });
    terminal.press("s");
    terminal.expect("by number");
    // Ctrl-C, as a raw terminal gives it.
    terminal.press("\u{3}");
    assert!(terminal.wait_and_expect_clean().success());

    let terminal = top(&["--ascii"]);
    terminal.expect("stuck");
    assert!(terminal.contents().is_ascii(), "{}", terminal.contents());
    let pid = Pid::from_raw(terminal.id() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = terminal.wait_and_expect_clean();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}");

    // The server ends, and another one comes.
    let mut terminal = top(&[]);
    terminal.expect("parked");
    let first = server.id();
    server.signal(Signal::KILL);
    server.wait();
    terminal.expect("gone: no server");
    let second = place.serve("busy", &[]);
    assert_ne!(second.id(), first);
    terminal.expect(&format!("process {}", second.id()));
    terminal.press("q");
    assert!(terminal.wait_and_expect_clean().success());
    let ended = place.run(&["top", "busy"]);
    ended.expect_error(&["needs a terminal"]);
}

#[test]
fn calls_can_be_traced() {
    let place = Place::new();
    let mut server = place.serve("busy", &["-vv"]);
    let mut client = connect(&place, "busy", "a test");
    client.call_bytes("echo", b"x").unwrap();
    client.call_bytes("fail", b"for a reason").unwrap_err();
    let line = server.expect_line("a call failed");
    assert!(
        line.contains("nearwire::call") && line.contains("for a reason"),
        "{line}"
    );
    drop(client);
    server.expect("connection closed");
}
