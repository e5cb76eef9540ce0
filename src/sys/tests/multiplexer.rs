//! Sleeping on many doorbells and sockets.

use crate::sys::{ControlStandIn, Doorbell, Event, Multiplexer};
use std::time::Duration;

#[test]
fn tells_who_rang() {
    let multiplexer = Multiplexer::new().unwrap();
    let mut control = ControlStandIn::new();
    // More than Windows lets a thread wait for.
    let bells: Vec<_> = (0..100).map(|_| Doorbell::new().unwrap()).collect();
    for (number, bell) in bells.iter().enumerate() {
        multiplexer.add_doorbell(number, bell).unwrap();
    }
    multiplexer.add_socket(7, &control).unwrap();
    let next = || {
        let mut events = Vec::new();
        // A sleep may end without any.
        while events.is_empty() {
            multiplexer.sleep(None, |event| events.push(event)).unwrap();
        }
        events
    };
    let nothing = || {
        let mut events = Vec::new();
        let time = Some(Duration::from_millis(50));
        for _ in 0..2 {
            multiplexer.sleep(time, |event| events.push(event)).unwrap();
        }
        assert_eq!(events, []);
    };
    // A watch may begin with an edge.
    multiplexer.sleep(Some(Duration::ZERO), |_| {}).unwrap();
    nothing();
    bells[42].ring();
    assert_eq!(next(), [Event::Rung(42)]);
    nothing();
    multiplexer.waker().wake();
    assert_eq!(next(), [Event::Woken]);
    nothing();
    // As long as it is so.
    control.end();
    for _ in 0..3 {
        assert_eq!(next(), [Event::Socket(7)]);
    }
    multiplexer.remove(&control);
    // It may have been noticed before.
    multiplexer.sleep(Some(Duration::ZERO), |_| {}).unwrap();
    nothing();
    for bell in &bells[..50] {
        multiplexer.remove(bell);
        bell.ring();
    }
    nothing();
    bells[50].ring();
    assert_eq!(next(), [Event::Rung(50)]);
}
