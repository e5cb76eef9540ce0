//! The server that the tests call.

use crate::support::Settings;
use crate::support::child::{Commands, open_descriptors, say};
use nearwire::{
    ByteItemSender, CallContext, Code, ItemReceiver, ItemSender, Limits, PeerPolicy, Pin, Server,
    ServerBuilder, Spin, Status,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

/// The name that all test servers have, each in its test's directory.
pub const NAME: &str = "calls";

/// What handlers count, for the report.
#[derive(Debug, Default)]
struct Counters {
    /// Requests of `echo`.
    echoed: AtomicU64,
    /// Calls of `hang` and `endless` that began.
    started: AtomicU64,
    /// Their futures that were dropped.
    dropped: AtomicU64,
    /// Items that `endless` has sent.
    sent: AtomicU64,
    /// What `traceparent` would have said to the last notification.
    last_trace: Mutex<String>,
}

/// Counts the drop of a handler's future.
struct Dropped(Arc<Counters>);

impl Dropped {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.started.fetch_add(1, Relaxed);
        Self(counters.clone())
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Relaxed);
    }
}

/// A typed request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub customer: String,
    pub items: Vec<(u32, f64)>,
    pub note: Option<String>,
}

/// Its reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub customer: String,
    pub total: f64,
    pub counts: BTreeMap<u32, u64>,
}

/// What [`Order`] is answered with.
pub fn receipt(order: &Order) -> Receipt {
    let mut counts = BTreeMap::new();
    for (item, _) in &order.items {
        *counts.entry(*item).or_default() += 1;
    }
    Receipt {
        customer: order.customer.clone(),
        total: order.items.iter().map(|(_, price)| price).sum(),
        counts,
    }
}

/// Serves until told otherwise. Settings: `name`, `transport`, `spin` (never, always), `workers`, `pin` (auto, or a
/// processor), the limits, `handshake_ms`,
/// `sampling`, `refuse` (with this text), `panicking policy`, `slow policy` (in milliseconds).
pub fn serve(settings: &Settings, commands: Commands) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    quiet_about_panics_on_purpose();
    let counters = Arc::new(Counters::default());
    let builder = configure(methods(Server::builder(), &counters), settings);
    let name = settings.server(settings.text("name").unwrap_or(NAME));
    let server = builder.bind(&name).unwrap();
    say("ready");
    let mut server = Some(server);
    loop {
        let command = commands.next();
        match command.split_once(' ').unwrap_or((&command, "")) {
            ("report", _) => {
                let open = server.as_ref().map_or(0, |s| s.connections());
                report(&counters, open);
            }
            ("workers", _) => {
                let workers = server.as_ref().unwrap().workers();
                say(format!("{workers:?}"));
            }
            ("shutdown", grace) => {
                let grace = Duration::from_millis(grace.parse().unwrap());
                server.take().unwrap().shutdown(grace);
                say("shut down");
            }
            other => panic!("the server does not know {other:?}"),
        }
    }
}

/// Binds to the name that is given, and says how it went.
pub fn bind(settings: &Settings, commands: Commands) {
    match Server::builder().bind(settings.text("name").unwrap()) {
        Ok(_server) => {
            say("ready");
            commands.wait();
        }
        Err(error) => say(format!("{error:?} | {error}")),
    }
}

/// The caller's trace context, as text.
fn traceparent(context: &CallContext) -> String {
    let trace = context.trace.map(|trace| trace.to_string());
    trace.unwrap_or_else(|| "none".into())
}

fn report(counters: &Counters, connections: usize) {
    let Counters {
        echoed,
        started,
        dropped,
        sent,
        last_trace: _,
    } = counters;
    say(format!(
        "echoed={} started={} dropped={} sent={} connections={connections} descriptors={}",
        echoed.load(Relaxed),
        started.load(Relaxed),
        dropped.load(Relaxed),
        sent.load(Relaxed),
        open_descriptors(),
    ));
}

