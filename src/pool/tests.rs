//! The roster, with connections that are numbers and times that are said.

use super::backoff::Backoff;
use super::roster::{Connection, Remainder, Roster, Rules};
use crate::error::Error;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Its load; below zero it is over.
#[derive(Debug, Clone)]
struct Fake(Arc<AtomicIsize>);

impl Fake {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn set(&self, load: isize) {
        self.0.store(load, Relaxed);
    }
}

impl Connection for Fake {
    fn load(&self) -> Option<usize> {
        usize::try_from(self.0.load(Relaxed)).ok()
    }

    fn remainder(&self) -> Remainder {
        let weak: Weak<AtomicIsize> = Arc::downgrade(&self.0);
        Box::new(move || Some(weak.upgrade()?.load(Relaxed).max(0) as usize))
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        min_idle: 1,
        max_size: 3,
        grow_at: 4,
        idle_timeout: Some(10 * SECOND),
        max_lifetime: None,
        ping_every: None,
        backoff: Backoff::default(),
    }
}

fn absent() -> Error {
    let path = "search.sock".into();
    Error::NoServer { path, dead: true }
}

/// Lets the roster open as many as it wants. Gives those that it opened.
fn settle(roster: &mut Roster<Fake>, now: Instant) -> Vec<Fake> {
    let mut opened = Vec::new();
    while roster.look(now).open {
        let fake = Fake::new();
        opened.push(fake.clone());
        drop(roster.opened(now, fake, 0.0));
        assert!(opened.len() < 100, "it opens without end");
    }
    opened
}

#[test]
fn the_least_loaded_is_chosen_and_the_first_of_equals() {
    let now = Instant::now();
    let mut roster = Roster::new(Rules {
        min_idle: 3,
        ..rules()
    });
    assert!(roster.choose().is_none());
    let fakes = settle(&mut roster, now);
    assert_eq!(fakes.len(), 3);
    for (loads, least) in [
        ([0, 0, 0], 0),
        ([2, 1, 1], 1),
        ([3, 2, 1], 2),
        ([-1, 5, 4], 2),
    ] {
        fakes
            .iter()
            .zip(loads)
            .for_each(|(fake, load)| fake.set(load));
        assert_eq!(roster.choose().unwrap().id, least, "{loads:?}");
    }
    fakes.iter().for_each(|fake| fake.set(-1));
    assert!(roster.choose().is_none());
}

#[test]
fn it_grows_once_at_a_time_and_only_when_all_are_busy() {
    let now = Instant::now();
    let mut roster = Roster::new(rules());
    let first = settle(&mut roster, now).remove(0);
    first.set(3);
    assert!(!roster.choose().unwrap().grow);
    first.set(4);
    assert!(roster.choose().unwrap().grow);
    assert!(!roster.choose().unwrap().grow, "it was said already");
    let second = settle(&mut roster, now);
    assert_eq!(second.len(), 1);
    assert_eq!(roster.choose().unwrap().id, 1);
    second[0].set(9);
    assert!(roster.choose().unwrap().grow);
    let third = settle(&mut roster, now).remove(0);
    third.set(9);
    assert!(!roster.choose().unwrap().grow, "there are three");
    assert!(settle(&mut roster, now).is_empty());
}

#[test]
fn what_is_idle_is_given_up_down_to_the_minimum() {
    let start = Instant::now();
    let mut roster = Roster::new(Rules {
        min_idle: 1,
        ..rules()
    });
    let first = settle(&mut roster, start).remove(0);
    first.set(4);
    roster.choose().unwrap();
    let second = settle(&mut roster, start).remove(0);
    second.set(1);
    // Busy: it is looked at again, and stays.
    let mut now = start;
    for _ in 0..20 {
        let look = roster.look(now);
        assert!(look.given_up.is_empty());
        let again = look.again_at.expect("one may fall idle");
        assert!(again > now && again <= now + 10 * SECOND);
        now = again;
    }
    second.set(0);
    first.set(0);
    let quiet_since = now;
    let given_up = loop {
        let look = roster.look(now);
        if !look.given_up.is_empty() {
            break look.given_up;
        }
        now = look.again_at.unwrap();
    };
    let took = now - quiet_since;
    assert!(took >= 10 * SECOND && took <= 13 * SECOND, "{took:?}");
    // The later one: calls prefer the first.
    assert!(Arc::ptr_eq(&given_up[0].0, &second.0));
    assert_eq!(given_up.len(), 1);
    assert!(roster.look(now + 1000 * SECOND).given_up.is_empty());
}

#[test]
fn one_of_age_goes_when_its_successor_is_there() {
    let start = Instant::now();
    let lifetime = Some(100 * SECOND);
    let mut roster = Roster::new(Rules {
        max_lifetime: lifetime,
        idle_timeout: None,
        ..rules()
    });
    let old = settle(&mut roster, start).remove(0);
    old.set(1);
    let look = roster.look(start);
    assert_eq!(look.again_at, Some(start + 100 * SECOND));
    let now = start + 100 * SECOND;
    assert!(roster.look(now).open);
    assert!(!roster.look(now).open, "one at a time");
    // The server takes no more connections: the old one stays in use.
    roster.failed(now, absent());
    assert_eq!(roster.choose().unwrap().id, 0);
    let retry = roster.look(now).again_at.unwrap();
    assert!(retry > now && retry <= now + 2 * SECOND);
    assert!(roster.look(retry).open);
    let replaced = roster.opened(retry, Fake::new(), 0.0);
    assert!(Arc::ptr_eq(&replaced.unwrap().0, &old.0));
    assert_eq!(roster.choose().unwrap().id, 1);
    let stats = roster.stats();
    assert_eq!((stats.open, stats.finishing, stats.in_flight), (1, 1, 1));
    drop(old);
    assert_eq!(roster.stats().finishing, 0);
}

