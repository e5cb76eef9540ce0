//! The async client: many calls in flight on one connection, from any number of tasks.
//!
//! # Who receives
//! One task per connection, the *driver*, takes what arrives, stores it with the call that it
//! belongs to and wakes that call's task. While calls are pending it looks at the ring, letting
//! other tasks run in between; when the spin budget is used up, or nothing is pending, it sleeps
//! in the reactor.
//!
//! A call that is alone on its connection does not wait for the driver: it looks at the ring
//! itself, for a few microseconds, and mostly has its reply before another task would have run.
//! Whether a call is alone it finds out by letting other tasks run once; as long as that is so,
//! only every [`SOLO_CALLS`]th call asks again. Where other connections' calls wait on the same
//! thread, it looks once and lets them run, again and again, until the spin budget is used up.
//!
//! # Invariant: a pending call is looked after
//! Whoever leaves a call pending has woken the driver, or will be polled again at once. The driver
//! is never without a wake-up to come while calls are pending: it has asked to be polled again, or
//! it has announced its sleep to the server (`waiter`), which then rings the doorbell. A call that
//! exists but is not polled any more (an unlucky `select!`) hinders nobody.

mod call;
mod calls;
mod driver;
mod items;
mod notification;
mod place;
#[cfg(all(test, shuttle))]
pub(crate) mod schedules;
mod state;
mod turns;

pub use call::Call;
#[cfg(feature = "serde")]
pub use call::TypedCall;
pub use items::{ByteItemSink, ByteItems, ByteUpload};
#[cfg(feature = "serde")]
pub use items::{ItemSink, Items, Upload};
pub use notification::Notification;

use super::ClientBuilder;
use super::methods::{self, Method};
use crate::error::{Error, Result};
use crate::info::ConnectionInfo;
use crate::link::{AsyncWaiter, Link, Shared};
use crate::metrics::ClientMetrics;
use crate::proto::handshake::CallShape;
use crate::settings::Spin;
use crate::sync::Mutex;
use crate::sys::{Exclusive, Held};
use crate::waiter::{Looker, Spinner};
use driver::Driver;
use items::StreamCall;
use place::Request;
use state::State;
use std::borrow::Cow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use turns::Turns;

/// Calls that may be made alone in a row before one lets other tasks run first.
const SOLO_CALLS: u32 = 64;

/// Tasks that are woken between two times that the lock is held.
const WOKEN_TOGETHER: usize = 32;

/// A connection to a server, for calls from any number of tasks. Cheap to clone; clones share the
/// connection, which closes with the last of them and of their calls.
///
/// No method blocks the thread. A pending call polls the ring in place for the [`Spin`] budget,
/// letting other tasks run in between, and then sleeps in Tokio's reactor. Dropping a call's
/// future cancels the call.
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::Client;
/// use std::time::Duration;
///
/// let client = Client::connect("text").await?;
/// let reply = client.call_bytes("reverse", b"wire").deadline(Duration::from_millis(50)).await?;
/// assert_eq!(reply, b"eriw");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// What clones of a client, their calls and the driver share.
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    state: Exclusive<State>,
    /// Used by a call that looks at the ring in place; at most one does.
    solo: Mutex<Spinner>,
    /// This connection, among those whose rings are looked at on a thread.
    looker: Looker,
}

impl Core {
    #[inline(always)]
    fn lock(&self) -> Held<'_, State> {
        self.state.lock()
    }

    /// Ends a piece of work on the state: wakes, without the lock, whoever it is due to.
    // What is held is more than two words. Not inlined it would be written and copied for each call.
    #[inline(always)]
    fn unlock<'a>(&'a self, mut state: Held<'a, State>) {
        if state.to_wake.len() > 1 {
            return self.unlock_and_wake(state);
        }
        let last = state.to_wake.pop_front();
        drop(state);
        if let Some(last) = last {
            last.wake();
        }
    }

    /// The same where several are to be woken. They are taken out some at a time, so that the list keeps its
    /// memory: lists that come and go with every look, and are large now and then, make an allocator tidy up
    /// all that is small, and each reply is allocated (docs: tuning).
    #[inline(never)]
    fn unlock_and_wake<'a>(&'a self, mut state: Held<'a, State>) {
        while !state.to_wake.is_empty() {
            let woken: [Option<Waker>; WOKEN_TOGETHER] =
                std::array::from_fn(|_| state.to_wake.pop_front());
            drop(state);
            woken.into_iter().flatten().for_each(Waker::wake);
            state = self.lock();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.close();
        // The driver sees that nobody is left.
        if let Some(driver) = state.driver.take() {
            driver.wake();
        }
    }
}

