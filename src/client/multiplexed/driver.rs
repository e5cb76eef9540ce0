//! The task that receives for a connection.

use super::Core;
use super::turns::{Turn, Turns};
use crate::link::{Waited, let_others_run};
use crate::settings::Spin;
use crate::waiter::{Slice, Spinner};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

/// Receives for all calls of a connection, until nobody is left or the connection is over.
#[derive(Debug)]
pub(super) struct Driver {
    core: Weak<Core>,
    spinner: Spinner,
    /// Time spent looking since something was found.
    looked: Option<Duration>,
    /// Where drivers take turns.
    turn: Option<Turn>,
}

impl Driver {
    /// With the turns of the runtime that it is to run in, if it has any.
    pub(super) fn new(core: &Arc<Core>, spin: Spin, turns: Option<Arc<Turns>>) -> Self {
        Self {
            core: Arc::downgrade(core),
            spinner: Spinner::new(spin),
            looked: None,
            turn: turns.map(Turn::new),
        }
    }

    /// Stands in line, where drivers take turns, after delivering so many replies.
    fn join_line(&mut self, cx: &Context<'_>, delivered: usize) -> bool {
        let turn = self.turn.as_mut();
        turn.is_some_and(|turn| turn.join(cx.waker(), delivered))
    }
}

impl Drop for Driver {
    /// The runtime is gone, and nobody would be woken any more.
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let mut state = core.lock();
        if !state.over {
            state.driver = None;
            state.close();
            state.end_all();
        }
        core.unlock(state);
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(core) = this.core.upgrade() else {
            return Poll::Ready(());
        };
        if this.turn.as_mut().is_some_and(Turn::is_waiting) {
            return Poll::Pending;
        }
        loop {
            let mut state = core.lock();
            if !state
                .driver
                .as_ref()
                .is_some_and(|driver| driver.will_wake(cx.waker()))
            {
                state.driver = Some(cx.waker().clone());
            }
            if state.over {
                return Poll::Ready(());
            }
            state.publish();
            let received = state.receive();
            if received > 0 {
                this.looked = None;
                let over = state.over;
                state.driver_running = true;
                core.unlock(state);
                if over {
                    return Poll::Ready(());
                }
                // Whose replies these are runs before the next look.
                if !this.join_line(cx, received) {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            if state.is_waiting() {
                state.driver_running = true;
                core.unlock(state);
                match this
                    .spinner
                    .slice(core.looker, &mut this.looked, || core.lock().has_news())
                {
                    Slice::Ready => continue,
                    Slice::Again | Slice::Shared => {
                        if !this.join_line(cx, 0) {
                            let_others_run(cx);
                        }
                        return Poll::Pending;
                    }
                    Slice::Over => {}
                }
                state = core.lock();
                // Other threads have left to this one what they staged while it looked.
                state.publish();
            }
            this.looked = None;
            state.driver_spins = this.spinner.record();
            // Asleep: for data if any is to come; in any case until the server is gone.
            let waiting = state.is_waiting();
            let slept = if waiting {
                state.poll_sleep(cx)
            } else {
                state.poll_idle(cx)
            };
            match slept {
                Poll::Ready(Ok(Waited::Ready)) => core.unlock(state),
                Poll::Ready(outcome) => {
                    if let Err(error) = outcome {
                        tracing::error!(%error, "a client cannot sleep");
                        // The server has not finished anything.
                        state.close();
                    }
                    state.end_all();
                    core.unlock(state);
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    state.driver_awake = waiting;
                    state.driver_running = false;
                    core.unlock(state);
                    if let Some(turn) = &mut this.turn {
                        turn.rest();
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
