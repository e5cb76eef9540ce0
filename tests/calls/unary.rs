//! Calls with one reply, through every kind of client and handler.

use crate::clients::LENGTHS;
use crate::server::{NAME, Order, Receipt, receipt};
use crate::support::{
    PATIENCE, Place, current_thread, eventually, multi_thread, pattern, within, within_async,
};
use nearwire::{Client, ClientBuilder, Code, Error};
use std::collections::{HashMap, VecDeque};

/// Around words, records, half the ring and the ring, for rings of 4 and 64 KiB; and far above.
const SIZES: [usize; 22] = [
    0,
    1,
    7,
    8,
    9,
    63,
    64,
    65,
    1000,
    1984,
    1985,
    2040,
    2041,
    4095,
    4097,
    32_704,
    32_705,
    65_535,
    65_537,
    300_001,
    1 << 20,
    3 << 20,
];

const HANDLERS: [&str; 4] = ["echo", "echo_into", "echo_ready", "echo_later"];

fn a_blocking_client_gets_back_what_it_sent() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "blocking echoes", move || {
        for ring in [4096, 64 << 10] {
            let client = ClientBuilder::new().ring(ring).connect_blocking(&name);
            let mut client = client.unwrap();
            for (n, &len) in SIZES.iter().enumerate() {
                for handler in HANDLERS {
                    let request = pattern(n as u64, len);
                    let reply = client.call_bytes(handler, &request).unwrap();
                    assert!(reply == request, "{handler}, {len} bytes, ring {ring}");
                }
            }
            let method = client.method("echo_into").unwrap();
            let mut reply = b"old bytes".to_vec();
            for len in SIZES {
                let request = pattern(1, len);
                client.call_into(method, &request, &mut reply).unwrap();
                assert!(reply == request, "{len} bytes into a buffer");
            }
        }
    });
}

fn an_async_client_gets_back_what_it_sent() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    for (n, runtime) in [current_thread(), multi_thread()].into_iter().enumerate() {
        let name = place.socket(NAME);
        within(PATIENCE, "async echoes", move || {
            runtime.block_on(async {
                let ring = [64 << 10, 4096][n];
                let client = ClientBuilder::new().ring(ring).connect(&name).await;
                let client = client.unwrap();
                for (n, &len) in SIZES.iter().enumerate() {
                    for handler in HANDLERS {
                        let request = pattern(n as u64, len);
                        let reply = client.call_bytes(handler, &request).await.unwrap();
                        assert!(reply == request, "{handler}, {len} bytes, ring {ring}");
                    }
                }
                assert_eq!(client.in_flight(), 0);
            });
        });
    }
}

fn sixty_four_tasks_share_a_connection_and_nobody_gets_anothers_reply() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    for runtime in [current_thread(), multi_thread()] {
        let name = place.socket(NAME);
        within(PATIENCE, "64 tasks", move || {
            runtime.block_on(async {
                let client = Client::connect(&name).await.unwrap();
                let tasks = (0..64u64).map(|task| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        for n in 0..30 {
                            let len = LENGTHS[(task + n) as usize % LENGTHS.len()];
                            let request = pattern(task << 32 | n, len);
                            let handler = HANDLERS[(task * 7 + n) as usize % HANDLERS.len()];
                            let reply = client.call_bytes(handler, &request).await.unwrap();
                            assert!(reply == request, "task {task}, call {n}, {len} bytes");
                        }
                    })
                });
                for task in tasks.collect::<Vec<_>>() {
                    task.await.unwrap();
                }
                assert_eq!(client.in_flight(), 0);
            });
        });
    }
}

fn client_processes_of_all_kinds_share_a_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[("workers", "2")]);
    let kinds = [
        "blocking",
        "pipeline",
        "async",
        "async, many threads",
        "async, two runtimes",
    ];
    let clients = kinds.map(|kind| place.start_ready("echoes", &[("kind", kind)]));
    for client in &clients {
        client.expect("done");
    }
    eventually("their connections are closed", || {
        server.report()["connections"] == 0
    });
}

fn a_pipeline_keeps_the_order_of_sync_handlers() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "pipeline in order", move || {
        for ring in [4096, 64 << 10] {
            let client = ClientBuilder::new().ring(ring).connect_blocking(&name);
            let mut client = client.unwrap();
            let echo = client.method("echo_into").unwrap();
            let mut pipeline = client.pipeline();
            let request = |n: u64| pattern(n, LENGTHS[n as usize % LENGTHS.len()]);
            // Those of one record, and larger ones, which may be overtaken by the former.
            let mut waiting = [VecDeque::new(), VecDeque::new()];
            let (mut submitted, mut taken) = (0, 0);
            while taken < 600 {
                while submitted < 600 && pipeline.in_flight() < 64 {
                    let request = request(submitted);
                    let is_large = usize::from(request.len() > ring / 2 - 64);
                    let id = pipeline.submit(echo, &request).unwrap();
                    waiting[is_large].push_back((id, request));
                    submitted += 1;
                }
                let visited = pipeline.next(|id, reply| {
                    let first = |line: &&mut VecDeque<_>| {
                        line.front().is_some_and(|(first, _)| *first == id)
                    };
                    let line = waiting.iter_mut().find(first).expect("out of order");
                    let (_, request) = line.pop_front().unwrap();
                    assert!(reply.unwrap() == request, "{id:?}");
                });
                visited.unwrap().unwrap();
                taken += 1;
            }
            assert_eq!(pipeline.in_flight(), 0);
            assert!(pipeline.next(|_, _| ()).unwrap().is_none());
        }
    });
}

