//! `nearwire bench`, from outside: that it comes to an end, and what it prints. Never how fast.
#![cfg(target_os = "linux")]

mod command;

use command::Place;
use rustix::process::Signal;
use serde_json::Value;

/// Short runs, few of them.
const SHORT: [&str; 5] = ["--seconds-per", "0.002", "--rounds", "1", "--json"];

/// Names of all that was measured.
fn names(report: &Value) -> Vec<&str> {
    let sections = report["sections"].as_array().unwrap().iter();
    sections
        .flat_map(|section| section["series"].as_array().unwrap())
        .map(|series| {
            assert!(series["median"].as_f64().unwrap() > 0.0, "{series}");
            series["name"].as_str().unwrap()
        })
        .collect()
}

/// Runs a benchmark, and returns its report.
#[track_caller]
fn report(place: &Place, benchmark: &str, arguments: &[&str]) -> Value {
    let report = place.json(&[&["bench", benchmark], &SHORT[..], arguments].concat());
    place.expect_nothing_left();
    report
}

/// Requests of sixteen times the ring wait for space many times each, and so does the answer. A
/// wake-up that is lost once in some ten thousand times shows within the time.
#[test]
fn large_calls_through_a_small_ring_come_to_an_end() {
    let place = Place::new();
    for client in ["async", "blocking"] {
        let arguments = ["--size", "64KiB", "--ring", "4KiB", "--client", client];
        let arguments = [&arguments[..], &["--seconds-per", "0.4"]].concat();
        let short = ["bench", "latency", "--rounds", "1", "--json"];
        let more = ["--transport", "nearwire"];
        let report = place.json(&[&short[..], &arguments, &more].concat());
        let name = format!("64 KiB: Nearwire {client}");
        assert!(names(&report).contains(&&*name), "{report}");
    }
    place.expect_nothing_left();
}

#[test]
fn latency_of_every_client_transport_and_size() {
    let place = Place::new();
    let all = report(&place, "latency", &[]);
    let names = names(&all);
    for size in ["64 B", "1 KiB", "64 KiB"] {
        for way in ["Nearwire blocking", "Nearwire async", "Unix socket"] {
            assert!(names.contains(&&*format!("{size}: {way}")), "{names:?}");
        }
    }
    for place in ["one core", "two cores"] {
        let name = format!("{place}: Nearwire blocking");
        assert!(names.contains(&&*name), "{names:?}");
    }
    assert!(!all["ratios"].as_array().unwrap().is_empty());
}

#[test]
fn options_choose_what_is_measured() {
    let place = Place::new();
    let arguments = ["--size", "0,3", "--client", "async", "--spin", "0"];
    let latency = report(&place, "latency", &arguments);
    let latency = names(&latency);
    assert!(latency.contains(&"0 B: Nearwire async"), "{latency:?}");
    assert!(latency.contains(&"3 B: Unix socket"), "{latency:?}");
    assert!(!latency.contains(&"3 B: Nearwire blocking"), "{latency:?}");
    let arguments = ["--transport", "unix", "--size", "100", "--window", "3"];
    let throughput = report(&place, "throughput", &arguments);
    let names = names(&throughput);
    assert_eq!(names, ["100 B: Tokio Unix socket, coalesced"]);
}

#[test]
fn throughput_of_every_client() {
    let place = Place::new();
    let report = report(&place, "throughput", &["--size", "64,64KiB", "--pin"]);
    let names = names(&report);
    for size in ["64 B", "64 KiB"] {
        for way in [
            "Nearwire pipeline",
            "Nearwire async tasks",
            "Tokio Unix socket, coalesced",
        ] {
            assert!(names.contains(&&*format!("{size}: {way}")), "{names:?}");
        }
    }
}

#[test]
fn the_ring_beside_the_barest() {
    let place = Place::new();
    let report = report(&place, "ring", &[]);
    let names = names(&report);
    assert!(names.contains(&"64 B singly: Nearwire"), "{names:?}");
    assert!(names.contains(&"64 KiB: Nearwire"), "{names:?}");
}

#[test]
fn a_server_that_runs_is_measured() {
    let place = Place::new();
    let server = place.serve("s", &[]);
    for benchmark in ["latency", "throughput"] {
        let arguments = ["bench", benchmark, "s", "--transport", "nearwire"];
        let report = place.json(&[&arguments[..], &SHORT].concat());
        let settings = report["settings"].to_string();
        assert!(settings.contains(&server.id().to_string()), "{settings}");
    }
    // Above what that server accepts: told, and the server is unharmed.
    place
        .run(&["bench", "latency", "s", "--size", "65MiB", "--quick"])
        .expect_error(&["above the limit"]);
    assert_eq!(place.output(&["call", "s", "echo", "hi"]), b"hi");
}

