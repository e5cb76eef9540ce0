//! A client process whose server is restarted a hundred times.

use crate::server::NAME;
use crate::support::child::{Commands, Settings, open_descriptors, say};
use crate::support::{PATIENCE, Place, multi_thread, within};
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

#[test]
fn a_hundred_restarts_leave_nothing_open() {
    within(PATIENCE * 4, "a hundred restarts", || {
        let place = Place::new();
        let mut server = place.start_ready("server", &[]);
        let client = place.start_ready("pool", &[]);
        client.tell("call");
        client.expect("again");
        let before = client.report();
        for round in 0..100 {
            if round % 2 == 0 {
                server.kill();
            } else {
                server.tell("shutdown 1000");
                server.expect("shut down");
            }
            server = place.start_ready("server", &[]);
            client.tell("call");
            client.expect("again");
        }
        let after = client.report();
        eprintln!("before: {before:?}, after: {after:?}");
        assert_eq!(after["reconnects"], 100);
        assert_eq!((after["open"], after["finishing"]), (1, 0));
        // At first there may be one more, of the handshake that is just over.
        assert!(after["descriptors"] <= before["descriptors"]);
    });
}