fn a_pipeline_takes_answers_as_they_come_and_can_be_given_up() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "pipelines given up", move || {
        let mut client = nearwire::BlockingClient::connect(&name).unwrap();
        let methods = HANDLERS.map(|name| client.method(name).unwrap());
        for round in 0..20u64 {
            let mut pipeline = client.pipeline();
            let mut expected = HashMap::new();
            for n in 0..64 {
                let request = pattern(round << 32 | n, LENGTHS[n as usize % LENGTHS.len()]);
                let method = methods[n as usize % methods.len()];
                expected.insert(pipeline.submit(method, &request).unwrap(), request);
            }
            // The rest is given up; its answers must not be taken for others'.
            for _ in 0..round * 3 {
                let check = |id, reply: Result<&[u8], _>| {
                    assert!(expected.remove(&id).unwrap() == reply.unwrap());
                };
                pipeline.next(check).unwrap();
            }
            drop(pipeline);
            let reply = client.call_bytes("echo", &round.to_le_bytes()).unwrap();
            assert_eq!(reply, round.to_le_bytes());
        }
    });
}

fn typed_calls_carry_serde_types() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let order = Order {
        customer: "Ünal & Söhne".into(),
        items: (0..10_000).map(|n| (n % 7, f64::from(n) / 8.0)).collect(),
        note: Some("as ever".into()),
    };
    within_async(PATIENCE, "typed calls", async move {
        let client = Client::connect(&name).await.unwrap();
        for method in ["order", "order_async"] {
            let got: Receipt = client.call(method, &order).await.unwrap();
            assert_eq!(got, receipt(&order));
        }
        let empty = Order {
            items: vec![],
            ..order.clone()
        };
        let error = client.call::<Receipt>("order", &empty).await.unwrap_err();
        let Error::Status(status) = error else {
            panic!("{error}")
        };
        assert_eq!(status.code, Code(1001));
        assert_eq!(status.message, "nothing was ordered");
        // Not an Order: the server says so. Too short: the client does.
        let error = client.call::<Receipt>("order", &0xffu8).await.unwrap_err();
        assert!(matches!(error, Error::Status(ref s) if s.code == Code::INVALID_ARGUMENT));
        let error = client.call::<[u64; 9]>("bytes", &3u64).await.unwrap_err();
        assert!(matches!(error, Error::Codec { .. }), "{error}");

        let mut blocking =
            tokio::task::spawn_blocking(move || nearwire::BlockingClient::connect(&name).unwrap())
                .await
                .unwrap();
        let got: Receipt = blocking.call("order_async", &order).unwrap();
        assert_eq!(got, receipt(&order));
    });
}

fn errors_of_handlers_reach_the_caller_and_only_the_runtime_speaks_for_itself() {
    let place = Place::new();
    let _server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    within(PATIENCE, "errors of handlers", move || {
        let mut client = nearwire::BlockingClient::connect(&name).unwrap();
        let Err(Error::Status(status)) = client.call_bytes("fail", b"") else {
            panic!("no status")
        };
        assert_eq!(status.code, Code::NOT_FOUND);
        assert!(status.message.starts_with("no such thing\n"));
        assert!(!status.message.contains('\u{1b}'), "{:?}", status.message);
        // A code that promises what only the runtime can know.
        let Err(Error::Status(status)) = client.call_bytes("claim_not_executed", b"") else {
            panic!("no status")
        };
        assert_eq!(status.code, Code::INTERNAL);
        assert!(status.message.contains("so I say"), "{status}");
    });
}

fn a_handler_is_told_who_calls() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let name = place.socket(NAME);
    let pid = server.id();
    within(PATIENCE, "who", move || {
        let mut client = nearwire::BlockingClient::connect(&name).unwrap();
        assert_eq!(client.info().peer.pid, pid);
        let reply = client.call_bytes("who", b"").unwrap();
        assert_eq!(reply[..4], std::process::id().to_le_bytes());
        assert_eq!(reply[4..], client.info().id.to_le_bytes());
        let error = client.call_bytes("nonsense", b"").unwrap_err();
        let Error::NoMethod { name, known } = error else {
            panic!("{error}")
        };
        assert_eq!(name, "nonsense");
        assert!(known.iter().any(|known| known == "echo"), "{known:?}");
    });
}

crate::over_all_transports!(
    a_blocking_client_gets_back_what_it_sent,
    an_async_client_gets_back_what_it_sent,
    sixty_four_tasks_share_a_connection_and_nobody_gets_anothers_reply,
    client_processes_of_all_kinds_share_a_server,
    a_pipeline_keeps_the_order_of_sync_handlers,
    a_pipeline_takes_answers_as_they_come_and_can_be_given_up,
    typed_calls_carry_serde_types,
    errors_of_handlers_reach_the_caller_and_only_the_runtime_speaks_for_itself,
    a_handler_is_told_who_calls,
);

crate::over_both_transports_and!(across_threads:
    a_blocking_client_gets_back_what_it_sent,
    an_async_client_gets_back_what_it_sent,
    sixty_four_tasks_share_a_connection_and_nobody_gets_anothers_reply,
    a_pipeline_keeps_the_order_of_sync_handlers,
    a_pipeline_takes_answers_as_they_come_and_can_be_given_up,
    typed_calls_carry_serde_types,
    errors_of_handlers_reach_the_caller_and_only_the_runtime_speaks_for_itself,
    a_handler_is_told_who_calls,
);