/// Both carry calls, of one server, and what is said follows from the figures.
#[test]
fn a_transport_beside_another() {
    let place = Place::new();
    let compare = |pair: &str| {
        let arguments = ["bench", "--compare", pair, "--size", "64,3KiB"];
        let report = place.json(&[&arguments[..], &SHORT].concat());
        place.expect_nothing_left();
        report
    };
    // What the command was built with says whether it has the other one.
    let (pair, from, to) = if cfg!(feature = "mpmc_transport") {
        ("mpmc,spsc", "mpmc", "spsc")
    } else {
        place
            .run(&["bench", "--compare", "mpmc,spsc", "--quick"])
            .expect_error(&["mpmc_transport"]);
        ("socket,spsc", "socket", "spsc")
    };
    let report = compare(pair);
    let names = names(&report);
    for size in ["64 B", "3 KiB"] {
        for kind in [
            "blocking call",
            "async call",
            "64 in flight",
            "8 connections",
        ] {
            for carrier in [from, to] {
                let name = format!("{size}: {kind}, {carrier}");
                assert!(names.contains(&&*name), "{name}: {names:?}");
            }
        }
    }
    let verdicts = report["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), 8, "{verdicts:?}");
    assert_eq!(report["ratios"].as_array().unwrap().len(), 8);
    let all_met = verdicts.iter().all(|verdict| verdict["met"] == true);
    assert_eq!(report["verdict"]["met"], all_met, "{verdicts:?}");
    let goal = report["verdict"]["goal"].as_str().unwrap();
    assert_eq!(goal, format!("go from {from} to {to}"));
    // As text, too.
    let arguments = ["bench", "--compare", pair, "--size", "64"];
    let text = place.output(&[&arguments[..], &SHORT[..4]].concat());
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\nverdict: go from "), "{text}");
    for wrong in [&["bench"][..], &["bench", "--compare", "spsc"]] {
        let ended = place.run(wrong);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    }
    // A server that does not take both is said to be one.
    let _server = place.serve("s", &["--transport", "socket"]);
    let ended = place.run(&["bench", "--compare", pair, "--server", "s", "--quick"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
}

/// What `bench scale` says of each side of its points.
fn figures(point: &Value) -> [&Value; 2] {
    figures_of(point, ["nearwire", "unix_socket"])
}

/// The same of these sides.
fn figures_of<'a, const N: usize>(point: &'a Value, sides: [&str; N]) -> [&'a Value; N] {
    sides.map(|side| {
        let figures = &point[side];
        for figure in ["p50_ns", "p99_ns", "p999_ns", "server_cpu_per_million"] {
            assert!(figures[figure].as_f64().unwrap() > 0.0, "{figure}: {point}");
        }
        assert!(figures["calls_per_second"]["median"].as_f64().unwrap() > 0.0);
        let fair = figures["slowest_over_fastest"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&fair), "{point}");
        assert!(figures["bytes_per_connection"].as_u64().is_some());
        figures
    })
}

#[test]
fn a_server_at_scale_in_every_shape() {
    let place = Place::new();
    let numbers = ["--connections", "1,7", "--window", "1,5", "--size", "8,100"];
    let arguments = [&numbers[..], &["--processes", "3"]].concat();
    let report = report(&place, "scale", &arguments);
    let points = report["points"].as_array().unwrap();
    let kinds: Vec<String> = points
        .iter()
        .map(|point| {
            figures(point);
            assert!(point["times_the_calls"]["median"].as_f64().unwrap() > 0.0);
            let numbers = ["connections", "bytes", "window"].map(|name| point[name].to_string());
            format!("{} {}", point["shape"].as_str().unwrap(), numbers.join(" "))
        })
        .collect();
    let mut expected = Vec::new();
    for connections in [1, 7] {
        for (shape, windows) in [
            ("sweep", &[1, 5][..]),
            ("tasks", &[1, 5]),
            ("threads", &[1]),
        ] {
            for size in [8, 100] {
                for window in windows {
                    expected.push(format!("{shape} {connections} {size} {window}"));
                }
            }
        }
    }
    assert_eq!(kinds, expected);
}

#[cfg(target_os = "linux")]
#[test]
fn the_floor_is_measured_beside_both() {
    let place = Place::new();
    let transports = ["--transport", "nearwire,unix,floor"];
    let load = ["--connections", "1,7", "--size", "8,100"];
    let arguments = [&transports[..], &load, &["--shape", "threads,processes"]].concat();
    let report = report(&place, "scale", &arguments);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 8);
    for point in points {
        figures_of(point, ["nearwire", "unix_socket", "floor"]);
        for ratio in ["times_the_calls", "times_the_floor"] {
            assert!(point[ratio]["median"].as_f64().unwrap() > 0.0, "{point}");
        }
    }
    let arguments = ["bench", "scale", "--transport", "floor"];
    place
        .run(&arguments)
        .expect_error(&["the floor", "--shape threads,processes"]);
    place.expect_nothing_left();
}

