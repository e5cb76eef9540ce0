//! One connection of a server, served by the worker that owns it.

use super::{Answer, Mailbox};
use crate::error::{CloseReason, Error, Small, Status, Violation};
use crate::link::{Incoming, Link, Outgoing, next_incoming, stage_plain, whole_max};
use crate::proto::frame::{Header, Kind, Tag};
use crate::proto::reassembly::{Message, Reassembly};
use crate::proto::status::{Code, encode_status};
use crate::ring::Ready;
use crate::server::methods::{CallContext, Handler, Methods};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
#[cfg(feature = "tokio")]
use {
    super::Item,
    crate::server::outlet::{Account, ByteItemSender},
    std::collections::HashMap,
    std::task::{Context, Poll, Waker},
    tokio::{runtime::Handle, task::AbortHandle},
};

/// Records that a connection may take of a sweep before the next connection's turn.
const RECORDS_PER_TURN: usize = 256;

/// A reply buffer larger than this is not kept for the next call.
const KEPT_REPLY: usize = 256 << 10;

/// What serving needs of the worker.
pub(super) struct Bench {
    pub(super) methods: Arc<Methods>,
    pub(super) mailbox: Arc<Mailbox>,
    /// Where requests are copied to.
    pub(super) request: Vec<u8>,
    /// Where sync handlers write replies to.
    pub(super) reply: Vec<u8>,
    #[cfg(feature = "tokio")]
    pub(super) runtime: Option<Handle>,
}

/// One connection. Owned by exactly one worker.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    reassembly: Reassembly,
    context: CallContext,
    key: usize,
    /// Answers for which the ring had no space. While there are any, no request is taken, so at
    /// most one sync reply and the replies of calls in flight wait here.
    outbox: VecDeque<Outgoing<Vec<u8>>>,
    /// Calls that went to the runtime.
    #[cfg(feature = "tokio")]
    running: HashMap<u64, RunningCall>,
    #[cfg(feature = "tokio")]
    max_in_flight: usize,
    /// When a sweep found something last, in the worker's ticks.
    pub(super) last_busy: u64,
}

/// A call that went to the runtime.
#[cfg(feature = "tokio")]
#[derive(Debug)]
struct RunningCall {
    abort: AbortHandle,
    one_way: bool,
    /// For calls that are answered by a stream.
    account: Option<Arc<Account>>,
}

