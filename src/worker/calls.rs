//! The calls of one connection that are not answered in place: those that went to the runtime, and
//! those that wait until fewer are there.

use super::connection::panicked;
use super::mail::{Address, CallEvent};
use crate::error::Status;
use crate::proto::frame::{Frame, Header, Kind};
use crate::proto::handshake::CallShape;
use crate::proto::status::Code;
use crate::server::inlet::Inlet;
use crate::server::methods::HandlerFuture;
use crate::server::outlet::Account;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Calls of one connection.
///
/// A client keeps to `max_in_flight`, but may have given up calls of which the server does not know
/// that yet; requests beyond the limit wait here. What waits is bounded in number and in bytes; at
/// the bound nothing more is read from the connection.
#[derive(Debug)]
pub(super) struct Calls {
    running: HashMap<u64, Running>,
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
    max_in_flight: usize,
    max_deferred_bytes: usize,
}

/// Calls of all connections of a server that are in the runtime, against a limit.
#[derive(Debug)]
pub(crate) struct RunningLimit {
    running: AtomicUsize,
    limit: usize,
}

impl RunningLimit {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let running = AtomicUsize::new(0);
        Arc::new(Self { running, limit })
    }

    /// Counts a call until what is returned is dropped. `None` at the limit.
    pub(super) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let add = |running| (running < self.limit).then_some(running + 1);
        let counted = self.running.fetch_update(Relaxed, Relaxed, add);
        counted.is_ok().then(|| Permit(self.clone()))
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }
}

/// A call's place among those of [`RunningLimit`].
#[derive(Debug)]
pub(super) struct Permit(Arc<RunningLimit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

/// A call in the runtime.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) _permit: Permit,
    pub(super) abort: AbortHandle,
    pub(super) shape: CallShape,
    pub(super) one_way: bool,
    /// When it began, if its time is sampled.
    pub(super) began: Option<Instant>,
    /// What the caller has paid for, if it is answered by a stream.
    pub(super) account: Option<Arc<Account>>,
    /// What the caller sends, if that is a stream.
    pub(super) inlet: Option<Arc<Inlet>>,
}

impl Running {
    /// Stops the handler: its future is dropped.
    pub(super) fn abort(&self) {
        self.abort.abort();
        self.leave();
    }

    /// The call is over; ends of its streams that outlive the handler learn of it.
    pub(super) fn leave(&self) {
        if let Some(account) = &self.account {
            account.close();
        }
        if let Some(inlet) = &self.inlet {
            inlet.end(Err(Status::new(Code::CANCELLED, "the call is over")));
        }
    }
}

/// A request that waits.
#[derive(Debug)]
struct Deferred {
    header: Header,
    payload: Vec<u8>,
    since: Instant,
}

