//! The steady path of a unary call allocates nothing: neither in a client that blocks, nor in the
//! server, which are processes of their own here.

#![cfg(target_os = "linux")]

mod support;
mod transports;

use nearwire::{BlockingClient, ClientBuilder, Server, Spin};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
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

/// Makes calls and says how many allocations they took, in the client and in the server.
fn allocations_of_calls(
    client: &mut BlockingClient,
    count: usize,
    request_of: impl Fn(usize) -> &'static [u8],
) -> (u64, u64) {
    let echo = client.method("echo").unwrap();
    let mut reply = Vec::with_capacity(2000);
    let mut calls = |client: &mut BlockingClient, count| {
        for n in 0..count {
            let request = request_of(n);
            client.call_into(echo, request, &mut reply).unwrap();
            assert!(reply == request);
        }
    };
    // Buffers have their sizes then.
    calls(client, 3000.min(count));
    let mut other = Vec::with_capacity(2000);
    let server_before = server_allocations(client, &mut other);
    let before = allocations();
    calls(client, count);
    let here = allocations() - before;
    let there = server_allocations(client, &mut other) - server_before;
    (here, there)
}

/// As [`allocations_of_calls`], with a server of its own and both ways to wait.
fn nothing_is_allocated(count: usize, request_of: fn(usize) -> &'static [u8]) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _counts_alone = ONE_AT_A_TIME.lock();
    for (spin, client_spin) in [("default", Spin::default()), ("never", Spin::NEVER)] {
        let place = Place::new();
        let _server = place.start_ready("server", &[("spin", spin)]);
        let name = place.socket("allocations");
        within(PATIENCE, "calls without allocations", move || {
            let builder = ClientBuilder::new().spin(client_spin);
            let mut client = builder.connect_blocking(&name).unwrap();
            let (here, there) = allocations_of_calls(&mut client, count, request_of);
            eprintln!("spin {spin}: {here} allocations in the client, {there} in the server");
            // The test harness may allocate beside the test, but not for every call.
            assert!(here < 20, "{here} allocations in {count} calls");
            assert_eq!(there, 0, "the server allocates");
        });
    }
}

#[test]
fn a_call_allocates_nothing_on_either_side() {
    static REQUEST: [u8; 1000] = [7; 1000];
    nothing_is_allocated(20_000, |n| &REQUEST[..n % 1001]);
}

#[test]
fn a_large_call_allocates_nothing_either() {
    // Fragments, of which the ring holds a few, on both ways.
    static REQUEST: [u8; 1 << 20] = [7; 1 << 20];
    nothing_is_allocated(300, |_| &REQUEST);
}