#[test]
fn a_schedule_is_kept_and_its_times_count_from_when_calls_were_due() {
    let place = Place::new();
    let arguments = [
        "bench",
        "scale",
        "--json",
        "--rounds",
        "1",
        "--connections",
        "8",
        "--size",
        "64",
        "--rate",
        "2000",
        "--shape",
        "sweep,threads",
        "--window",
        "1",
        "--seconds-per",
        "0.3",
    ];
    let report = place.json(&arguments);
    for point in report["points"].as_array().unwrap() {
        for figures in figures(point) {
            // As fast as possible would be far more; less means that the machine was busy.
            let rate = figures["calls_per_second"]["median"].as_f64().unwrap();
            assert!(rate < 4000.0, "{point}");
        }
    }
    let arguments = ["bench", "scale", "--rate", "1000", "--shape", "tasks"];
    place
        .run(&arguments)
        .expect_error(&["no schedule", "sweep,threads"]);
    let arguments = ["bench", "scale", "--shape", "threads", "--window", "2"];
    place.run(&arguments).expect_error(&["--window 1"]);
    place.expect_nothing_left();
}

/// Goals and whether they were met, whatever the machine says to them.
fn goals(report: &Value) -> Vec<&str> {
    let verdicts = report["verdicts"].as_array().unwrap().iter();
    verdicts
        .map(|verdict| {
            assert!(verdict["met"].is_boolean(), "{verdict}");
            assert!(!verdict["found"].as_str().unwrap().is_empty(), "{verdict}");
            verdict["goal"].as_str().unwrap()
        })
        .collect()
}

#[test]
fn a_part_of_the_peak_is_found_in_the_same_run() {
    let place = Place::new();
    let arguments = ["--connections", "4", "--size", "64", "--rate", "50%"];
    let start = [
        "bench",
        "scale",
        "--json",
        "--rounds",
        "1",
        "--seconds-per",
        "0.1",
    ];
    let report = place.json(&[&start[..], &arguments].concat());
    for point in report["points"].as_array().unwrap() {
        assert_eq!(point["part_of_peak"], 0.5, "{point}");
        for figures in figures(point) {
            assert!(figures["peak_calls_per_second"]["median"].as_f64().unwrap() > 0.0);
            assert!(
                figures["answered_of_due"].as_f64().unwrap() > 0.0,
                "{point}"
            );
        }
    }
    let goals = goals(&report);
    assert_eq!(goals.len(), 3, "{goals:?}");
    assert!(
        goals[0].contains("p99 below 1 ms at 50 % of the peak"),
        "{goals:?}"
    );
    for bad in ["0%", "101%", "much"] {
        let arguments = ["bench", "scale", "--rate", bad];
        place.run(&arguments).expect_code(2, &["of the peak"]);
    }
}

#[test]
fn a_process_for_each_connection_and_a_verdict_about_cliffs() {
    let place = Place::new();
    let arguments = [
        "--connections",
        "1,5",
        "--size",
        "64",
        "--shape",
        "processes",
    ];
    let report = report(&place, "scale", &arguments);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        figures(point);
        assert_eq!(
            (&point["shape"], &point["window"]),
            (&"processes".into(), &1.into())
        );
    }
    let goals = goals(&report);
    assert_eq!(goals.len(), 1, "{goals:?}");
    assert!(
        goals[0].contains("no cliff from 1 to 5 connections"),
        "{goals:?}"
    );
}

#[test]
fn idle_clients_come_and_go_and_are_counted() {
    let place = Place::new();
    let arguments = [
        "--idle",
        "50",
        "--rest",
        "0.1",
        "--connections",
        "3",
        "--rounds",
        "2",
    ];
    let start = ["bench", "scale", "--json", "--seconds-per", "0.01"];
    let report = place.json(&[&start[..], &arguments].concat());
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        for side in ["without", "with"] {
            assert!(point[side]["calls_per_second"]["median"].as_f64().unwrap() > 0.0);
        }
        assert!(point["change_percent"]["median"].is_number(), "{point}");
    }
    // A socket, and a doorbell each way.
    for side in ["server_descriptors", "client_descriptors"] {
        let each = report[side].as_f64().unwrap();
        assert!((2.0..=5.0).contains(&each), "{side}: {each}");
    }
    assert!(report["bytes_per_idle_connection"].as_u64().unwrap() > 1000);
    assert!(report["server_percent_at_rest"].is_number());
    assert_eq!(goals(&report).len(), 4);
    place.expect_nothing_left();
}

