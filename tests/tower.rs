//! tower's layers over both sides of calls between processes.

#![cfg(all(target_os = "linux", feature = "tower"))]

mod support;
mod transports;

use nearwire::service::Request;
use nearwire::{Client, Code, Error, Pool, Server, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use support::child::{Commands, say};
use support::{PATIENCE, Place, Settings, eventually_async, multi_thread, within};
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceBuilder, ServiceExt};

const NAME: &str = "layers";
const BEHIND: &str = "behind";

#[test]
fn child_process() {
    support::play(&[("layers", layers), ("front", front)]);
}

/// Serves `plain`, and `limited`/`also_limited` with two calls at a time, the others turned away,
/// and 300 ms for each. A call takes as many ms as its request says.
fn layers(_: &Settings, commands: Commands) {
    let runtime = multi_thread();
    let _inside = runtime.enter();
    let running = Arc::new(AtomicUsize::new(0));
    let counted = running.clone();
    let work = tower::service_fn(move |request: Request| {
        let guard = Running::new(&counted);
        async move {
            let context = request.context().expect("the server's side");
            assert_ne!(context.peer.pid, std::process::id());
            let text = std::str::from_utf8(request.payload()).unwrap();
            let Ok(ms) = text.parse() else {
                return Err(Status::new(Code::INVALID_ARGUMENT, text));
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            drop(guard);
            Ok(format!("{} {ms}", request.method()).into_bytes())
        }
    });
    let limited = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .timeout(Duration::from_millis(300))
        .service(work.clone());
    let _server = Server::builder()
        .service("plain", work)
        .services(["limited", "also_limited"], limited)
        .bind(NAME)
        .unwrap();
    say("ready");
    loop {
        assert_eq!(commands.next(), "report");
        say(format!("running={}", running.load(Relaxed)));
    }
}

/// Serves what another server does, through a pool.
fn front(_: &Settings, commands: Commands) {
    let runtime = multi_thread();
    let _inside = runtime.enter();
    let pool = Pool::builder().acquire_timeout(Duration::from_millis(50));
    let pool = pool.build(NAME).unwrap();
    let _server = Server::builder()
        .services(["plain", "limited"], pool)
        .bind(BEHIND)
        .unwrap();
    say("ready");
    commands.wait();
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn within_threads(what: &str, body: impl Future<Output = ()> + Send + 'static) {
    within(PATIENCE, what, move || multi_thread().block_on(body));
}

fn code(error: &Error) -> Code {
    match error {
        Error::Status(status) => status.code,
        other => panic!("{other:?}"),
    }
}

/// One call on a service, a clone of it.
async fn call<S, E>(service: &S, method: &'static str, ms: &str) -> Result<Vec<u8>, E>
where
    S: Service<Request, Response = Vec<u8>, Error = E> + Clone,
{
    service.clone().oneshot(Request::new(method, ms)).await
}

/// What the server's layers do, seen through a client or a pool as a service.
async fn server_side<S>(service: S, server: &support::Process)
where
    S: Service<Request, Response = Vec<u8>, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    assert_eq!(call(&service, "plain", "1").await.unwrap(), b"plain 1");
    assert_eq!(
        call(&service, "also_limited", "2").await.unwrap(),
        b"also_limited 2"
    );
    let error = call(&service, "plain", "soon").await.unwrap_err();
    assert_eq!(code(&error), Code::INVALID_ARGUMENT);
    let error = call(&service, "limited", "60000").await.unwrap_err();
    assert_eq!(code(&error), Code::DEADLINE_EXCEEDED, "{error}");
    eventually_async("it is dropped", || server.report()["running"] == 0).await;
    // Two at a time over both methods; the third is turned away.
    let held: Vec<_> = ["limited", "also_limited"]
        .into_iter()
        .map(|method| {
            let service = service.clone();
            tokio::spawn(async move { call(&service, method, "280").await })
        })
        .collect();
    eventually_async("two are running", || server.report()["running"] == 2).await;
    let error = call(&service, "limited", "1").await.unwrap_err();
    assert_eq!(code(&error), Code::RESOURCE_EXHAUSTED, "{error}");
    assert_eq!(call(&service, "plain", "1").await.unwrap(), b"plain 1");
    for call in held {
        // Or timed out, on a machine that is busy.
        if let Err(error) = call.await.unwrap() {
            assert_eq!(code(&error), Code::DEADLINE_EXCEEDED, "{error}");
        }
    }
    // The caller's own deadline, and its giving up, reach the service.
    let request = Request::new("plain", "60000").deadline(Duration::from_millis(30));
    let error = service.clone().oneshot(request).await.unwrap_err();
    assert!(
        matches!(error, Error::DeadlineExceeded) || code(&error) == Code::DEADLINE_EXCEEDED,
        "{error}"
    );
    eventually_async("it is dropped", || server.report()["running"] == 0).await;
}

/// The same layers, on the caller's side.
async fn client_side<S>(service: S, server: &support::Process)
where
    S: Service<Request, Response = Vec<u8>, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let layered = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .timeout(Duration::from_millis(300))
        .service(service);
    assert_eq!(call(&layered, "plain", "1").await.unwrap(), b"plain 1");
    let error = call(&layered, "plain", "soon").await.unwrap_err();
    assert_eq!(code(error.downcast_ref().unwrap()), Code::INVALID_ARGUMENT);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let layered = layered.clone();
            tokio::spawn(async move { call(&layered, "plain", "60000").await })
        })
        .collect();
    eventually_async("two are running", || server.report()["running"] == 2).await;
    // Unless the time of the two is over already, on a machine that is busy.
    if let Err(error) = call(&layered, "plain", "1").await {
        assert!(error.is::<Overloaded>(), "{error}");
    }
    for call in held {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is::<Elapsed>(), "{error}");
    }
    eventually_async("they are cancelled", || server.report()["running"] == 0).await;
    assert_eq!(call(&layered, "plain", "1").await.unwrap(), b"plain 1");
}

