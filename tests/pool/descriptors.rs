//! A client process whose server is restarted a hundred times.

use crate::server::NAME;
use crate::support::child::{Commands, Settings, open_descriptors, say};
use crate::support::{PATIENCE, Place, eventually, multi_thread, within};
use nearwire::Pool;

/// Calls through a pool when told to. Says how it went, and what it has open.
pub fn pool(_: &Settings, commands: Commands) {
    let runtime = multi_thread();
    let pool = runtime.block_on(Pool::connect(NAME)).unwrap();
    say("ready");
    loop {
        match &*commands.next() {
            "call" => match runtime.block_on(pool.call_bytes("echo", b"again").idempotent()) {
                Ok(reply) => say(String::from_utf8(reply).unwrap()),
                Err(error) => say(error),
            },
            "report" => say(format!(
                "descriptors={} open={} reconnects={} finishing={}",
                open_descriptors(),
                pool.stats().open,
                pool.stats().reconnects,
                pool.stats().finishing,
            )),
            other => panic!("the pool does not know {other:?}"),
        }
    }
}

fn a_hundred_restarts_leave_nothing_open() {
    within(PATIENCE * 4, "a hundred restarts", || {
        let place = Place::new();
        let mut server = place.start_ready("server", &[]);
        let client = place.start_ready("pool", &[]);
        client.tell("call");
        client.expect("again");
        for round in 0..100 {
            if round % 2 == 0 {
                server.kill();
                server.ended();
            } else {
                server.tell("shutdown 1000");
                server.expect("shut down");
            }
            server = place.start_ready("server", &[]);
            client.tell("call");
            client.expect("again");
        }
        let report = client.report();
        assert_eq!(report["reconnects"], 100);
        assert_eq!((report["open"], report["finishing"]), (1, 0));
        // Beside one that has seen no restart. A connection gets its last descriptor when it first
        // sleeps, and what another one had may be being closed by another thread.
        let fresh = place.start_ready("pool", &[]);
        fresh.tell("call");
        fresh.expect("again");
        let mut seen = Vec::new();
        eventually("both have the same number of descriptors", || {
            let (tried, fresh) = (client.report(), fresh.report());
            seen.push((tried["descriptors"], fresh["descriptors"]));
            tried["descriptors"] == fresh["descriptors"]
        });
        eprintln!("descriptors after a hundred restarts, and of a fresh client: {seen:?}");
    });
}

crate::over_both_transports!(a_hundred_restarts_leave_nothing_open,);
