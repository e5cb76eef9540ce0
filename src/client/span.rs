//! Calls as those see them who trace: a span each, from the request to the end of the call, with how
//! it failed. Without a subscriber that wants them at DEBUG a call costs a look at a flag.
//!
//! Not the calls of a [`Pipeline`](super::Pipeline), which are many and short; the server has spans
//! of these too.

use super::Method;
use crate::error::Error;
use crate::link::Shared;
use crate::proto::frame::TraceContext;
use tracing::Span;
use tracing::field::{Empty, display};

/// What subscribers know these spans by.
const CALLS: &str = "nearwire::client";

/// Whether somebody wants to see calls.
#[inline(always)]
pub(super) fn is_wanted() -> bool {
    tracing::enabled!(target: CALLS, tracing::Level::DEBUG)
}

/// The span of a call, a child of the span that the caller is in.
#[cold]
pub(super) fn of_call(
    shared: &Shared,
    method: Method,
    id: u64,
    trace: Option<&TraceContext>,
) -> Span {
    let method = shared.terms.methods.get(usize::from(method.number));
    let span = tracing::debug_span!(
        target: CALLS,
        "call",
        method = method.map_or("", |method| &method.name),
        id,
        connection = shared.terms.connection_id,
        peer.pid = shared.peer.pid,
        traceparent = Empty,
        error = Empty,
    );
    if let Some(trace) = trace {
        span.record("traceparent", display(trace));
    }
    span
}

/// Says in a call's span how it failed.
#[cold]
pub(super) fn note_failure(span: &Span, error: &Error) {
    span.record("error", display(error));
}

/// Says in a call's span that the caller did not wait for its end.
#[cfg(feature = "tokio")]
#[cold]
pub(super) fn note_drop(span: &Span) {
    span.record("error", "given up");
}
