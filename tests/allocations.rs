//! The steady path of a unary call allocates nothing: neither in a client that blocks, nor in the
//! server, which are processes of their own here.

#![cfg(target_os = "linux")]

mod support;
mod transports;

use nearwire::{BlockingClient, ClientBuilder, Server, Spin};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use support::child::{Commands, say};
use support::{PATIENCE, Place, Settings, within};

/// The system's allocator, with a count of what is asked of it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Serves `echo`, and `allocations`, which says how many there were in this process.
fn serve(settings: &Settings, commands: Commands) {
    let mut builder = Server::builder();
    if settings.text("spin") == Some("never") {
        builder = builder.spin(Spin::NEVER);
    }
    let server = builder
        .method_into("echo", |_, request, reply| {
            reply.extend_from_slice(request);
            Ok(())
        })
        .method_into("allocations", |_, _, reply| {
            reply.extend_from_slice(&allocations().to_le_bytes());
            Ok(())
        })
        .bind("allocations")
        .unwrap();
    say("ready");
    drop(commands.next());
    drop(server);
}

#[test]
fn child_process() {
    support::play(&[("server", serve)]);
}

fn server_allocations(client: &mut BlockingClient, reply: &mut Vec<u8>) -> u64 {
    let method = client.method("allocations").unwrap();
    client.call_into(method, b"", reply).unwrap();
    u64::from_le_bytes(reply[..].try_into().unwrap())
}

#[test]
fn a_call_allocates_nothing_on_either_side() {
    // The test harness may allocate beside the test, but not for every call.
    const CALLS: u64 = 20_000;
    for (spin, client_spin) in [("default", Spin::default()), ("never", Spin::NEVER)] {
        let place = Place::new();
        let _server = place.start_ready("server", &[("spin", spin)]);
        let name = place.socket("allocations");
        within(PATIENCE, "calls without allocations", move || {
            let builder = ClientBuilder::new().spin(client_spin);
            let mut client = builder.connect_blocking(&name).unwrap();
            let echo = client.method("echo").unwrap();
            let request = [7; 1000];
            let mut reply = Vec::with_capacity(2000);
            let mut calls = |client: &mut BlockingClient, count| {
                for n in 0..count {
                    let request = &request[..n as usize % 1001];
                    client.call_into(echo, request, &mut reply).unwrap();
                    assert!(reply == request);
                }
            };
            calls(&mut client, 3000);
            let mut other = Vec::with_capacity(2000);
            let server_before = server_allocations(&mut client, &mut other);
            let before = allocations();
            calls(&mut client, CALLS);
            let here = allocations() - before;
            let there = server_allocations(&mut client, &mut other) - server_before;
            eprintln!("spin {spin}: {here} allocations in the client, {there} in the server");
            assert!(here < 20, "{here} allocations in {CALLS} calls");
            assert_eq!(there, 0, "the server allocates");
        });
    }
}
