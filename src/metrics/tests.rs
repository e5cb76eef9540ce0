//! A page's writer and its reader, and readers of pages that lie.

use super::layout::{Geometry, header, slot};
use super::*;
use crate::layout::WORD;
use crate::segment::{OwnPage, PageView};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

fn page(workers: usize, connections: usize) -> CountersPage {
    CountersPage::create(workers, connections, 10, "test\u{7}")
}

fn opened(id: u64) -> Opened<'static> {
    Opened {
        id,
        pid: 4711,
        since: 5,
        ring_in: 4096,
        ring_out: 8192,
        features: 3,
        worker: 1,
        max_in_flight: 64,
        huge_pages: false,
        label: "a client",
    }
}

#[test]
fn what_is_counted_is_read() {
    let page = page(2, 10);
    let reader = Reader::new(page.view().clone()).unwrap();
    for number in 0..2 {
        let worker = page.worker(number);
        worker.add(Counter::CallsOk, 5);
        worker.add(Counter::CallsFailed, 2);
        worker.set(Counter::SpinsPaid, 9);
        worker.replace(Gauge::CallsInFlight, 0, 3);
        worker.replace(Gauge::CallsInFlight, 2, 1);
        page.distributions(number)
            .handler_took(Duration::from_nanos(100), 10, &worker);
    }
    let snapshot = reader.snapshot();
    assert_eq!(snapshot.total(Counter::CallsOk), 10);
    assert_eq!(snapshot.calls(), 14);
    assert_eq!(snapshot.total(Counter::SpinsPaid), 18);
    assert_eq!(snapshot.total(Counter::HandlerTime), 2000);
    assert_eq!(snapshot.gauge(Gauge::CallsInFlight), 4);
    let handlers = snapshot.distribution(Distribution::HandlerDuration);
    assert_eq!((handlers.count(), handlers.sum()), (2, 200));
    assert_eq!(
        snapshot.workers[1]
            .distribution(Distribution::HandlerDuration)
            .count(),
        1
    );
    assert_eq!(snapshot.distribution(Distribution::BatchSize).count(), 0);
    assert_eq!(snapshot.pid, std::process::id());
    let later = reader.snapshot().uptime;
    assert!(Duration::ZERO < snapshot.uptime && snapshot.uptime < later);
    assert_eq!(snapshot.sampling, 10);
    // What a terminal would act on does not reach it.
    assert_eq!(snapshot.label, "test\u{fffd}");
    assert!(!snapshot.is_draining);
    page.set_draining();
    assert!(reader.snapshot().is_draining);
}

#[test]
fn slots_come_and_go() {
    let page = page(1, 2);
    let reader = Reader::new(page.view().clone()).unwrap();
    let ids = || {
        let mut ids: Vec<_> = reader.snapshot().connections.iter().map(|c| c.id).collect();
        ids.sort();
        ids
    };
    let one = page.open_slot().unwrap();
    assert!(ids().is_empty());
    one.open(&opened(7));
    let two = page.open_slot().unwrap();
    two.open(&opened(8));
    assert_eq!(ids(), [7, 8]);
    // One more than there is room for is served without a slot.
    assert!(page.open_slot().is_none());
    one.observe(&Observed {
        state: State::Parked,
        messages_received: 1,
        messages_sent: 2,
        consumed: 100,
        head: 96,
        peer_tail: 164,
        produced: 50,
        peer_head: 10,
        in_flight: 3,
        waiting: 4,
        blocked_since: 1_000_000_000,
        parked: [true, false, false, true],
        busy_at: 9,
        at: 11,
    });
    let snapshot = reader.snapshot();
    let found = snapshot.connections.iter().find(|c| c.id == 7).unwrap();
    assert_eq!(
        (found.pid, &*found.label, found.worker),
        (4711, "a client", 1)
    );
    assert_eq!(found.state, State::Parked);
    assert_eq!(
        (found.requests.occupied(), found.replies.occupied()),
        (64, 40)
    );
    assert!(found.requests.consumer_parked && found.requests.producer_parked);
    assert!(!found.replies.consumer_parked && !found.replies.producer_parked);
    assert!(!found.is_stuck(Duration::from_millis(1500)));
    assert!(found.is_stuck(Duration::from_millis(2500)));
    drop(one);
    assert_eq!(ids(), [8]);
    // A used slot is given again, with nothing left of what was in it.
    page.open_slot().unwrap().open(&opened(9));
    let again = page.open_slot().unwrap();
    again.open(&opened(10));
    let snapshot = reader.snapshot();
    let found = snapshot.connections.iter().find(|c| c.id == 10).unwrap();
    assert_eq!((found.in_flight, found.blocked_since), (0, None));
}