fn configure(mut builder: ServerBuilder, settings: &Settings) -> ServerBuilder {
    let mut limits = Limits::default();
    let fields = [
        ("max_connections", &mut limits.max_connections),
        ("max_message", &mut limits.max_message),
        ("max_in_flight", &mut limits.max_in_flight),
        ("max_running", &mut limits.max_running),
        ("min_ring", &mut limits.min_ring),
        ("max_ring", &mut limits.max_ring),
    ];
    for (name, field) in fields {
        *field = settings.number(name).unwrap_or(*field);
    }
    let rate = |name| settings.text(name).map(|rate| rate.parse().unwrap());
    limits.max_message_rate = rate("max_message_rate");
    limits.max_connect_rate = rate("max_connect_rate");
    if let Some(bytes) = settings.number("max_mapped") {
        limits.max_mapped = bytes as u64;
    }
    builder = builder.limits(limits);
    if let Some(transport) = settings.text("transport") {
        builder = builder.transport(crate::transports::of_name(transport));
    }
    if settings.text("spin") == Some("never") {
        builder = builder.spin(Spin::NEVER);
    }
    if settings.text("spin") == Some("always") {
        builder = builder.spin(Spin {
            budget: Duration::from_secs(60),
            adaptive: false,
        });
    }
    if let Some(workers) = settings.number("workers") {
        builder = builder.workers(workers);
    }
    if let Some(one_in) = settings.number("sampling") {
        builder = builder.sampling(one_in as u32);
    }
    match settings.text("pin") {
        None => {}
        Some("auto") => builder = builder.pin(Pin::Auto),
        Some(cpu) => builder = builder.pin(Pin::List(vec![cpu.parse().unwrap()])),
    }
    if let Some(time) = settings.millis("handshake_ms") {
        builder = builder.handshake_timeout(time);
    }
    if let Some(text) = settings.text("refuse") {
        let text = text.to_owned();
        builder = builder.peers(PeerPolicy::custom(move |_| Err(text.clone())));
    }
    if let Some(time) = settings.millis("slow policy") {
        builder = builder.peers(PeerPolicy::custom(move |_| {
            std::thread::sleep(time);
            Ok(())
        }));
    }
    if settings.has("panicking policy") {
        builder = builder.peers(PeerPolicy::custom(|_| panic!("on purpose")));
    }
    builder
}

fn methods(builder: ServerBuilder, counters: &Arc<Counters>) -> ServerBuilder {
    let counted = counters.clone();
    let (noted, told) = (counters.clone(), counters.clone());
    let builder = builder
        .method("echo", move |request: &[u8]| {
            counted.echoed.fetch_add(1, Relaxed);
            Ok(request.to_vec())
        })
        .method_into("echo_into", |_, request, reply| {
            reply.extend_from_slice(request);
            Ok(())
        })
        .method_async("echo_ready", |request| async move { Ok(request) })
        .method_async("echo_later", |request: Vec<u8>| async move {
            match request.len() % 3 {
                0 => tokio::task::yield_now().await,
                more => tokio::time::sleep(Duration::from_micros(300 * more as u64)).await,
            }
            Ok(request)
        })
        // So many bytes.
        .typed("bytes", |len: u64| Ok(vec![7u8; len as usize]))
        .method("raw_bytes", |len: &[u8]| {
            let len = u64::from_le_bytes(len.try_into().unwrap());
            Ok(vec![7; len as usize])
        })
        .method_into("traceparent", |context, _, reply| {
            reply.extend(traceparent(context).bytes());
            Ok(())
        })
        .method_into("note_trace", move |context, _, _| {
            *noted.last_trace.lock().unwrap() = traceparent(context);
            Ok(())
        })
        .method("last_trace", move |_| {
            Ok(told.last_trace.lock().unwrap().clone().into_bytes())
        })
        .method_async_with("traceparent_later", |context, _| async move {
            tokio::task::yield_now().await;
            Ok(traceparent(&context).into_bytes())
        })
        .method_into("who", |context, _, reply| {
            reply.extend(context.peer.pid.to_le_bytes());
            reply.extend(context.connection.to_le_bytes());
            Ok(())
        })
        .typed("order", |order: Order| match order.items.is_empty() {
            false => Ok(receipt(&order)),
            true => Err(Status::new(Code(1001), "nothing was ordered")),
        })
        .typed_async("order_async", |order: Order| async move {
            tokio::task::yield_now().await;
            Ok(receipt(&order))
        })
        .typed_async("sleep_ms", |ms: u64| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(ms)
        })
        // The worker serves nobody meanwhile.
        .typed("block_ms", |ms: u64| {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(ms)
        })
        .method("fail", |_| {
            Err(Status::new(Code::NOT_FOUND, "no such thing\n\u{1b}[31m"))
        })
        .method("claim_not_executed", |_| {
            Err(Status::new(Code::DRAINING, "so I say"))
        });
    streams(panics(hangs(builder, counters)), counters)
}

fn hangs(builder: ServerBuilder, counters: &Arc<Counters>) -> ServerBuilder {
    let counted = counters.clone();
    builder.method_async("hang", move |_| {
        let dropped = Dropped::new(&counted);
        async move {
            std::future::pending::<()>().await;
            drop(dropped);
            Ok(vec![])
        }
    })
}

fn panics(builder: ServerBuilder) -> ServerBuilder {
    builder
        .method("panic_sync", |_| panic!("on purpose: sync"))
        .method_async("panic_start", |_| -> std::future::Ready<_> {
            panic!("on purpose: start")
        })
        .method_async("panic_first", |request| async move {
            assert!(request.len() > 100, "on purpose: first");
            Ok(request)
        })
        .method_async("panic_later", |request: Vec<u8>| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(request.len() > 100, "on purpose: later");
            Ok(request)
        })
        .method_async("panic_drop", |_| PanicsWhenDropped)
        .streaming_bytes("panic_stream", |_, mut items| async move {
            items.send("one").await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
            panic!("on purpose: stream")
        })
        .streaming_bytes("panic_stream_start", |_, _| -> std::future::Ready<_> {
            panic!("on purpose: stream start")
        })
}

