//! Processors that can be interrupted, for loom, which knows of none.
//!
//! A heavy fence is a fence that one processor makes the others execute, wherever they are. Here a
//! processor asks the other one and waits for its answer; the other one executes the fence and
//! answers as soon as it comes to a place where it looks. The places are wherever an interrupt
//! would make a difference to the model: [`compiler_fence`], before anything is published
//! ([`interrupt`]), and while it waits itself. A processor that sleeps or has finished needs no
//! interrupt, for changing threads is a full fence.

use super::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::cell::RefCell;
use std::sync::Arc;

/// What a processor that runs nothing has answered: everything.
const IDLE: u64 = u64::MAX;

/// One of two processors.
#[derive(Debug)]
struct Processor {
    /// The fence that the other one waits for, counted from 1. Written by the other one.
    asked: AtomicU64,
    /// The last fence executed for the other one, or [`IDLE`]. Written by this one.
    answered: AtomicU64,
}

/// What a thread knows of the processors.
struct Running {
    processors: Arc<[Processor; 2]>,
    own: usize,
    /// The last fence that this one asked for, and that it executed.
    asked: u64,
    answered: u64,
}

loom::thread_local! {
    static RUNNING: RefCell<Option<Running>> = RefCell::new(None);
}

/// A machine of two processors.
#[derive(Debug, Clone)]
pub(crate) struct Machine(Arc<[Processor; 2]>);

impl Machine {
    pub(crate) fn new() -> Self {
        Self(Arc::new([(), ()].map(|()| Processor {
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(IDLE),
        })))
    }

    /// Runs the rest of this thread on one of the processors, 0 or 1, until [`finish`].
    pub(crate) fn run_on(&self, own: usize) {
        let processors = self.0.clone();
        processors[own].answered.store(0, Relaxed);
        fence(SeqCst);
        let running = Running {
            processors,
            own,
            asked: 0,
            answered: 0,
        };
        RUNNING.with(|slot| *slot.borrow_mut() = Some(running));
    }
}

fn with_running<R>(act: impl FnOnce(&mut Running) -> R) -> R {
    RUNNING.with(|slot| {
        let mut slot = slot.borrow_mut();
        act(slot
            .as_mut()
            .expect("an asymmetric fence needs a Machine in the model"))
    })
}

/// A place where an interrupt may come.
pub(crate) fn interrupt() {
    with_running(|running| {
        let own = &running.processors[running.own];
        let asked = own.asked.load(Relaxed);
        if asked != running.answered {
            fence(SeqCst);
            own.answered.store(asked, Relaxed);
            running.answered = asked;
        }
    });
}

/// No fence at all for this processor, but a place where one may come from the other.
pub(crate) fn compiler_fence() {
    interrupt();
}

/// A full fence here and on the other processor.
pub(crate) fn heavy_fence() -> bool {
    fence(SeqCst);
    let answered = with_running(|running| {
        running.asked += 1;
        let other = &running.processors[1 - running.own];
        other.asked.store(running.asked, Relaxed);
        running.asked
    });
    while with_running(|running| {
        running.processors[1 - running.own].answered.load(Relaxed) < answered
    }) {
        interrupt();
        loom::thread::yield_now();
    }
    fence(SeqCst);
    true
}

/// Sleeps by `sleep`: the processor runs something else meanwhile.
pub(crate) fn idle<R>(sleep: impl FnOnce() -> R) -> R {
    finish();
    let slept = sleep();
    with_running(|running| {
        let own = &running.processors[running.own];
        own.answered.store(running.answered, Relaxed);
        fence(SeqCst);
    });
    slept
}

/// Nothing runs on this processor any more.
pub(crate) fn finish() {
    fence(SeqCst);
    with_running(|running| {
        running.processors[running.own]
            .answered
            .store(IDLE, Relaxed)
    });
}