#[test]
fn a_page_for_many_connections_is_not_resident() {
    let page = page(1, usize::MAX);
    assert!(page.view().len() <= layout::MAX_PAGE);
    let reader = Reader::new(page.view().clone()).unwrap();
    assert!(reader.snapshot().connections.is_empty());
}

/// A page whose words are what `write` makes of a good one's header.
fn forged(len: usize, write: impl Fn(&dyn Fn(usize, u64))) -> Result<Reader, PageError> {
    let good = page(1, 4);
    let (forged, _handle) = OwnPage::create(len);
    let words = forged.block::<{ header::WORDS }>(0);
    for (at, word) in words.iter().enumerate() {
        word.store(good.view().word(at * WORD).load(Relaxed), Relaxed);
    }
    write(&|at, value| words[at].store(value, Relaxed));
    let view: PageView = forged.view().clone();
    Reader::new(view)
}

#[test]
fn a_page_that_lies_is_refused() {
    let len = Geometry {
        workers: 1,
        slots: 4,
    }
    .len();
    assert!(forged(len, |_| {}).is_ok());
    let error = |len, at, value| forged(len, |put| put(at, value)).unwrap_err();
    assert_eq!(error(len, header::MAGIC, 0), PageError::NotAPage);
    assert_eq!(error(len, header::LAYOUT, 0), PageError::OtherLayout);
    for (at, value) in [
        (header::WORKERS, 3),
        (header::WORKERS, u64::MAX),
        (header::SLOTS, 1 << 16),
        (header::SLOTS, u64::MAX),
        (header::SLOTS_AT, 8),
        (header::WORKERS_AT, u64::MAX),
        (header::SLOT_LEN, 1),
    ] {
        let error = error(len, at, value);
        assert!(matches!(error, PageError::Broken(_)), "{at}: {error}");
    }
}

#[test]
fn a_page_whose_words_are_anything_is_read_without_harm() {
    let len = Geometry {
        workers: 1,
        slots: 4,
    }
    .len();
    let (forged, _handle) = OwnPage::create(len);
    let good = page(1, 4);
    for value in [u64::MAX, 1 << 63, 0x0a1b_5b33_316d_0a1b] {
        for at in (0..len).step_by(WORD) {
            forged.block::<1>(at)[0].store(value, Relaxed);
        }
        for at in 0..header::STARTED {
            let word = good.view().word(at * WORD).load(Relaxed);
            forged.block::<1>(at * WORD)[0].store(word, Relaxed);
        }
        for (at, word) in (Geometry {
            workers: 1,
            slots: 4,
        })
        .words()
        {
            forged.block::<1>(at * WORD)[0].store(word as u64, Relaxed);
        }
        let reader = Reader::new(forged.view().clone()).unwrap();
        let snapshot = reader.snapshot();
        assert_eq!(snapshot.connections.len(), 4);
        for connection in &snapshot.connections {
            assert!(connection.requests.occupied() <= connection.requests.capacity);
            assert!(!connection.label.contains(char::is_control));
            connection.is_stuck(Duration::MAX);
        }
        let histogram = snapshot.distribution(Distribution::HandlerDuration);
        for q in [0.0, 0.5, 1.0] {
            histogram.quantile(q);
        }
        histogram.since(&histogram);
        snapshot.calls();
        snapshot.held_up_since(&snapshot);
    }
    // Names of words that no test above uses, so that they stay apart.
    const { assert!(slot::LABEL + 8 <= slot::WORDS && header::LABEL + 8 <= header::WORDS) };
}