/// A handler's future that is ready and then panics.
struct PanicsWhenDropped;

impl Future for PanicsWhenDropped {
    type Output = Result<Vec<u8>, Status>;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::task::Poll::Ready(Ok(b"ready".to_vec()))
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("on purpose: drop");
    }
}

fn streams(builder: ServerBuilder, counters: &Arc<Counters>) -> ServerBuilder {
    let counted = counters.clone();
    let leaked: Arc<Mutex<Vec<ByteItemSender>>> = Arc::default();
    builder
        .streaming("count", |to: u64, mut items: ItemSender<u64>| async move {
            for n in 0..to {
                items.send(&n).await?;
            }
            Ok(())
        })
        // So many items of so many bytes, each a pattern of its number.
        .streaming(
            "patterns",
            |(count, len): (u64, u64), mut items: ItemSender<Vec<u8>>| async move {
                for n in 0..count {
                    items
                        .send(&crate::support::pattern(n, len as usize))
                        .await?;
                }
                Ok(())
            },
        )
        .streaming(
            "count_slowly",
            |(to, ms): (u64, u64), mut items: ItemSender<u64>| async move {
                for n in 0..to {
                    items.send(&n).await?;
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                Ok(())
            },
        )
        .streaming(
            "fail_after",
            |count: u64, mut items: ItemSender<u64>| async move {
                for n in 0..count {
                    items.send(&n).await?;
                }
                Err(Status::new(Code::DATA_LOSS, "that was all"))
            },
        )
        .streaming(
            "endless",
            move |len: u64, mut items: ItemSender<Vec<u8>>| {
                let counted = counted.clone();
                async move {
                    let _dropped = Dropped::new(&counted);
                    let item = vec![9; len as usize];
                    loop {
                        items.send(&item).await?;
                        counted.sent.fetch_add(1, Relaxed);
                    }
                }
            },
        )
        // The sum of the items, after the caller has sent them all.
        .client_streaming("sum", |start: u64, mut items: ItemReceiver<u64>| async move {
            let mut sum = start;
            while let Some(item) = items.next().await {
                sum = sum.wrapping_add(item?);
            }
            Ok(sum)
        })
        // The bytes of all items, joined; slowly, if so said.
        .client_streaming_bytes("join", |pause: Vec<u8>, mut items| async move {
            let mut joined = Vec::new();
            while let Some(item) = items.next().await {
                joined.extend(item?);
                if let [ms] = pause[..] {
                    tokio::time::sleep(Duration::from_millis(ms.into())).await;
                }
            }
            Ok(joined)
        })
        // Answers after so many items, and takes no more.
        .client_streaming("first", |count: u64, mut items: ItemReceiver<u64>| async move {
            let mut got = Vec::new();
            while (got.len() as u64) < count {
                match items.next().await {
                    Some(item) => got.push(item?),
                    None => break,
                }
            }
            Ok(got)
        })
        .client_streaming_bytes("answers_later", |_, items| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Not dropped, which would give the caller its credits back.
            tokio::spawn(async move {
                let _items = items;
                std::future::pending::<()>().await;
            });
            Ok(b"early".to_vec())
        })
        .client_streaming_bytes("never_reads", {
            let counted = counters.clone();
            move |_, items| {
                let dropped = Dropped::new(&counted);
                async move {
                    std::future::pending::<()>().await;
                    drop((items, dropped));
                    Ok(vec![])
                }
            }
        })
        // How the stream ended.
        .client_streaming_bytes("how_it_ends", {
            let counted = counters.clone();
            move |_, mut items| {
                let counted = counted.clone();
                async move {
                    let end = loop {
                        match items.next().await {
                            Some(Ok(_)) => {}
                            Some(Err(status)) => break status.code.to_string(),
                            None => break "in order".to_owned(),
                        }
                    };
                    if end == "CANCELLED" {
                        counted.dropped.fetch_add(1, Relaxed);
                    }
                    Ok(end.into_bytes())
                }
            }
        })
        .bidirectional(
            "double",
            |factor: u64, mut incoming: ItemReceiver<u64>, mut outgoing: ItemSender<u64>| async move {
                while let Some(item) = incoming.next().await {
                    outgoing.send(&(item? * factor)).await?;
                }
                Ok(())
            },
        )
        .bidirectional_bytes("chat", |hello, mut incoming, mut outgoing| async move {
            outgoing.send(hello).await?;
            while let Some(item) = incoming.next().await {
                outgoing.send(item?).await?;
            }
            outgoing.send("bye").await?;
            Err(Status::new(Code::DATA_LOSS, "that was all"))
        })
        .bidirectional_bytes("greet", |hello, _, mut outgoing| async move {
            outgoing.send(hello).await
        })
        // The sender outlives the handler.
        .streaming_bytes("leak", move |_, items| {
            leaked.lock().unwrap().push(items);
            async { Ok(()) }
        })
}

fn quiet_about_panics_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
            if !text.is_some_and(|text| text.starts_with("on purpose")) {
                usual(panic);
            }
        }));
    });
}
