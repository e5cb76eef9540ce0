//! The task that receives for a connection.

use super::Core;
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
}

impl Driver {
    pub(super) fn new(core: &Arc<Core>, spin: Spin) -> Self {
        Self {
            core: Arc::downgrade(core),
            spinner: Spinner::new(spin),
            looked: None,
        }
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
            if state.receive() > 0 {
                this.looked = None;
                let over = state.over;
                state.driver_running = true;
                core.unlock(state);
                if over {
                    return Poll::Ready(());
                }
                // Whose replies these are runs before the next look.
                cx.waker().wake_by_ref();
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
                        let_others_run(cx);
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
                    return Poll::Pending;
                }
            }
        }
    }
}