#[test]
fn lifetimes_end_up_to_a_tenth_early() {
    let start = Instant::now();
    let lifetime = Some(100 * SECOND);
    let rules = Rules {
        max_lifetime: lifetime,
        idle_timeout: None,
        ..rules()
    };
    for (jitter, end) in [(0.0, 100), (0.5, 95), (1.0, 90)] {
        let mut roster = Roster::new(rules.clone());
        assert!(roster.look(start).open);
        drop(roster.opened(start, Fake::new(), jitter));
        let again = roster.look(start).again_at.unwrap();
        let error = again.saturating_duration_since(start + end * SECOND);
        assert!(error < Duration::from_millis(1), "{jitter}");
    }
}

#[test]
fn what_the_server_ended_is_replaced_at_once_and_then_less_and_less_often() {
    let start = Instant::now();
    let mut roster = Roster::new(rules());
    let first = settle(&mut roster, start).remove(0);
    let mut now = start + SECOND;
    first.set(-1);
    let look = roster.look(now);
    assert!(look.open);
    assert_eq!(look.given_up.len(), 1);
    roster.failed(now, absent());
    // A call waits: milliseconds. None does: up to seconds.
    roster.waiting = 1;
    for _ in 0..20 {
        let look = roster.look(now);
        assert!(!look.open);
        let again = look.again_at.unwrap();
        assert!(
            again - now <= Duration::from_millis(100),
            "{:?}",
            again - now
        );
        now = again;
        assert!(roster.look(now).open);
        roster.failed(now, absent());
    }
    roster.waiting = 0;
    let again = roster.look(now).again_at.unwrap();
    assert!(again - now >= SECOND && again - now <= 2 * SECOND);
    let now = again;
    assert_eq!(settle(&mut roster, now).len(), 1);
    let stats = roster.stats();
    assert_eq!((stats.reconnects, stats.connect_failures), (1, 21));
    assert!(roster.last_error.is_none());
}

#[test]
fn a_server_that_takes_connections_and_drops_them_is_not_asked_at_full_speed() {
    let mut now = Instant::now();
    let mut roster = Roster::new(rules());
    roster.waiting = 1;
    let mut attempts = 0;
    let end = now + 10 * SECOND;
    while now < end {
        let look = roster.look(now);
        if look.open {
            attempts += 1;
            let fake = Fake::new();
            fake.set(-1);
            drop(roster.opened(now, fake, 0.0));
        } else {
            now = look.again_at.expect("it tries again");
        }
    }
    assert!((50..300).contains(&attempts), "{attempts} in 10 s");
}

#[test]
fn one_that_stands_still_gets_calls_only_when_there_is_no_other() {
    let start = Instant::now();
    let mut roster = Roster::new(Rules {
        min_idle: 2,
        idle_timeout: None,
        ping_every: Some(SECOND),
        ..rules()
    });
    let fakes = settle(&mut roster, start);
    fakes[1].set(3);
    let now = start + SECOND;
    let look = roster.look(now);
    assert_eq!(look.ping.len(), 2);
    assert!(roster.look(now).ping.is_empty(), "one ping at a time");
    roster.pinged(now, 0, false);
    roster.pinged(now, 1, true);
    assert_eq!(roster.choose().unwrap().id, 1);
    // It is to be replaced; while that fails it stays, and may come back.
    assert!(roster.look(now).open);
    roster.failed(now, absent());
    fakes[1].set(-1);
    assert_eq!(roster.choose().unwrap().id, 0);
    roster.pinged(now, 0, true);
    let again = roster.look(now);
    assert_eq!(again.given_up.len(), 1);
    assert_eq!(roster.choose().unwrap().id, 0);
}

#[test]
fn with_no_minimum_it_connects_when_a_call_waits() {
    let now = Instant::now();
    let mut roster = Roster::new(Rules {
        min_idle: 0,
        ..rules()
    });
    assert!(settle(&mut roster, now).is_empty());
    roster.waiting = 1;
    assert_eq!(settle(&mut roster, now).len(), 1);
    roster.waiting = 0;
    assert_eq!(roster.look(now + 10 * SECOND).given_up.len(), 1);
    assert!(roster.choose().is_none());
    assert!(!roster.look(now + 20 * SECOND).open);
}

#[test]
fn nothing_is_opened_after_the_end() {
    let now = Instant::now();
    let mut roster = Roster::new(rules());
    settle(&mut roster, now);
    roster.over = true;
    roster.waiting = 1;
    let look = roster.look(now);
    assert_eq!((look.open, look.given_up.len()), (false, 1));
    assert!(roster.choose().is_none());
    assert!(!roster.look(now + SECOND).open);
}
