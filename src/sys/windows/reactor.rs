//! Sleeping in a task.
//!
//! Tokio's reactor takes no events, only its own pipes and sockets; so the system's thread pool
//! waits ([`Watch`]), for any number of tasks, and wakes the task.

use super::Watched;
use super::doorbell::{Bell, Doorbell, Subscriber};
use super::event::Event;
use super::watch::{Times, Watch};
use crate::sys::Woken;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// A place to sleep for one task.
#[derive(Debug)]
pub(crate) struct ReactorSleeper {
    task: Arc<Task>,
    _bell: Arc<Bell>,
    _bell_watch: Arc<Watch>,
    control: Arc<Event>,
    control_watch: Watch,
}

/// What happened, and whom to wake.
#[derive(Debug, Default)]
struct Task(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rung: bool,
    control: bool,
    waker: Option<Waker>,
}

impl Task {
    fn note(&self, what: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.lock();
            what(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Subscriber for Task {
    fn rung(&self) {
        self.note(|state| state.rung = true);
    }
}

impl ReactorSleeper {
    /// As [`new`](Self::new), for a control pipe that carries frames (see `Sleeper::on_stream`).
    pub(crate) fn on_stream(doorbell: &Doorbell, control: &impl Watched) -> io::Result<Self> {
        Self::new(doorbell, control)
    }

    pub(crate) fn new(doorbell: &Doorbell, control: &impl Watched) -> io::Result<Self> {
        let task = Arc::new(Task::default());
        let subscriber: Arc<dyn Subscriber> = task.clone();
        let control = control.readable().clone();
        Ok(Self {
            _bell_watch: doorbell.bell().watch(&subscriber)?,
            _bell: doorbell.bell().clone(),
            control_watch: watch(&control, &task)?,
            control,
            task,
        })
    }

    /// Ready when the doorbell rang, or the control pipe has something, since the last time. The
    /// task is woken then. May be ready without a reason.
    pub(crate) fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        let mut state = self.task.lock();
        // A peer that is gone matters more than a ring: after it, nobody rings again.
        if std::mem::take(&mut state.control) {
            drop(state);
            // The caller reads what there is; what is left then calls again at once.
            self.control_watch = watch(&self.control, &self.task)?;
            return Poll::Ready(Ok(Woken::Control));
        }
        if std::mem::take(&mut state.rung) {
            return Poll::Ready(Ok(Woken::Rung));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

fn watch(control: &Arc<Event>, task: &Arc<Task>) -> io::Result<Watch> {
    let task = Arc::downgrade(task);
    Watch::new(control, Times::Once, move || {
        if let Some(task) = task.upgrade() {
            task.note(|state| state.control = true);
        }
    })
}
