//! The task that keeps a pool's connections.

use super::Shared;
use crate::client::Client;
use crate::error::Result;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Client>> + Send>>;

/// Looks after the pool whenever something has happened, until it is gone. `connect` begins an attempt
/// to connect.
pub(super) async fn supervise(supervised: Supervised, connect: impl Fn() -> Connecting) {
    let shared = &supervised.0;
    let mut connecting: Option<Connecting> = None;
    loop {
        // The roster can be dropped in a moment, and with it what it holds of the pool's.
        let look = {
            let mut roster = shared.lock();
            if roster.over {
                return;
            }
            roster.look(Instant::now())
        };
        for client in look.given_up {
            tracing::debug!(
                name = shared.name,
                open = client.is_open(),
                "pool: a connection less"
            );
        }
        for (id, client) in look.ping {
            tokio::spawn(ping(shared.clone(), id, client));
        }
        if look.open {
            connecting = Some(connect());
        }
        if let Some(connected) = event(shared, &mut connecting, look.again_at).await {
            connecting = None;
            take(shared, connected);
        }
    }
}

/// Waits until there is a reason to look. Gives what has become of the attempt to connect.
async fn event(
    shared: &Shared,
    connecting: &mut Option<Connecting>,
    again_at: Option<Instant>,
) -> Option<Result<Client>> {
    let mut work = pin!(shared.work.notified());
    let mut alarm = pin!(again_at.map(|time| tokio::time::sleep_until(time.into())));
    poll_fn(|cx| {
        if let Some(attempt) = connecting
            && let Poll::Ready(connected) = attempt.as_mut().poll(cx)
        {
            return Poll::Ready(Some(connected));
        }
        let called = work.as_mut().poll(cx).is_ready();
        let alarmed = alarm
            .as_mut()
            .as_pin_mut()
            .is_some_and(|alarm| alarm.poll(cx).is_ready());
        let roster = shared.lock();
        let ended = roster
            .connections()
            // Each must be asked, so that each wakes this task.
            .fold(false, |ended, client| {
                client.poll_closed(cx).is_ready() | ended
            });
        if called || alarmed || ended {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Takes what an attempt to connect has come to.
fn take(shared: &Shared, connected: Result<Client>) {
    let now = Instant::now();
    match connected {
        Ok(client) => {
            let mut roster = shared.lock();
            if roster.over {
                return;
            }
            let replaced = roster.opened(now, client, fastrand::f64());
            drop(roster);
            drop(replaced);
            tracing::debug!(name = shared.name, "pool: a connection more");
            shared.arrivals.notify_waiters();
        }
        Err(error) => {
            tracing::debug!(name = shared.name, %error, "pool: could not connect");
            shared.lock().failed(now, error);
        }
    }
}

async fn ping(shared: Arc<Shared>, id: u64, client: Client) {
    let answered = tokio::time::timeout(shared.ping_timeout, client.ping()).await;
    let answered = matches!(answered, Ok(Ok(())));
    if !answered && client.is_open() {
        let timeout = shared.ping_timeout;
        tracing::warn!(
            name = shared.name,
            ?timeout,
            "pool: a server that lives stands still"
        );
    }
    shared.lock().pinged(Instant::now(), id, answered);
    shared.work.notify_one();
}

/// A pool that has a supervisor. When the runtime ends, and with it the supervisor, calls in other
/// runtimes must not wait for it.
pub(super) struct Supervised(pub(super) Arc<Shared>);

impl Drop for Supervised {
    fn drop(&mut self) {
        self.0.end();
    }
}
