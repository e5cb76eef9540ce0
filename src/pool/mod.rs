//! A pool of connections to one server, which reconnects.
//!
//! One multiplexed [`Client`] carries any number of calls, so what most programs want of a pool is
//! that it comes back after the server was restarted. It also spreads calls over several
//! connections, which a server gives to different workers, when one is busy.
//!
//! - `roster`: what is decided, without sockets or clocks
//! - `backoff`: how long between attempts to connect
//! - `supervisor`: the task that does what the roster says
//! - `call`, `items`, `notification`: calls that find their connection, and another if need be

mod backoff;
mod call;
mod items;
#[cfg(feature = "bb8")]
mod manager;
mod notification;
mod roster;
#[cfg(all(test, shuttle))]
mod schedules;
mod supervisor;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use call::PoolCall;
#[cfg(feature = "serde")]
pub use call::TypedPoolCall;
pub use items::PoolByteItems;
#[cfg(feature = "serde")]
pub use items::PoolItems;
#[cfg(feature = "bb8")]
pub use manager::ConnectionManager;
pub use notification::PoolNotification;
pub use roster::PoolStats;

use crate::client::{ByteItemSink, ByteItems, ByteUpload, Client, ClientBuilder};
#[cfg(feature = "serde")]
use crate::client::{ItemSink, Items, Upload};
use crate::error::{Error, Executed, Result};
use crate::name::Place;
use crate::sync::{Mutex, MutexGuard};
use roster::{Choice, Remainder, Roster, Rules};
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use supervisor::{Connecting, Supervised, supervise};
use tokio::sync::Notify;

/// Connections to one server, kept up and replaced as need be. Cheap to clone; the connections
/// close with the last clone and its calls.
///
/// Calls go to the connection with the fewest in flight. While there is none, because the server
/// is being restarted, they wait for [`acquire_timeout`](PoolBuilder::acquire_timeout) or their
/// deadline. A call that is certain not to have been executed moves to another connection; one
/// that may have been is made again only if it is marked
/// [`idempotent`](PoolCall::idempotent). No method blocks the thread.
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::Pool;
/// use std::time::Duration;
///
/// let pool = Pool::connect("text").await?;
/// let reply = pool.call_bytes("reverse", b"wire").deadline(Duration::from_secs(1)).await?;
/// assert_eq!(reply, b"eriw");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// What clones of a pool share; not the supervisor, which ends with it.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// What the pool and its supervisor share.
struct Shared {
    name: String,
    acquire_timeout: Duration,
    ping_timeout: Duration,
    retries: u32,
    roster: Mutex<Roster<Client>>,
    /// Tells the supervisor to look.
    work: Notify,
    /// Tells waiting calls that there is a connection, or never will be.
    arrivals: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.lock().stats();
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("stats", &stats)
            .finish_non_exhaustive()
    }
}

impl roster::Connection for Client {
    fn load(&self) -> Option<usize> {
        self.load()
    }

    fn remainder(&self) -> Remainder {
        Box::new(self.remainder())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Roster<Client>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is opened any more; what is open closes with its calls.
    fn end(&self) {
        let mut roster = self.lock();
        roster.over = true;
        let look = roster.look(Instant::now());
        drop(roster);
        drop(look);
        self.work.notify_one();
        self.arrivals.notify_waiters();
    }

    /// A connection for a call, if there is one.
    fn choose(&self) -> Option<Choice<Client>> {
        let choice = self.lock().choose()?;
        if choice.grow {
            self.work.notify_one();
        }
        Some(choice)
    }

    /// The server takes no more calls on this connection.
    fn discard(&self, id: u64) {
        let mut roster = self.lock();
        let discarded = roster.discard(Instant::now(), id);
        roster.moved += 1;
        drop(roster);
        drop(discarded);
        self.work.notify_one();
    }

    /// Waits for a connection, until the acquire timeout or this time.
    async fn arrival(&self, deadline: Option<Instant>) -> Result<()> {
        let begun = Instant::now();
        let timeout = begun.checked_add(self.acquire_timeout);
        let until = timeout.into_iter().chain(deadline).min();
        let _waiting = Waiting::new(self);
        loop {
            let arrival = self.arrivals.notified();
            tokio::pin!(arrival);
            arrival.as_mut().enable();
            {
                let roster = self.lock();
                if roster.connections().any(|client| client.is_open()) {
                    return Ok(());
                }
                if roster.over {
                    break;
                }
            }
            match until {
                None => arrival.await,
                Some(until) => {
                    if tokio::time::timeout_at(until.into(), arrival)
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            }
        }
        Err(Error::NoConnection {
            waited: begun.elapsed(),
            executed: Executed::No,
            source: self.lock().last_error.clone(),
        })
    }
}

/// Counts a call that waits for a connection.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().waiting += 1;
        shared.work.notify_one();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Pool {
    /// A pool with the default settings, and waits until it is connected.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`] and [`ready`](Self::ready).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn connect(name: &str) -> Result<Self> {
        let pool = Self::builder().build(name)?;
        pool.ready().await?;
        Ok(pool)
    }

    /// The settings of a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    pub async fn ready(&self) -> Result<()> {
        self.handle.shared.arrival(None).await
    }

