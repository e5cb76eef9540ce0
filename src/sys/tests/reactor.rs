//! Sleeping in a task.

use crate::sys::{ControlStandIn, Doorbell, ReactorSleeper, Woken};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

#[test]
fn each_ring_wakes_once_and_an_end_of_file_always() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    runtime.unwrap().block_on(async {
        let mut control = ControlStandIn::new();
        let bell = Arc::new(Doorbell::new().unwrap());
        let mut one = ReactorSleeper::new(&bell, &control).unwrap();
        let mut two = ReactorSleeper::new(&bell, &control).unwrap();
        let begin_with_a_ring = if cfg!(target_os = "linux") {
            // A watch begins with an edge.
            vec![&mut one, &mut two]
        } else if cfg!(windows) {
            // Whoever is not the first is told at once.
            vec![&mut two]
        } else {
            vec![]
        };
        for sleeper in begin_with_a_ring {
            let woken = poll_fn(|cx| sleeper.poll_sleep(cx)).await.unwrap();
            assert_eq!(woken, Woken::Rung);
        }
        for _ in 0..3 {
            let from_elsewhere = bell.clone();
            let ringing = std::thread::spawn(move || from_elsewhere.ring());
            for sleeper in [&mut one, &mut two] {
                let woken = poll_fn(|cx| sleeper.poll_sleep(cx)).await.unwrap();
                assert_eq!(woken, Woken::Rung);
            }
            ringing.join().unwrap();
            let again = poll_fn(|cx| Poll::Ready(one.poll_sleep(cx).is_pending())).await;
            assert!(again, "one ring woke twice");
        }
        control.end();
        // Once is enough for a caller who then reads to the end; Windows says so again.
        let times = if cfg!(windows) { 2 } else { 1 };
        for sleeper in [&mut one, &mut two] {
            for _ in 0..times {
                let woken = poll_fn(|cx| sleeper.poll_sleep(cx)).await.unwrap();
                assert_eq!(woken, Woken::Control);
            }
        }
    });
}