#[test]
fn layers_over_a_client() {
    let place = Place::new();
    let mut server = place.start_ready("layers", &[]);
    let name = place.socket(NAME);
    within_threads("a client", async move {
        let mut client = Client::connect(&name).await.unwrap();
        server_side(client.clone(), &server).await;
        client_side(client.clone(), &server).await;
        server.kill();
        server.ended();
        client.closed().await;
        let error = client.ready().await.unwrap_err();
        assert!(!error.may_have_executed(), "{error}");
    });
}

#[test]
fn layers_over_a_pool() {
    let place = Place::new();
    let mut server = place.start_ready("layers", &[]);
    let name = place.socket(NAME);
    within_threads("a pool", async move {
        let pool = Pool::connect(&name).await.unwrap();
        server_side(pool.clone(), &server).await;
        client_side(pool.clone(), &server).await;
        server.kill();
        server.ended();
        server = place.start_ready("layers", &[]);
        let request = Request::new("plain", "1").idempotent();
        assert_eq!(pool.clone().oneshot(request).await.unwrap(), b"plain 1");
        drop(server);
    });
}

#[test]
fn a_pool_is_served_by_another_server() {
    let place = Place::new();
    let mut server = place.start_ready("layers", &[]);
    let _front = place.start_ready("front", &[]);
    let name = place.socket(BEHIND);
    within_threads("a front", async move {
        let client = Client::connect(&name).await.unwrap();
        assert_eq!(call(&client, "plain", "1").await.unwrap(), b"plain 1");
        let error = call(&client, "plain", "soon").await.unwrap_err();
        assert_eq!(code(&error), Code::INVALID_ARGUMENT);
        let error = call(&client, "limited", "60000").await.unwrap_err();
        assert_eq!(code(&error), Code::DEADLINE_EXCEEDED);
        server.kill();
        server.ended();
        let error = loop {
            // The first may be told of a connection that died under it, as unavailable too.
            let error = call(&client, "plain", "1").await.unwrap_err();
            if error.to_string().contains("no connection") {
                break error;
            }
            assert_eq!(code(&error), Code::UNAVAILABLE, "{error}");
        };
        assert_eq!(code(&error), Code::UNAVAILABLE, "{error}");
    });
}
