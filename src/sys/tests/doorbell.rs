//! Sleeping on one doorbell.

use crate::sys::{ControlStandIn, Doorbell, PeerDoorbell, Sleeper, Woken};
use std::time::Duration;

const NO_TIME: Option<Duration> = Some(Duration::ZERO);

/// A sleeper behind its first sleep, which is short where a new watch begins with an edge.
fn sleeper(bell: &Doorbell, control: &ControlStandIn) -> Sleeper {
    let sleeper = Sleeper::new(bell, control).unwrap();
    sleeper.sleep(NO_TIME).unwrap();
    sleeper
}

#[test]
fn each_ring_wakes_once_and_an_end_of_file_always() {
    let mut control = ControlStandIn::new();
    let bell = Doorbell::new().unwrap();
    let peer = PeerDoorbell::open(bell.handle().unwrap()).unwrap();
    let sleeper = sleeper(&bell, &control);
    assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::TimedOut);
    bell.ring();
    assert_eq!(sleeper.sleep(None).unwrap(), Woken::Rung);
    assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::TimedOut);
    peer.ring();
    bell.ring();
    assert_eq!(sleeper.sleep(None).unwrap(), Woken::Rung);
    assert_eq!(sleeper.sleep(NO_TIME).unwrap(), Woken::TimedOut);
    control.end();
    bell.ring();
    assert_eq!(sleeper.sleep(None).unwrap(), Woken::Control);
    assert_eq!(sleeper.sleep(None).unwrap(), Woken::Control);
}

#[test]
fn one_ring_reaches_both_sleepers() {
    let control = ControlStandIn::new();
    let bell = Doorbell::new().unwrap();
    let one = sleeper(&bell, &control);
    let two = sleeper(&bell, &control);
    for _ in 0..3 {
        bell.ring();
        assert_eq!(one.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(two.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(one.sleep(NO_TIME).unwrap(), Woken::TimedOut);
        assert_eq!(two.sleep(NO_TIME).unwrap(), Woken::TimedOut);
    }
}

/// More rings than a socket buffers bytes, where rings are bytes.
#[test]
fn many_rings_fill_nothing_and_reach_both_sleepers() {
    let control = ControlStandIn::new();
    let bell = Doorbell::new().unwrap();
    let peer = PeerDoorbell::open(bell.handle().unwrap()).unwrap();
    let one = sleeper(&bell, &control);
    let two = sleeper(&bell, &control);
    for _ in 0..10_000 {
        peer.ring();
        assert_eq!(one.sleep(None).unwrap(), Woken::Rung);
        assert_eq!(two.sleep(None).unwrap(), Woken::Rung);
    }
}
