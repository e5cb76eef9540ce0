//! Clients and pools as [`tower::Service`]s, and tower services as a server's methods.
//!
//! One [`Request`] serves both sides, so a server can hand calls on to another server by serving a
//! [`Client`] or a [`Pool`]:
//!
//! ```no_run
//! # async fn example() -> nearwire::Result<()> {
//! use nearwire::{Pool, Server};
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//!
//! let search = ServiceBuilder::new()
//!     .load_shed()
//!     .concurrency_limit(64)
//!     .timeout(Duration::from_millis(200))
//!     .service(Pool::connect("search").await?);
//! let server = Server::builder().services(["find", "suggest"], search).bind("front")?;
//! server.serve_until(tokio::signal::ctrl_c()).await
//! # }
//! ```

use crate::client::{Call, Client};
use crate::error::{Error, Result, Status};
use crate::pool::Pool;
use crate::proto::status::Code;
use crate::server::{CallContext, ServerBuilder};
use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tower::{BoxError, Service};

/// A unary call: a method's name and the request's bytes.
#[derive(Debug, Clone)]
pub struct Request {
    method: Cow<'static, str>,
    payload: Vec<u8>,
    deadline: Option<Duration>,
    idempotent: bool,
    context: Option<CallContext>,
}

impl Request {
    /// A request for a client or a pool.
    pub fn new(method: impl Into<Cow<'static, str>>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            method: method.into(),
            payload: payload.into(),
            deadline: None,
            idempotent: false,
            context: None,
        }
    }

    /// Gives the call this much time, as [`Call::deadline`] does.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// Says that the call may be executed twice without harm; see
    /// [`PoolCall::idempotent`](crate::PoolCall::idempotent). A [`Client`] makes no use of it.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The method's name.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The request's bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The request's bytes, taken out.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The time that the call has, if it is limited. On the server's side: what was left when it
    /// began.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline
    }

    /// Who calls; on the server's side only.
    pub fn context(&self) -> Option<&CallContext> {
        self.context.as_ref()
    }
}

/// Ready while the connection is open. A call beyond the connection's limit of calls in flight
/// waits for a place: to have it turned away, put `concurrency_limit` and `load_shed` on top.
impl Service<Request> for Client {
    type Response = Vec<u8>;
    type Error = Error;
    type Future = Call<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(self.usable())
    }

    fn call(&mut self, request: Request) -> Call<'static> {
        let call = self.call_with(&request.method, Cow::Owned(request.payload));
        match request.deadline {
            Some(time) => call.deadline(time),
            None => call,
        }
    }
}

/// Always ready: a call waits for a connection by itself.
impl Service<Request> for Pool {
    type Response = Vec<u8>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        let pool = self.clone();
        // The time runs from here, as in a call, not from the first poll.
        let end = request
            .deadline
            .and_then(|time| Instant::now().checked_add(time));
        ResponseFuture(Box::pin(async move {
            let mut call = pool.call_bytes(&request.method, &request.payload);
            if let Some(end) = end {
                call = call.deadline(end.saturating_duration_since(Instant::now()));
            }
            if request.idempotent {
                call = call.idempotent();
            }
            call.await
        }))
    }
}

/// The reply of a [`Pool`] as a service. Dropping it cancels the call.
#[must_use = "a call is sent when it is awaited"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>);

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

impl Future for ResponseFuture {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl ServerBuilder {
    /// Adds an async method that a tower service answers. Each call gets a clone of the service,
    /// waits until that is ready, and calls it; limits that clones share, as tower's do, are the
    /// method's. When the caller gives up or goes away, the future is dropped.
    ///
    /// An error becomes a [`Status`]: one that is a `Status` is taken as it is; a layer's time-out
    /// is [`Code::DEADLINE_EXCEEDED`], what a layer turned away because of load
    /// [`Code::RESOURCE_EXHAUSTED`], a server behind this one that is not there
    /// [`Code::UNAVAILABLE`]; anything else [`Code::UNKNOWN`] with its text.
    #[must_use]
    pub fn service<S>(self, name: &str, service: S) -> Self
    where
        S: Service<Request, Response = Vec<u8>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
    {
        // Services need not be Sync; only cloning goes through the lock.
        let service = Mutex::new(service);
        let method = name.to_owned();
        self.method_async_with(name, move |context, payload| {
            let mut service = service
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let request = Request {
                method: method.clone().into(),
                payload,
                deadline: context
                    .deadline
                    .map(|time| time.saturating_duration_since(Instant::now())),
                idempotent: false,
                context: Some(context),
            };
            async move {
                let ready = poll_fn(|cx| service.poll_ready(cx)).await;
                ready.map_err(|error| status(error.into()))?;
                let answer = service.call(request).await;
                answer.map_err(|error| status(error.into()))
            }
        })
    }

    /// Adds several methods that one tower service answers; [`Request::method`] tells them apart,
    /// and limits that clones share are theirs together. Otherwise as [`service`](Self::service).
    #[must_use]
    pub fn services<S>(self, names: impl IntoIterator<Item = impl AsRef<str>>, service: S) -> Self
    where
        S: Service<Request, Response = Vec<u8>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
    {
        names.into_iter().fold(self, |builder, name| {
            builder.service(name.as_ref(), service.clone())
        })
    }
}

/// What the caller is told about a service's error.
fn status(error: BoxError) -> Status {
    let error = match error.downcast::<Status>() {
        Ok(status) => return *status,
        Err(error) => error,
    };
    let code = match error.downcast_ref::<Error>() {
        Some(Error::Status(status)) => return status.clone(),
        Some(Error::DeadlineExceeded) => Code::DEADLINE_EXCEEDED,
        Some(Error::NoMethod { .. } | Error::WrongShape { .. }) => Code::UNIMPLEMENTED,
        Some(Error::NoConnection { .. } | Error::NoServer { .. } | Error::Closed { .. }) => {
            Code::UNAVAILABLE
        }
        Some(Error::TooLarge { .. }) => Code::OUT_OF_RANGE,
        _ if error.is::<tower::timeout::error::Elapsed>() => Code::DEADLINE_EXCEEDED,
        _ if error.is::<tower::load_shed::error::Overloaded>() => Code::RESOURCE_EXHAUSTED,
        _ => Code::UNKNOWN,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_meaning() {
        let not_found = Status::new(Code::NOT_FOUND, "no such index");
        assert_eq!(status(not_found.clone().into()), not_found);
        assert_eq!(status(Error::from(not_found.clone()).into()), not_found);
        let elapsed = tower::timeout::error::Elapsed::new();
        assert_eq!(status(elapsed.into()).code, Code::DEADLINE_EXCEEDED);
        let overloaded = tower::load_shed::error::Overloaded::new();
        assert_eq!(status(overloaded.into()).code, Code::RESOURCE_EXHAUSTED);
        let gone = Error::closed(crate::CloseReason::PeerGone);
        assert_eq!(status(gone.into()).code, Code::UNAVAILABLE);
        let other = status("something else".into());
        assert_eq!(
            (other.code, &*other.message),
            (Code::UNKNOWN, "something else")
        );
    }
}