impl Calls {
    pub(super) fn new(max_in_flight: usize, max_deferred_bytes: usize) -> Self {
        Self {
            running: HashMap::new(),
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            max_in_flight,
            max_deferred_bytes,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.running.len() + self.deferred.len()
    }

    /// Whether another request has to wait.
    pub(super) fn are_all_running(&self) -> bool {
        self.running.len() >= self.max_in_flight
    }

    /// Whether no more requests can wait.
    #[inline(always)]
    pub(super) fn are_full(&self) -> bool {
        self.deferred.len() >= self.max_in_flight || self.deferred_bytes > self.max_deferred_bytes
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.running.contains_key(&id)
    }

    pub(super) fn run(&mut self, id: u64, call: Running) {
        self.running.insert(id, call);
    }

    /// Takes a call out.
    pub(super) fn end(&mut self, id: u64) -> Option<Running> {
        self.running.remove(&id)
    }

    pub(super) fn abort_all(&mut self) {
        self.running.drain().for_each(|(_, call)| call.abort());
    }

    /// Keeps a request until another call has ended.
    pub(super) fn defer(&mut self, header: Header, payload: Vec<u8>) {
        self.deferred_bytes += payload.len();
        self.deferred.push_back(Deferred {
            header,
            payload,
            since: Instant::now(),
        });
    }

    /// Takes out the request that has waited longest, if it may start.
    pub(super) fn next_deferred(&mut self) -> Option<(Header, Vec<u8>)> {
        if self.are_all_running() {
            return None;
        }
        let Deferred {
            mut header,
            payload,
            since,
        } = self.deferred.pop_front()?;
        self.deferred_bytes -= payload.len();
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        header.deadline_ns = header.deadline_ns.map(|left| left.saturating_sub(waited));
        Some((header, payload))
    }

    /// Takes out a request that still waits.
    pub(super) fn withdraw_deferred(&mut self, id: u64) -> Option<Header> {
        let at = self
            .deferred
            .iter()
            .position(|deferred| deferred.header.request_id == id)?;
        let deferred = self.deferred.remove(at)?;
        self.deferred_bytes -= deferred.payload.len();
        Some(deferred.header)
    }

    /// The caller has taken items.
    pub(super) fn grant(&self, id: u64, credits: u32) {
        let call = self.running.get(&id);
        if let Some(account) = call.and_then(|call| call.account.as_ref()) {
            account.grant(credits);
        }
    }

    /// Lets the caller send more; false if the call is over.
    pub(super) fn grant_caller(&self, id: u64, credits: u32) -> bool {
        let call = self.running.get(&id);
        let inlet = call.and_then(|call| call.inlet.as_ref());
        inlet.is_some_and(|inlet| inlet.grant(credits))
    }

    /// A frame of the caller's stream. One of a call that is over is ignored; the error is what the
    /// caller did wrong.
    pub(super) fn take_item(&self, header: &Header, payload: Vec<u8>) -> Result<(), String> {
        let id = header.request_id;
        let Some(call) = self.running.get(&id) else {
            return Ok(());
        };
        let Some(inlet) = &call.inlet else {
            return Err(format!("call {id} takes no stream and was sent one"));
        };
        if header.kind == Kind::StreamItem {
            if !inlet.push(payload) {
                return Err(format!(
                    "more was sent to call {id} than it has credits for"
                ));
            }
            return Ok(());
        }
        let frame = Frame {
            header: *header,
            payload: &payload,
        };
        let status = frame.status();
        inlet.end(match status {
            Some(status) if status.code != Code::OK => Err(Status::new(status.code, status.text)),
            _ => Ok(()),
        });
        Ok(())
    }
}

/// Runs a call in the runtime. How it ends is posted to `address`; nothing is if it is aborted.
pub(super) fn spawn(
    runtime: &Handle,
    call: HandlerFuture,
    left: Option<Duration>,
    address: Address,
) -> AbortHandle {
    let call = async move {
        let ended = match left {
            None => call.await,
            Some(left) => match tokio::time::timeout(left, call).await {
                Ok(ended) => ended,
                Err(_) => {
                    let text = "the handler was still busy";
                    return Err(Status::new(Code::DEADLINE_EXCEEDED, text));
                }
            },
        };
        ended.map_err(Status::of_handler)
    };
    let call = CatchPanic(Some(Box::pin(call)));
    let task = runtime.spawn(async move {
        let ended = call.await;
        address.post(CallEvent::Ended(ended));
    });
    task.abort_handle()
}

/// A call whose panics are statuses, those of its drop included.
struct CatchPanic(Option<HandlerFuture>);

impl Future for CatchPanic {
    type Output = Result<Vec<u8>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = &mut self.0;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let Some(future) = call else {
                return Poll::Pending;
            };
            let polled = future.as_mut().poll(cx);
            if polled.is_ready() {
                *call = None;
            }
            polled
        }));
        polled.unwrap_or_else(|panic| {
            // Its drop may panic as well; once is enough.
            let rest = self.0.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(rest)));
            Poll::Ready(Err(panicked(&*panic)))
        })
    }
}
