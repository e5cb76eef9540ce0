//! Trace contexts that travel with calls.

use crate::server::NAME;
use crate::support::{PATIENCE, Place, pattern, within, within_async};
use nearwire::{BlockingClient, Client, Pool, TraceContext};
use std::time::Duration;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn context() -> TraceContext {
    TRACEPARENT.parse().unwrap()
}

fn handlers_get_the_callers_trace_and_no_other() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within_async(PATIENCE, "traced calls", async move {
        let client = Client::connect(&name).await.unwrap();
        for method in ["traceparent", "traceparent_later"] {
            let call = client.call_bytes(method, b"").trace(context());
            assert_eq!(call.await.unwrap(), TRACEPARENT.as_bytes());
            // With a deadline too, and with a request in fragments.
            let large = pattern(3, 300_000);
            let call = client.call_bytes(method, &large).trace(context());
            let call = call.deadline(Duration::from_secs(30));
            assert_eq!(call.await.unwrap(), TRACEPARENT.as_bytes());
            assert_eq!(client.call_bytes(method, b"").await.unwrap(), b"none");
        }
        client
            .notify_bytes("note_trace", b"")
            .trace(context())
            .await
            .unwrap();
        assert_eq!(
            client.call_bytes("last_trace", b"").await.unwrap(),
            TRACEPARENT.as_bytes()
        );
        client.notify_bytes("note_trace", b"").await.unwrap();
        assert_eq!(client.call_bytes("last_trace", b"").await.unwrap(), b"none");

        let pool = Pool::connect(&name).await.unwrap();
        let call = pool.call_bytes("traceparent_later", b"").trace(context());
        assert_eq!(call.await.unwrap(), TRACEPARENT.as_bytes());
        pool.notify_bytes("note_trace", b"")
            .trace(context())
            .await
            .unwrap();
        let last = pool.call_bytes("last_trace", b"").await;
        assert_eq!(last.unwrap(), TRACEPARENT.as_bytes());
        assert_eq!(pool.call_bytes("traceparent", b"").await.unwrap(), b"none");
    });
    let name = place.socket(NAME);
    within(PATIENCE, "traced calls, blocking", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        assert_eq!(client.call_bytes("traceparent", b"").unwrap(), b"none");
        client.set_trace(Some(context()));
        for _ in 0..3 {
            let said = client.call_bytes("traceparent", b"").unwrap();
            assert_eq!(said, TRACEPARENT.as_bytes());
            let time = Duration::from_secs(30);
            let said = client.call_bytes_timeout("traceparent", b"", time).unwrap();
            assert_eq!(said, TRACEPARENT.as_bytes());
        }
        let method = client.method("traceparent").unwrap();
        let mut pipeline = client.pipeline();
        for trace in [Some(context()), None] {
            pipeline.set_trace(trace);
            pipeline.submit(method, b"").unwrap();
        }
        for said in [TRACEPARENT, "none"] {
            let reply = pipeline.next(|_, reply| reply.unwrap().to_vec());
            assert_eq!(reply.unwrap().unwrap(), said.as_bytes());
        }
        drop(pipeline);
        assert_eq!(client.call_bytes("traceparent", b"").unwrap(), b"none");
    });
}

fn what_names_no_trace_is_as_good_as_none() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "contexts of zeros", move || {
        let mut client = BlockingClient::connect(&name).unwrap();
        let no_version = TraceContext {
            version: 255,
            ..context()
        };
        for context in [
            TraceContext::default(),
            TraceContext::new([0; 16], [1; 8], true),
            TraceContext::new([1; 16], [0; 8], true),
            no_version,
        ] {
            client.set_trace(Some(context));
            assert_eq!(client.call_bytes("traceparent", b"").unwrap(), b"none");
        }
    });
}

crate::over_all_transports!(
    handlers_get_the_callers_trace_and_no_other,
    what_names_no_trace_is_as_good_as_none,
);

crate::over_both_transports_and!(across_threads:
    handlers_get_the_callers_trace_and_no_other,
    what_names_no_trace_is_as_good_as_none,
);