    /// The connection that the next call would go to. For what only a [`Client`] does, or for
    /// several calls that belong to one connection. It is not replaced when it ends.
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    pub async fn client(&self) -> Result<Client> {
        let shared = &self.handle.shared;
        loop {
            if let Some(choice) = shared.choose() {
                return Ok(choice.connection);
            }
            shared.arrival(None).await?;
        }
    }

    /// What the pool consists of at the moment, and what it has done so far.
    pub fn stats(&self) -> PoolStats {
        self.handle.shared.lock().stats()
    }

    /// A call with bytes, to be awaited. Nothing is sent before.
    ///
    /// The future gives what [`Client::call_bytes`] does, and [`Error::NoConnection`] if there is
    /// none for the acquire timeout, or until the deadline. Of an error,
    /// [`may_have_executed`](Error::may_have_executed) says whether the handler may have run.
    pub fn call_bytes<'a>(&self, method: &'a str, request: &'a [u8]) -> PoolCall<'a> {
        PoolCall::new(self.clone(), method, request)
    }

    /// A call with a request and a reply of serde types, to be awaited. Otherwise as
    /// [`call_bytes`](Self::call_bytes), and [`Error::Codec`]. The request is encoded when the
    /// call is sent, again if it must move.
    #[cfg(feature = "serde")]
    pub fn call<'a, R, Q>(&self, method: &'a str, request: &'a Q) -> TypedPoolCall<'a, Q, R>
    where
        Q: serde::Serialize + ?Sized,
        R: serde::de::DeserializeOwned,
    {
        TypedPoolCall::new(self.clone(), method, request)
    }

    /// Tells the server something and wants no answer, as [`Client::notify_bytes`] does. Waits for
    /// a connection as calls do. Whether it was executed, nobody knows.
    ///
    /// The future gives what that of [`call_bytes`](Self::call_bytes) does, what the handler says
    /// excepted.
    pub fn notify_bytes<'a>(&self, method: &'a str, request: &'a [u8]) -> PoolNotification<'a> {
        PoolNotification::new(self.clone(), method, request)
    }

    /// A call that is answered by a stream of byte strings, as [`Client::stream_bytes`]. Until the
    /// first item it moves, or is made again, as a call does; afterwards it belongs to its
    /// connection and ends with it.
    pub fn stream_bytes<'a>(&self, method: &'a str, request: &[u8]) -> PoolByteItems<'a> {
        PoolByteItems::new(self.clone(), method, Ok(request.to_vec()))
    }

    /// A call that is answered by a stream of serde types. Otherwise as
    /// [`stream_bytes`](Self::stream_bytes), and [`Error::Codec`].
    #[cfg(feature = "serde")]
    pub fn stream<'a, R: serde::de::DeserializeOwned>(
        &self,
        method: &'a str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> PoolItems<'a, R> {
        PoolItems::new(self.clone(), method, request)
    }

    /// A call that sends a stream of byte strings and gets one reply, on the least loaded
    /// connection. Waits for one as calls do. It belongs to that connection and ends with it.
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    pub async fn client_stream_bytes(&self, method: &str, request: &[u8]) -> Result<ByteUpload> {
        Ok(self.client().await?.client_stream_bytes(method, request))
    }

    /// A call with a stream of byte strings in either direction. Otherwise as
    /// [`client_stream_bytes`](Self::client_stream_bytes).
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    pub async fn bidirectional_bytes(
        &self,
        method: &str,
        request: &[u8],
    ) -> Result<(ByteItemSink, ByteItems)> {
        Ok(self.client().await?.bidirectional_bytes(method, request))
    }

    /// A call that sends a stream of serde types. Otherwise as
    /// [`client_stream_bytes`](Self::client_stream_bytes).
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    #[cfg(feature = "serde")]
    pub async fn client_stream<T: serde::Serialize, R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Result<Upload<T, R>> {
        Ok(self.client().await?.client_stream(method, request))
    }

    /// A call with a stream of serde types in either direction. Otherwise as
    /// [`client_stream_bytes`](Self::client_stream_bytes).
    ///
    /// # Errors
    /// [`Error::NoConnection`] after the acquire timeout.
    #[cfg(feature = "serde")]
    pub async fn bidirectional<T: serde::Serialize, R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &(impl serde::Serialize + ?Sized),
    ) -> Result<(ItemSink<T>, Items<R>)> {
        Ok(self.client().await?.bidirectional(method, request))
    }
}

/// The settings of a [`Pool`]; made by [`Pool::builder`].
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::{ClientBuilder, Pool};
/// use std::time::Duration;
///
/// let pool = Pool::builder()
///     .client(ClientBuilder::new().label("indexer"))
///     .max_size(8)
///     .idle_timeout(Some(Duration::from_secs(10)))
///     .build("search")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PoolBuilder {
    client: ClientBuilder,
    rules: Rules,
    ping_timeout: Duration,
    acquire_timeout: Duration,
    retries: u32,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            client: ClientBuilder::new(),
            rules: Rules {
                min_idle: 1,
                max_size: 4,
                grow_at: 32,
                idle_timeout: Some(Duration::from_secs(60)),
                max_lifetime: None,
                ping_every: None,
                backoff: Backoff::default(),
            },
            ping_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(5),
            retries: 3,
        }
    }
}

