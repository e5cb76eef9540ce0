//! From the mpmc transport to the ordinary one and back while calls flow, as docs/IPC_MIGRATION_SPSC.md
//! says it: with real processes, each step, and every call accounted for.

#![cfg(all(
    target_os = "linux",
    feature = "mpmc_transport",
    feature = "tokio",
    feature = "serde"
))]

mod support;
mod transports;

use nearwire::metrics::Counter;
use nearwire::{Pool, Server, Transport, TransportPolicy};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::child::{Commands, say};
use support::{Place, Process, Settings, eventually};

const NAME: &str = "service";

/// Tasks of a client that call one after the other.
const CALLERS: u64 = 6;

/// Plays a role in a process that another test started.
#[test]
fn child_process() {
    support::play(&[("service", serve), ("client", client)]);
}

/// The service: counts what it executes. `transport` is what its configuration says.
fn serve(settings: &Settings, commands: Commands) {
    let runtime = support::multi_thread();
    let _inside = runtime.enter();
    let executed = Arc::new(AtomicU64::new(0));
    let (counted, later) = (executed.clone(), executed.clone());
    let policy: TransportPolicy = settings.text("transport").unwrap().parse().unwrap();
    let server = Server::builder()
        .method("echo", move |request: &[u8]| {
            counted.fetch_add(1, Relaxed);
            Ok(request.to_vec())
        })
        .method_async("echo_later", move |request: Vec<u8>| {
            later.fetch_add(1, Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok(request)
            }
        })
        .transport(policy)
        .workers(2)
        .bind(NAME)
        .unwrap();
    say("ready");
    let mut server = Some(server);
    loop {
        match &*commands.next() {
            // How many connections each transport carries.
            "carried" => {
                let metrics = server.as_ref().unwrap().metrics();
                let of = |transport| {
                    let carried = metrics.connections.iter();
                    carried.filter(|c| c.transport == transport).count()
                };
                say(format!(
                    "mpmc={} spsc={}",
                    of(Transport::Mpmc),
                    of(Transport::SharedMemory)
                ));
            }
            "violations" => {
                let metrics = server.as_ref().unwrap().metrics();
                say(metrics.total(Counter::ClosedViolation));
            }
            // In order, as for an update.
            "stop" => {
                server.take().unwrap().shutdown(Duration::from_secs(20));
                say(executed.load(Relaxed));
            }
            other => panic!("the service does not know {other:?}"),
        }
    }
}

/// A program that calls all the time, and reads its configuration again when it is told to.
fn client(settings: &Settings, commands: Commands) {
    let runtime = support::multi_thread();
    let open = |transport: &str| {
        let policy: TransportPolicy = transport.parse().unwrap();
        runtime.block_on(async {
            let client = nearwire::ClientBuilder::new().transport(policy);
            let pool = Pool::builder().client(client).build(NAME).unwrap();
            pool.ready().await.unwrap();
            pool
        })
    };
    let pool = Arc::new(Mutex::new(open(settings.text("transport").unwrap())));
    let answered = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (pool, answered, stop) = (pool.clone(), answered.clone(), stop.clone());
            runtime.spawn(async move {
                let mut n = 0;
                while !stop.load(Relaxed) {
                    n += 1;
                    // Each call goes by what is configured when it begins.
                    let pool = pool.lock().unwrap().clone();
                    let len = [8, 64, 1000, 60_000][(n % 4) as usize];
                    let request = support::pattern(caller << 32 | n, len);
                    let method = ["echo", "echo_later"][(n % 2) as usize];
                    let reply = pool.call_bytes(method, &request).await;
                    let reply = reply.unwrap_or_else(|error| panic!("call {n} is lost: {error}"));
                    assert!(reply == request, "call {n} got another one's reply");
                    answered.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    say("ready");
    loop {
        let command = commands.next();
        match command.split_once(' ').unwrap_or((&command, "")) {
            ("transport", transport) => {
                // What is in flight ends on the old pool, which goes with its last call.
                let new = open(transport);
                *pool.lock().unwrap() = new;
                say("changed");
            }
            ("answered", _) => say(answered.load(Relaxed)),
            ("stop", _) => {
                stop.store(true, Relaxed);
                for caller in callers {
                    runtime.block_on(caller).expect("a caller failed");
                }
                say(answered.load(Relaxed));
                return;
            }
            other => panic!("the client does not know {other:?}"),
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

fn service(place: &Place, transport: &str) -> Process {
    place.start_ready("service", &[("transport", transport)])
}

/// Every client gets some more answers.
fn calls_flow(clients: &[Process]) {
    for client in clients {
        let before = number(&client.ask("answered"));
        eventually("calls flow", || {
            number(&client.ask("answered")) >= before + 200
        });
    }
}

#[track_caller]
fn carried(service: &Process, mpmc: usize, spsc: usize) {
    let wanted = format!("mpmc={mpmc} spsc={spsc}");
    eventually(&wanted, || service.ask("carried") == wanted);
}

#[test]
fn clients_move_from_mpmc_to_spsc_and_back_while_calls_flow_and_none_is_lost() {
    let place = Place::new();
    let mut executed = 0;

    // Where one comes from.
    let old = service(&place, "mpmc");
    let clients: Vec<_> = (0..3)
        .map(|_| place.start_ready("client", &[("transport", "prefer-mpmc")]))
        .collect();
    calls_flow(&clients);
    carried(&old, 3, 0);

    // Step 1: the server takes both.
    executed += number(&old.ask("stop"));
    let both = service(&place, "prefer-mpmc");
    calls_flow(&clients);
    carried(&both, 3, 0);

    // Step 2: one client after the other.
    for moved in 1..=3 {
        clients[moved - 1].tell("transport spsc");
        clients[moved - 1].expect("changed");
        calls_flow(&clients);
        carried(&both, 3 - moved, moved);
    }

    // The rollback: the clients first, in any order, then the server.
    for (back, client) in clients.iter().rev().enumerate() {
        client.tell("transport prefer-mpmc");
        client.expect("changed");
        calls_flow(&clients);
        carried(&both, back + 1, 2 - back);
    }
    assert_eq!(both.ask("violations"), "0");
    executed += number(&both.ask("stop"));
    let old = service(&place, "mpmc");
    calls_flow(&clients);
    carried(&old, 3, 0);

    // Over again, and step 3: the server no longer takes the queue.
    executed += number(&old.ask("stop"));
    let both = service(&place, "prefer-mpmc");
    for client in &clients {
        client.tell("transport spsc");
        client.expect("changed");
    }
    calls_flow(&clients);
    carried(&both, 0, 3);
    executed += number(&both.ask("stop"));
    let new = service(&place, "spsc");
    calls_flow(&clients);
    carried(&new, 0, 3);

    let answered: u64 = clients
        .iter()
        .map(|client| number(&client.ask("stop")))
        .sum();
    assert_eq!(new.ask("violations"), "0");
    executed += number(&new.ask("stop"));
    assert_eq!(executed, answered, "calls lost, or executed twice");
    eprintln!("{answered} calls, each executed once and answered");
}