#[test]
fn idle_clients_that_cannot_be_had_are_refused_with_the_reason() {
    let place = Place::new();
    // The shell's limit is the process's, and that of the servers that it starts.
    let mut command = std::process::Command::new("sh");
    let nearwire = place.command(&[]);
    command
        .arg("-c")
        .arg("ulimit -n 400; exec \"$0\" bench scale --idle 1000 --connections 2")
        .arg(nearwire.get_program())
        .envs(
            nearwire
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    command::Running::start(command).wait().expect_error(&[
        "cannot have 1000 idle clients",
        "a limit of 400",
        "ulimit",
        "--idle",
    ]);
    place.expect_nothing_left();
}

#[test]
fn bad_clients_of_each_kind_and_all_together() {
    let place = Place::new();
    let arguments = ["--bad-clients", "--connections", "6", "--rate", "2000"];
    let start = [
        "bench",
        "scale",
        "--json",
        "--rounds",
        "1",
        "--seconds-per",
        "0.1",
    ];
    let report = place.json(&[&start[..], &arguments].concat());
    let kinds = report["kinds"].as_array().unwrap();
    let offences: Vec<usize> = kinds
        .iter()
        .map(|kind| {
            for side in ["without", "with"] {
                for figure in ["p50_ns", "p99_ns", "p999_ns"] {
                    assert!(kind[side][figure].as_f64().unwrap() > 0.0, "{kind}");
                }
            }
            assert!(kind["times_the_p99"]["median"].as_f64().unwrap() > 0.0);
            kind["offences"].as_array().unwrap().len()
        })
        .collect();
    // At the others' server, at one that limits rates, and at another one, of which nothing is expected.
    let (here, limited, elsewhere) = ([1, 1, 1, 1, 4], [1, 1, 4], [1, 1]);
    assert_eq!(offences, [&here[..], &limited, &elsewhere].concat());
    assert_eq!(goals(&report).len(), here.len() + limited.len());
    let arguments = ["bench", "scale", "--bad-clients", "--rate", "70%"];
    place.run(&arguments).expect_error(&["calls per second"]);
    let arguments = ["bench", "scale", "--bad-clients", "--shape", "tasks"];
    place.run(&arguments).expect_error(&["no schedule"]);
    place.expect_nothing_left();
}

#[test]
fn connects_one_by_one_and_at_once() {
    let place = Place::new();
    let report = report(&place, "scale", &["--connects", "40", "--processes", "3"]);
    for kind in ["one_after_the_other", "at_once"] {
        let figures = &report[kind];
        assert_eq!(
            (&figures["tried"], &figures["succeeded"]),
            (&40.into(), &40.into())
        );
        assert!(
            figures["p50_ns"].as_u64() <= figures["p99_ns"].as_u64(),
            "{figures}"
        );
    }
    assert_eq!(goals(&report).len(), 2);
    let arguments = ["bench", "scale", "--connects", "4", "--idle", "4"];
    place.run(&arguments).expect_code(2, &["--idle"]);
}

#[test]
fn a_pool_beside_a_client_and_across_restarts() {
    let place = Place::new();
    let report = report(&place, "pool", &["--restarts", "3"]);
    let names = names(&report);
    for name in [
        "Client",
        "Pool",
        "echo: 1 connection",
        "block: 4 connections",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let restarts = report["restarts"].as_array().unwrap();
    assert_eq!(restarts.len(), 2);
    for restarts in restarts {
        assert_eq!(restarts["count"], 3, "{restarts}");
        assert!(restarts["milliseconds"]["median"].as_f64().unwrap() >= 0.0);
    }
    assert_eq!(goals(&report).len(), 2);
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    for benchmark in [
        &["latency"][..],
        &["throughput"],
        &["ring"],
        &["scale"],
        &["scale", "--idle", "100"],
        &["scale", "--bad-clients", "--connections", "10"],
        &["scale", "--connects", "1000", "--rounds", "1000"],
        &["pool"],
        &["floor"],
    ] {
        let place = Place::new();
        let long = match benchmark {
            [_, "--connects", ..] => &[][..],
            _ => &["--seconds-per", "100"],
        };
        let mut bench = place.start(&[&["bench"], benchmark, long].concat());
        bench.expect("measuring");
        bench.signal_group(Signal::INT);
        bench.wait().expect_signal(Signal::INT);
        place.expect_nothing_left();
    }
}