impl PoolBuilder {
    /// Sets how each connection is made.
    #[must_use]
    pub fn client(mut self, client: ClientBuilder) -> Self {
        self.client = client;
        self
    }

    /// Sets how many connections are kept open though nobody calls. Default: 1. With 0 the pool
    /// connects at the first call, and does not reconnect before the next.
    #[must_use]
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.rules.min_idle = connections;
        self
    }

    /// Sets how many connections calls are spread over at most. Default: 4. One that is being
    /// replaced may come on top, and such as only finish their calls.
    #[must_use]
    pub fn max_size(mut self, connections: usize) -> Self {
        self.rules.max_size = connections;
        self
    }

    /// Sets how many calls in flight on each connection make the pool open another. Default: 32.
    #[must_use]
    pub fn grow_at(mut self, calls: usize) -> Self {
        self.rules.grow_at = calls;
        self
    }

    /// Sets after which time without a call a connection is closed, down to
    /// [`min_idle`](Self::min_idle) of them; it may take a quarter longer. Default: 60 s. `None`
    /// is never.
    #[must_use]
    pub fn idle_timeout(mut self, time: Option<Duration>) -> Self {
        self.rules.idle_timeout = time;
        self
    }

    /// Sets after which time a connection is replaced; its calls in flight finish. Up to a tenth
    /// of it less, at random, so that not all are replaced at once. Default: `None`, never, for
    /// nothing between two processes of one machine grows stale.
    #[must_use]
    pub fn max_lifetime(mut self, time: Option<Duration>) -> Self {
        self.rules.max_lifetime = time;
        self
    }

    /// Pings each connection every `interval`. One that does not answer within `timeout` gets
    /// calls only while there is no other, and is replaced if the server takes a new connection.
    ///
    /// Default: no pings. The end of a server's process is known at once without them; they tell
    /// of one that lives and stands still: stopped, or a worker blocked by a handler
    /// ([`Client::ping`]). Each costs the server a wake-up if it is idle.
    #[must_use]
    pub fn health_check(mut self, interval: Duration, timeout: Duration) -> Self {
        self.rules.ping_every = Some(interval);
        self.ping_timeout = timeout;
        self
    }

    /// Sets how long a call waits for a connection at most, each time it needs one. Default: 5 s.
    #[must_use]
    pub fn acquire_timeout(mut self, time: Duration) -> Self {
        self.acquire_timeout = time;
        self
    }

    /// Sets the time between attempts to connect.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }

    /// Sets how often an idempotent call is made again because its connection died. Default: 3. A
    /// request that kills the server does so this often.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Starts the pool, in a task of the runtime that this is called in. It connects by itself;
    /// that no server is there yet is no error.
    ///
    /// # Errors
    /// [`Error::BadName`] for a name that cannot be one; [`Error::Setting`] for settings that make
    /// no sense.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn build(self, name: &str) -> Result<Pool> {
        Place::of(name)?;
        self.client.check()?;
        let settings = self.client.clone();
        let (pool, supervised) = self.assemble(name)?;
        let name = name.to_owned();
        let connect = move || -> Connecting {
            let (settings, name) = (settings.clone(), name.clone());
            Box::pin(async move { settings.connect(&name).await })
        };
        tokio::spawn(supervise(supervised, connect));
        Ok(pool)
    }

    /// A pool, and what somebody must [`supervise`].
    fn assemble(self, name: &str) -> Result<(Pool, Supervised)> {
        self.check()?;
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            acquire_timeout: self.acquire_timeout,
            ping_timeout: self.ping_timeout,
            retries: self.retries,
            roster: Mutex::new(Roster::new(self.rules)),
            work: Notify::new(),
            arrivals: Notify::new(),
        });
        let supervised = Supervised(shared.clone());
        let handle = Arc::new(Handle { shared });
        Ok((Pool { handle }, supervised))
    }

    fn check(&self) -> Result<()> {
        let rules = &self.rules;
        let backoff = &rules.backoff;
        let times = [rules.idle_timeout, rules.max_lifetime, rules.ping_every];
        let (setting, rule) = if rules.max_size == 0 {
            ("max_size", "at least 1")
        } else if rules.min_idle > rules.max_size {
            ("min_idle", "at most max_size")
        } else if rules.grow_at == 0 {
            ("grow_at", "at least 1")
        } else if times.into_iter().flatten().any(|time| time < SHORTEST) {
            let setting = "the interval of idle_timeout, max_lifetime or health_check";
            (setting, "at least 1 ms")
        } else if [backoff.first, backoff.max_absent, backoff.max_refused].contains(&Duration::ZERO)
        {
            ("each time of backoff", "above zero")
        } else {
            return Ok(());
        };
        Err(Error::Setting { setting, rule })
    }
}

/// Shorter intervals would keep a processor busy.
const SHORTEST: Duration = Duration::from_millis(1);