impl Client {
    /// Connects with the default settings.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(name: &str) -> Result<Self> {
        ClientBuilder::new().connect(name).await
    }

    /// The settings to connect with.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    /// Must be called inside the runtime that is to watch the connection.
    pub(in crate::client) fn new(link: Link, spin: Spin, sampling: u32) -> Result<Self> {
        let (client, driver) = Self::with_driver(link, spin, sampling)?;
        tokio::spawn(driver);
        Ok(client)
    }

    /// A client, and the driver that somebody must run.
    fn with_driver(link: Link, spin: Spin, sampling: u32) -> Result<(Self, Driver)> {
        let shared = link.shared.clone();
        let spin = shared.spin(spin);
        // The driver spins by itself; the waiter is for sleeping only.
        let waiter = AsyncWaiter::new(shared.clone(), Spin::NEVER)?;
        let state = State::new(link, waiter, sampling);
        let turns = Turns::of_this_runtime();
        let core = Arc::new(Core {
            shared,
            // Where drivers take turns the runtime has one thread: this one, which all tasks run on.
            state: match turns {
                Some(_) => Exclusive::biased(state),
                None => Exclusive::new(state),
            },
            solo: Mutex::new(Spinner::new(spin)),
            looker: Looker::new(),
        });
        let driver = Driver::new(&core, spin, turns);
        Ok((Self { core }, driver))
    }

    /// Finds a method, to save the search by name in each call.
    ///
    /// # Errors
    /// [`Error::NoMethod`], with the names that there are.
    pub fn method(&self, name: &str) -> Result<Method> {
        methods::find(&self.core.shared, name)
    }

    /// The names of the server's methods.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.core
            .shared
            .terms
            .methods
            .iter()
            .map(|method| &*method.name)
    }

    /// What the connection is made of: who the server is, sizes, limits.
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo::of(&self.core.shared)
    }

    /// What this client and its clones have counted so far.
    pub fn metrics(&self) -> ClientMetrics {
        let solo = {
            let spinner = self.core.solo.lock().unwrap_or_else(|e| e.into_inner());
            spinner.record()
        };
        let state = self.core.lock();
        let (tx, rx) = (&state.link.tx, &state.link.rx);
        ClientMetrics {
            calls: state.begun,
            in_flight: state.in_flight(),
            bytes_sent: tx.bytes(),
            bytes_received: rx.bytes(),
            wakeups_sent: tx.rings() + rx.rings(),
            wakeups_saved: tx.publications().saturating_sub(tx.rings()),
            sleeps: state.waiter.sleeps(),
            spins_paid: solo.0 + state.driver_spins.0,
            spins_wasted: solo.1 + state.driver_spins.1,
            call_duration: state.latencies.histogram(),
            sampling: state.latencies.one_in(),
        }
    }

    /// Calls that are in flight on this connection.
    pub fn in_flight(&self) -> usize {
        self.core.lock().in_flight()
    }

    /// A call with bytes, to be awaited. Nothing is sent before.
    ///
    /// The future gives [`Error::NoMethod`] and [`Error::TooLarge`] before anything is sent;
    /// [`Error::Status`] if the handler says no; [`Error::Closed`] if the server is gone;
    /// [`Error::Protocol`] if it broke the protocol.
    pub fn call_bytes<'a>(&self, method: &str, request: &'a [u8]) -> Call<'a> {
        self.call_with(method, request.into())
    }

    /// As [`call_bytes`](Self::call_bytes), with a request that may be the call's own.
    pub(crate) fn call_with<'a>(&self, method: &str, request: Cow<'a, [u8]>) -> Call<'a> {
        let request = self.method(method).map(|m| Request::new(m, request));
        Call::new(self.core.clone(), request)
    }

    /// A call of a method found before. Otherwise as [`call_bytes`](Self::call_bytes).
    pub fn call_method<'a>(&self, method: Method, request: &'a [u8]) -> Call<'a> {
        Call::new(self.core.clone(), Ok(Request::new(method, request)))
    }

    /// A call with a request and a reply of serde types, to be awaited.
    ///
    /// The future gives what [`call_bytes`](Self::call_bytes) does, and [`Error::Codec`] if the
    /// request cannot be encoded or the reply is not an `R`.
    #[cfg(feature = "serde")]
    pub fn call<R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> TypedCall<R> {
        TypedCall::new(Call::new(
            self.core.clone(),
            self.typed_request(method, request),
        ))
    }

    /// Tells the server something and wants no answer, not even an error. To be awaited: ready when
    /// the request is on its way; waits while much else is.
    ///
    /// Afterwards the client may be dropped: the server takes what is in the ring all the same, but
    /// then drops async handlers that have not ended. What did not fit into the ring, and what a
    /// process had sent that was killed, may be lost.
    ///
    /// The future gives what [`call_bytes`](Self::call_bytes) does, what the handler says excepted.
    pub fn notify_bytes<'a>(&self, method: &str, request: &'a [u8]) -> Notification<'a> {
        Notification::new(self.core.clone(), self.method(method), request)
    }

    /// A call that is answered by a stream of byte strings. Nothing is sent before the stream is
    /// polled; dropping it cancels the call. The server sends only as much ahead as credits
    /// allow: 64 items or 4 MiB, whichever is less.
    ///
    /// The stream ends after the first error, which is any that
    /// [`call_bytes`](Self::call_bytes) gives.
    pub fn stream_bytes(&self, method: &str, request: &[u8]) -> ByteItems {
        let request = self.bytes_request(method, request);
        ByteItems::new(self.stream_call(request, CallShape::ServerStream))
    }

    /// A call that sends a stream of byte strings, besides the request, and gets one reply.
    pub fn client_stream_bytes(&self, method: &str, request: &[u8]) -> ByteUpload {
        let request = self.bytes_request(method, request);
        ByteUpload::new(self.stream_call(request, CallShape::ClientStream))
    }

    /// A call with a stream of byte strings in either direction. The halves may go to different
    /// tasks; the call is cancelled when both are dropped before its end.
    pub fn bidirectional_bytes(&self, method: &str, request: &[u8]) -> (ByteItemSink, ByteItems) {
        let request = self.bytes_request(method, request);
        let call = self.stream_call(request, CallShape::Bidirectional);
        (ByteItemSink::new(call.clone()), ByteItems::new(call))
    }

    /// A call that is answered by a stream of serde types. Otherwise as
    /// [`stream_bytes`](Self::stream_bytes), and [`Error::Codec`].
    #[cfg(feature = "serde")]
    pub fn stream<R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Items<R> {
        let request = self.typed_request(method, request);
        let call = self.stream_call(request, CallShape::ServerStream);
        Items::new(ByteItems::new(call))
    }

    /// A call that sends a stream of serde types, besides the request, and gets one reply.
    #[cfg(feature = "serde")]
    pub fn client_stream<T: serde::Serialize, R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Upload<T, R> {
        let request = self.typed_request(method, request);
        let call = self.stream_call(request, CallShape::ClientStream);
        Upload::new(ByteUpload::new(call))
    }

    /// A call with a stream of serde types in either direction. Otherwise as
    /// [`bidirectional_bytes`](Self::bidirectional_bytes).
    #[cfg(feature = "serde")]
    pub fn bidirectional<T: serde::Serialize, R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> (ItemSink<T>, Items<R>) {
        let request = self.typed_request(method, request);
        let call = self.stream_call(request, CallShape::Bidirectional);
        let sink = ItemSink::new(ByteItemSink::new(call.clone()));
        (sink, Items::new(ByteItems::new(call)))
    }

    /// Whether calls can be made: the connection is there, and the server has not said that it
    /// shuts down. Costs no system call.
    pub fn is_open(&self) -> bool {
        let state = self.core.lock();
        !state.over && !state.draining
    }

    /// Waits until [`is_open`](Self::is_open) is no longer true.
    pub async fn closed(&self) {
        std::future::poll_fn(|cx| self.poll_closed(cx)).await
    }

    /// Ready when [`is_open`](Self::is_open) is no longer true. Until then the task stays
    /// registered, whether or not this is polled again.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.core.lock();
        if state.over || state.draining {
            return Poll::Ready(());
        }
        state.want_end.retain(|waker| !waker.will_wake(cx.waker()));
        state.want_end.push(cx.waker().clone());
        Poll::Pending
    }

    /// Asks the server's worker for a sign of life, and waits for it. The answer comes in the
    /// order of the requests, after those that the server had to take before.
    ///
    /// That a server has died is known without asking ([`closed`](Self::closed)). This tells
    /// whether one that lives also takes requests: it does not while it is stopped, or while a
    /// handler blocks the worker that this connection belongs to.
    ///
    /// # Errors
    /// [`Error::Closed`] if the server is gone; [`Error::Status`] if it shuts down. It waits for as
    /// long as the server stands still: set a time limit.
    pub async fn ping(&self) -> Result<()> {
        let mut number = None;
        std::future::poll_fn(|cx| {
            let mut state = self.core.lock();
            let answered = state.poll_ping(&mut number, cx);
            self.core.unlock(state);
            answered
        })
        .await
    }

    /// # Errors
    /// Why no more calls can be made.
    #[cfg(feature = "tower")]
    pub(crate) fn usable(&self) -> Result<()> {
        let state = self.core.lock();
        match state.over || state.draining {
            true => Err(state.error()),
            false => Ok(()),
        }
    }

    /// Calls in flight; `None` when no more can be made.
    pub(crate) fn load(&self) -> Option<usize> {
        let state = self.core.lock();
        (!state.over && !state.draining).then(|| state.in_flight())
    }

    /// Counts calls in flight without keeping the connection; `None` when it is gone.
    pub(crate) fn remainder(&self) -> impl Fn() -> Option<usize> + Send + Sync + use<> {
        let core = Arc::downgrade(&self.core);
        move || Some(core.upgrade()?.lock().in_flight())
    }

    fn stream_call(&self, request: Result<Request<'static>>, shape: CallShape) -> StreamCall {
        StreamCall::new(self.core.clone(), request, shape)
    }

    fn bytes_request(&self, method: &str, request: &[u8]) -> Result<Request<'static>> {
        let method = self.method(method)?;
        Ok(Request::new(method, Cow::<[u8]>::Owned(request.to_vec())))
    }

    #[cfg(feature = "serde")]
    fn typed_request(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Result<Request<'static>> {
        let mut payload = Vec::new();
        crate::typed::append_request(&request, &mut payload)?;
        Ok(Request::new(
            self.method(method)?,
            Cow::<[u8]>::Owned(payload),
        ))
    }
}

impl ClientBuilder {
    /// Connects to a server, for calls from any number of tasks. The handshake runs on a blocking
    /// thread of the runtime.
    ///
    /// # Errors
    /// As [`connect_blocking`](Self::connect_blocking).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn connect(&self, name: &str) -> Result<Client> {
        let (settings, name) = (self.clone(), name.to_owned());
        let link = tokio::task::spawn_blocking(move || {
            settings.link(&name, crate::proto::mode::Mode::Calls)
        });
        let link = link.await.map_err(|_| {
            Error::io("connect: the runtime is shutting down")(std::io::ErrorKind::Other.into())
        })??;
        Client::new(link, self.spin, self.sampling)
    }
}
