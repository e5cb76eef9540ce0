//! Nearwire's trace contexts and OpenTelemetry's, and an exporter that prints.

use nearwire::TraceContext;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

/// What a call of this span is to carry; `None` if nobody records the span.
pub fn context_of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        TraceContext::new(
            span.trace_id().to_bytes(),
            span.span_id().to_bytes(),
            span.is_sampled(),
        )
    })
}

/// Makes a span, which nobody has entered yet, a child of the caller's.
pub fn adopt(span: &Span, caller: Option<TraceContext>) {
    let Some(caller) = caller else { return };
    let caller = SpanContext::new(
        TraceId::from_bytes(caller.trace_id),
        SpanId::from_bytes(caller.parent_id),
        TraceFlags::new(caller.flags),
        true,
        TraceState::default(),
    );
    let context = opentelemetry::Context::new().with_remote_span_context(caller);
    // Fails for a span that nobody records.
    let _ = span.set_parent(context);
}

/// Has all spans at INFO recorded, and printed when they end. A program that reports to a collector
/// puts that one's exporter here.
///
/// # Errors
/// If the process has a subscriber already.
pub fn record() -> anyhow::Result<()> {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(Printer)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("nearwire-examples"));
    let subscriber = tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(layer);
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

/// Prints each span on a line.
#[derive(Debug)]
struct Printer;

impl SpanExporter for Printer {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        for span in spans {
            println!(
                "{} {:?} trace={} span={} parent={}",
                span.name,
                span.span_kind,
                span.span_context.trace_id(),
                span.span_context.span_id(),
                span.parent_span_id,
            );
        }
        Ok(())
    }
}