impl Connection {
    pub(super) fn new(link: Link, key: usize, max_message: usize, max_in_flight: usize) -> Self {
        let context = CallContext {
            peer: link.shared.peer,
            connection: link.shared.terms.connection_id,
            deadline: None,
        };
        #[cfg(not(feature = "tokio"))]
        let _ = max_in_flight;
        Self {
            link,
            reassembly: Reassembly::new(max_message),
            context,
            key,
            outbox: VecDeque::new(),
            #[cfg(feature = "tokio")]
            running: HashMap::new(),
            #[cfg(feature = "tokio")]
            max_in_flight,
            last_busy: 0,
        }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// The connection's number.
    pub(super) fn id(&self) -> u64 {
        self.context.connection
    }

    /// Calls that are not answered yet.
    pub(super) fn in_flight(&self) -> usize {
        #[cfg(feature = "tokio")]
        return self.running.len() + self.outbox.len();
        #[cfg(not(feature = "tokio"))]
        self.outbox.len()
    }

    /// Whether requests may be taken: answers find space, and calls in flight are not too many.
    fn takes_requests(&self) -> bool {
        #[cfg(feature = "tokio")]
        if self.running.len() >= self.max_in_flight {
            return false;
        }
        self.outbox.is_empty()
    }

    /// Whether a turn would find something to do.
    #[inline(always)]
    pub(super) fn is_ready(&mut self) -> bool {
        if self.takes_requests() {
            return self.link.rx.ready() != Ready::Empty;
        }
        match self.outbox.front() {
            Some(first) => self.link.tx.is_ready(first.next_len()),
            None => false,
        }
    }

    /// Takes what is there, up to a turn's worth, and answers what can be answered at once.
    /// Returns whether there was anything.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    #[inline(always)]
    pub(super) fn turn(&mut self, bench: &mut Bench) -> Small<bool> {
        if !self.takes_requests() && !self.flush_outbox()? {
            return Ok(false);
        }
        let mut taken = 0;
        while taken < RECORDS_PER_TURN {
            match next_incoming(&mut self.link.rx, &mut self.reassembly, &mut bench.request)? {
                Some(Incoming::Request {
                    method,
                    id,
                    payload,
                }) => {
                    let Some(Handler::Sync(handler)) = bench.methods.get(method) else {
                        let payload = payload.to_vec();
                        self.take_other(bench, Header::request(method, id), payload)?;
                        taken += 1;
                        if !self.takes_requests() {
                            break;
                        }
                        continue;
                    };
                    bench.reply.clear();
                    let (context, reply) = (&self.context, &mut bench.reply);
                    let result =
                        catch_unwind(AssertUnwindSafe(|| handler(context, payload, reply)));
                    taken += 1;
                    if let Ok(Ok(())) = result
                        && bench.reply.len() <= whole_max(&self.link.tx)
                        && stage_plain(&mut self.link.tx, Tag::reply(), id, &bench.reply)?
                    {
                        continue;
                    }
                    self.answer_slowly(bench, id, result)?;
                }
                Some(Incoming::Message(message)) => {
                    taken += 1;
                    let Message { header, payload } = message;
                    let payload = payload.into_owned();
                    self.take_other(bench, header, payload)?;
                }
                Some(Incoming::Partial) => {
                    taken += 1;
                    continue;
                }
                Some(Incoming::Reply { .. }) => {
                    return Err(self.unexpected("a reply"));
                }
                None => break,
            }
            if !self.takes_requests() {
                break;
            }
        }
        self.link.tx.publish();
        if taken == 0 {
            self.link.rx.release();
            if self.link.rx.ready() == Ready::Closed {
                return Err(Box::new(Error::Closed {
                    reason: CloseReason::Finished,
                }));
            }
        }
        Ok(taken > 0)
    }

    /// The answer of a call that moved to the runtime.
    #[cfg(feature = "tokio")]
    pub(super) fn answer_late(&mut self, answer: Answer) -> Small<()> {
        match self.running.remove(&answer.request) {
            Some(call) if call.account.is_some() => {
                self.end_stream(answer.request, answer.result.map(drop))?;
            }
            Some(call) if !call.one_way => self.answer(answer.request, answer.result)?,
            // Cancelled and answered meanwhile, or nobody waits for it.
            _ => {}
        }
        self.link.tx.publish();
        Ok(())
    }
    /// An item of a stream. Credits bound how many of them can wait in the outbox.
    #[cfg(feature = "tokio")]
    pub(super) fn send_item(&mut self, item: Item) -> Small<()> {
        if !self.running.contains_key(&item.request) {
            return Ok(());
        }
        self.send(Header::new(Kind::StreamItem, item.request), item.payload)?;
        self.link.tx.publish();
        Ok(())
    }

    /// The end of a stream.
    #[cfg(feature = "tokio")]
    fn end_stream(&mut self, id: u64, result: Result<(), Status>) -> Small<()> {
        let status = result.err().unwrap_or_else(|| Status::new(Code::OK, ""));
        let (_, payload) = error_frame(id, &status);
        self.send(Header::new(Kind::StreamEnd, id), payload)
    }

    /// Announces that the worker will sleep until this connection has something. False: only for
    /// a moment (see `waiter`).
    pub(super) fn arm(&mut self) -> bool {
        if self.takes_requests() {
            self.link.rx.arm()
        } else if self.outbox.is_empty() {
            true
        } else {
            self.link.tx.arm()
        }
    }

    pub(super) fn disarm(&mut self) {
        self.link.rx.disarm();
        self.link.tx.disarm();
    }

    /// The connection ends: calls in flight are dropped, the peer sees the end of the ring and the
    /// reason.
    pub(super) fn close(mut self, reason: CloseReason) {
        #[cfg(feature = "tokio")]
        for (_, call) in self.running.drain() {
            call.abort.abort();
            call.account.iter().for_each(|account| account.close());
        }
        if !matches!(reason, CloseReason::Violation(_)) {
            self.link.tx.close();
        }
        self.link.shared.close(reason);
    }

    /// Sends what waits. True if nothing waits any more.
    fn flush_outbox(&mut self) -> Small<bool> {
        while let Some(first) = self.outbox.front_mut() {
            if !first.stage(&mut self.link.tx)? {
                self.link.tx.publish();
                return Ok(false);
            }
            self.outbox.pop_front();
        }
        self.link.tx.publish();
        Ok(self.takes_requests())
    }

    /// Everything but a plain request to a sync handler.
    #[cold]
    #[inline(never)]
    fn take_other(&mut self, bench: &mut Bench, header: Header, payload: Vec<u8>) -> Small<()> {
        match header.kind {
            Kind::Request => self.take_request(bench, header, payload),
            Kind::Cancel => {
                #[cfg(feature = "tokio")]
                if let Some(call) = self.running.remove(&header.request_id) {
                    call.abort.abort();
                    let status = Status::new(Code::CANCELLED, "");
                    if let Some(account) = call.account {
                        account.close();
                        return self.end_stream(header.request_id, Err(status));
                    }
                    if !call.one_way {
                        return self.answer(header.request_id, Err(status));
                    }
                }
                Ok(())
            }
            #[cfg(feature = "tokio")]
            Kind::Credit => {
                let credits = payload
                    .first_chunk()
                    .map_or(0, |bytes| u32::from_le_bytes(*bytes));
                let call = self.running.get(&header.request_id);
                if let Some(account) = call.and_then(|call| call.account.as_ref()) {
                    account.grant(credits);
                }
                Ok(())
            }
            Kind::Ping => {
                let pong = Header::new(Kind::Pong, 0);
                self.outbox
                    .push_back(Outgoing::new(&self.link.tx, pong, payload));
                self.flush_outbox().map(drop)
            }
            Kind::Pong => Ok(()),
            Kind::Finish => Err(Box::new(Error::Closed {
                reason: CloseReason::Finished,
            })),
            other => Err(self.unexpected(&format!("a {other:?} frame"))),
        }
    }

    fn take_request(&mut self, bench: &mut Bench, header: Header, payload: Vec<u8>) -> Small<()> {
        let id = header.request_id;
        let methods = bench.methods.clone();
        let Some(handler) = methods.get(header.method) else {
            let text = format!("the server has no method number {}", header.method);
            return self.answer_request(&header, Err(Status::new(Code::UNKNOWN_METHOD, text)));
        };
        let mut context = self.context.clone();
        context.deadline = header
            .deadline_ns
            .map(|left| Instant::now() + Duration::from_nanos(left));
        if header.deadline_ns == Some(0) {
            let status = Status::new(Code::DEADLINE_EXCEEDED, "");
            return self.answer_request(&header, Err(status));
        }
        match handler {
            Handler::Sync(handler) => {
                bench.reply.clear();
                let reply = &mut bench.reply;
                let result = catch_unwind(AssertUnwindSafe(|| handler(&context, &payload, reply)));
                if header.one_way {
                    return Ok(());
                }
                self.answer_slowly(bench, id, result)
            }
            #[cfg(feature = "tokio")]
            Handler::Stream(start) => {
                let account = Arc::new(Account::new(self.link.shared.terms.stream_credits));
                let outlet = ByteItemSender {
                    account: account.clone(),
                    mailbox: bench.mailbox.clone(),
                    key: self.key,
                    connection: self.id(),
                    request: id,
                    max_item: self.link.shared.terms.max_message_out,
                };
                match catch_unwind(AssertUnwindSafe(|| start(context, payload, outlet))) {
                    Ok(call) => self.move_to_runtime(bench, id, call, header, Some(account)),
                    Err(panic) => self.end_stream(id, Err(panicked(&*panic))),
                }
            }
            #[cfg(feature = "tokio")]
            Handler::Async(start) => {
                let started = catch_unwind(AssertUnwindSafe(|| {
                    let mut call = start(context, payload);
                    // Wake-ups meanwhile are not lost: a call that is not ready is spawned, and
                    // spawning polls it again.
                    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    (call, polled)
                }));
                match started {
                    Ok((_, Poll::Ready(result))) => self.answer_request(&header, result),
                    Ok((call, Poll::Pending)) => {
                        self.move_to_runtime(bench, id, call, header, None)
                    }
                    Err(panic) => self.answer_request(&header, Err(panicked(&*panic))),
                }
            }
        }
    }

    /// A call that is not ready goes on in the runtime and comes back as an [`Answer`].
    #[cfg(feature = "tokio")]
    fn move_to_runtime(
        &mut self,
        bench: &mut Bench,
        id: u64,
        call: crate::server::methods::Running,
        header: Header,
        account: Option<Arc<Account>>,
    ) -> Small<()> {
        let Some(runtime) = &bench.runtime else {
            let text = "the server has no runtime for async handlers";
            return self.answer_request(&header, Err(Status::new(Code::INTERNAL, text)));
        };
        if self.running.contains_key(&id) {
            return Err(self.unexpected(&format!("call {id} twice at a time")));
        }
        let (key, connection) = (self.key, self.id());
        let mailbox = bench.mailbox.clone();
        let left = header.deadline_ns.map(Duration::from_nanos);
        let guarded = async move {
            match left {
                None => call.await,
                Some(left) => tokio::time::timeout(left, call).await.unwrap_or_else(|_| {
                    Err(Status::new(
                        Code::DEADLINE_EXCEEDED,
                        "the handler was still busy",
                    ))
                }),
            }
        };
        // One task, so that an abort drops the handler's future; a panic in it is caught by the
        // second, which only waits for the first.
        let task = runtime.spawn(guarded);
        let abort = task.abort_handle();
        self.running.insert(
            id,
            RunningCall {
                abort,
                one_way: header.one_way,
                account,
            },
        );
        runtime.spawn(async move {
            let result = match task.await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => Err(panicked(&*panic)),
                    Err(_) => return,
                },
            };
            mailbox.post(super::Mail::Answer(Answer {
                key,
                connection,
                request: id,
                result,
            }));
        });
        Ok(())
    }

    /// Answers a call whose reply is not plain, or found no space.
    #[cold]
    #[inline(never)]
    fn answer_slowly(
        &mut self,
        bench: &mut Bench,
        id: u64,
        result: std::thread::Result<Result<(), Status>>,
    ) -> Small<()> {
        let result = match result {
            Ok(Ok(())) => Ok(std::mem::take(&mut bench.reply)),
            Ok(Err(status)) => Err(status),
            Err(panic) => Err(panicked(&*panic)),
        };
        self.answer(id, result)?;
        if bench.reply.capacity() > KEPT_REPLY {
            bench.reply = Vec::new();
        }
        Ok(())
    }
    /// Answers a request, unless the caller wants no answer.
    fn answer_request(&mut self, header: &Header, result: Result<Vec<u8>, Status>) -> Small<()> {
        if header.one_way {
            return Ok(());
        }
        self.answer(header.request_id, result)
    }

    fn answer(&mut self, id: u64, result: Result<Vec<u8>, Status>) -> Small<()> {
        let limit = self.link.shared.terms.max_message_out;
        let (header, payload) = match result {
            Ok(reply) if reply.len() as u64 <= limit => (Header::reply(id), reply),
            Ok(reply) => {
                let text = format!(
                    "the reply has {} bytes, the caller accepts {limit}",
                    reply.len()
                );
                error_frame(id, &Status::new(Code::REPLY_TOO_LARGE, text))
            }
            Err(status) => error_frame(id, &status),
        };
        self.send(header, payload)
    }

    /// Sends a message, or as much of it as fits; the rest waits.
    fn send(&mut self, header: Header, payload: Vec<u8>) -> Small<()> {
        self.outbox
            .push_back(Outgoing::new(&self.link.tx, header, payload));
        if self.outbox.len() == 1 {
            self.flush_outbox()?;
        }
        Ok(())
    }
    #[cold]
    fn unexpected(&self, what: &str) -> Box<Error> {
        let text = format!("the client sent {what}, which a server does not take");
        self.link.shared.violated(Violation::Frame(text)).into()
    }
}

fn error_frame(id: u64, status: &Status) -> (Header, Vec<u8>) {
    let (code, text) = encode_status(status.code, &status.message);
    let mut payload = code.to_vec();
    payload.extend_from_slice(text);
    (Header::new(Kind::Error, id), payload)
}

/// What the caller is told about a handler that panicked.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Status {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        _ => "no message",
    };
    Status::new(
        Code::HANDLER_PANICKED,
        format!("the handler panicked: {text}"),
    )
}
