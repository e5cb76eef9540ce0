//! Clocks. The time of day is nothing that Nearwire goes by (`.ci/house-rules` sees to that), and
//! the two sides never compare clocks: what they tell each other about time is how much is left.

use crate::ledger::Ledger;
use crate::server::{NAME, reply, request};
use crate::support::{PATIENCE, Process, within_async};
use nearwire::{Client, Error};
use std::process::Command;
use std::time::{Duration, Instant};

/// Calls that have time enough are answered, and one that has not ends when its time is over.
pub async fn deadlines_hold(name: &str) {
    let client = Client::connect(name).await.unwrap();
    let minute = Duration::from_secs(60);
    for method in ["sync", "later"] {
        let bytes = request(3, 10, 10);
        let answer = client.call_bytes(method, &bytes).deadline(minute).await;
        assert_eq!(answer.unwrap(), reply(3, 10));
    }
    let time = Duration::from_millis(80);
    let began = Instant::now();
    let bytes = request(4, 0, 0);
    let ended = client.call_bytes("hang", &bytes).deadline(time).await;
    let late = match &ended {
        Err(Error::DeadlineExceeded) => true,
        Err(Error::Status(status)) => status.code == nearwire::Code::DEADLINE_EXCEEDED,
        _ => false,
    };
    assert!(late, "{ended:?}");
    let took = began.elapsed();
    assert!(
        took >= time && took < time + Duration::from_secs(4),
        "{took:?}"
    );
}

#[test]
fn two_sides_with_clocks_that_are_days_apart_agree_on_deadlines() {
    for offset in ["--monotonic=1000000", "--monotonic=-1000"] {
        // As after a container was moved to another machine.
        let launcher = [
            "unshare",
            "--user",
            "--map-root-user",
            "--time",
            offset,
            "--fork",
        ];
        let tried = Command::new(launcher[0])
            .args(&launcher[1..])
            .arg("true")
            .output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            eprintln!("NOT TESTED: no time namespace with {offset} here");
            continue;
        }
        let ledger = Ledger::new();
        let settings = [("ledger", ledger.path())];
        let directory = ledger.place.path();
        let server = Process::start_through(&launcher, directory, "server", &settings, &[]);
        server.expect("ready");
        let name = ledger.place.socket(NAME);
        within_async(PATIENCE, "clocks apart", async move {
            deadlines_hold(&name).await;
            drop(server);
        });
    }
}
