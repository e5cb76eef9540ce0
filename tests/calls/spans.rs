//! What a client's calls look like to those who trace.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, within};
use nearwire::{BlockingClient, Client, TraceContext};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The fields of a span, and the name of the one around it.
#[derive(Debug, Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }
}

/// Keeps the spans of calls, in the order in which they closed.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Fields>>>);

impl Recorder {
    fn take(&self) -> Vec<Fields> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The only span since the last time.
    #[track_caller]
    fn one(&self) -> Fields {
        let mut spans = self.take();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(parent) = span.parent() {
            fields.0.insert("parent", parent.name().into());
        }
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.metadata().target() == "nearwire::client" {
            let fields = span.extensions_mut().remove::<Fields>().unwrap();
            self.0.lock().unwrap().push(fields);
        }
    }
}

fn calls_have_spans_that_say_how_they_ended() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let process = server.id().to_string();
    within(PATIENCE, "calls in spans", move || {
        let recorder = Recorder::default();
        // As long as there is one subscriber only, tracing takes that of the thread that comes by a span
        // first for that of all threads; the clients of other tests have none.
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        let subscriber = tracing_subscriber::registry().with(recorder.clone());
        // Of this thread, on which the client runs as well.
        tracing::subscriber::with_default(subscriber, || {
            blocking(&name, &process, &recorder);
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(multiplexed(&name, &process, &recorder));
        });
    });
}

fn blocking(name: &str, process: &str, recorder: &Recorder) {
    let mut client = BlockingClient::connect(name).unwrap();
    let visit = tracing::info_span!("visit");
    visit.in_scope(|| client.call_bytes("echo", b"x").unwrap());
    let echo = recorder.one();
    assert_eq!(echo.0["method"], "echo");
    assert_eq!(echo.0["parent"], "visit");
    assert_eq!(echo.0["peer.pid"], process);
    assert!(!echo.0.contains_key("error") && !echo.0.contains_key("traceparent"));
    client.call_bytes("fail", b"").unwrap_err();
    let fail = recorder.one();
    assert_eq!(fail.0["method"], "fail");
    assert!(fail.0["error"].contains("no such thing"), "{fail:?}");
    // Whichever side notices first that the time is over.
    let no_time = client.call_bytes_timeout("hang", b"", Duration::from_millis(1));
    let error = no_time.unwrap_err();
    assert_eq!(recorder.one().0["error"], error.to_string());
    client.set_trace(Some(TRACEPARENT.parse().unwrap()));
    client.call_bytes("echo", b"x").unwrap();
    assert_eq!(recorder.one().0["traceparent"], TRACEPARENT);
}

async fn multiplexed(name: &str, process: &str, recorder: &Recorder) {
    let client = Client::connect(name).await.unwrap();
    let trace: TraceContext = TRACEPARENT.parse().unwrap();
    client.call_bytes("echo", b"x").trace(trace).await.unwrap();
    let echo = recorder.one();
    assert_eq!(echo.0["method"], "echo");
    assert_eq!(echo.0["peer.pid"], process);
    assert_eq!(echo.0["traceparent"], TRACEPARENT);
    assert!(!echo.0.contains_key("error"));
    client.call_bytes("fail", b"").await.unwrap_err();
    assert!(recorder.one().0["error"].contains("no such thing"));
    let hang = client.call_bytes("hang", b"");
    let given_up = tokio::time::timeout(Duration::from_millis(20), hang).await;
    given_up.unwrap_err();
    assert_eq!(recorder.one().0["error"], "given up");

    let mut numbers = client.stream::<u64>("count", &3u64);
    while let Some(number) = numbers.next().await {
        number.unwrap();
    }
    drop(numbers);
    let count = recorder.one();
    assert_eq!(count.0["method"], "count");
    assert!(!count.0.contains_key("error"), "{count:?}");
    let numbers = client.stream::<u64>("count", &1_000_000u64);
    {
        let mut numbers = numbers;
        numbers.next().await.unwrap().unwrap();
    }
    assert_eq!(recorder.one().0["error"], "given up");
}

crate::over_both_transports!(calls_have_spans_that_say_how_they_ended);

crate::over_both_transports_and!(across_threads: calls_have_spans_that_say_how_they_ended);
