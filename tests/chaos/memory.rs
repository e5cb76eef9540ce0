//! Memory that runs out, by a limit of the process (RLIMIT_AS) or of its control group.

use crate::census::{Census, files};
use crate::ledger::Ledger;
use crate::server::NAME;
use crate::support::child::{Commands, Settings, say};
use crate::support::{PATIENCE, Process, eventually, within};
use nearwire::{BlockingClient, ClientBuilder, CloseReason, Error, Memory, TransportPolicy};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

/// Lets this process map so many bytes more than it has.
fn allow(more: u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let limit = Some((kib << 10) + more);
    let limits = Rlimit {
        current: limit,
        maximum: None,
    };
    setrlimit(Resource::As, limits).unwrap();
}

/// For connections that do without the socket's help.
fn over_memory() -> ClientBuilder {
    ClientBuilder::new().transport(TransportPolicy::SharedMemoryOnly)
}

/// As [`crate::server::serve`], with so many MiB of address space beyond what it has at its start.
/// Settings: `mib`.
pub fn server(settings: &Settings, commands: Commands) {
    allow((settings.number("mib").unwrap() as u64) << 20);
    crate::server::serve(settings, commands);
}

#[test]
fn a_server_without_memory_keeps_its_other_clients() {
    within(PATIENCE, "a server without memory", || {
        let ledger = Ledger::new();
        // The allocator's arenas and the threads' stacks are part of it.
        let settings = [("ledger", ledger.path()), ("mib", "400")];
        let server = ledger.place.start_ready("server with limit", &settings);
        let name = ledger.place.socket(NAME);
        let mut neighbour = BlockingClient::connect(&name).unwrap();
        assert_eq!(neighbour.call_bytes("len", b"four").unwrap()[0], 4);
        let before = Census::at_rest(&server);
        // Rings for which there is no address space any more.
        let builder = over_memory().ring(1 << 20);
        let mut clients = Vec::new();
        let error = loop {
            match builder.connect_blocking(&name) {
                Ok(client) => clients.push(client),
                Err(error) => break error,
            }
            assert!(clients.len() < 1000, "the limit is none");
        };
        eprintln!("the client after {}: {error}", clients.len());
        assert!(matches!(error, Error::Handshake(_)), "{error:?}");
        assert_eq!(neighbour.call_bytes("len", b"four").unwrap()[0], 4);
        // Messages for which there is no memory, although the rings are there.
        let large = vec![7; 60 << 20];
        let error = clients[0].call_bytes("len", &large).unwrap_err();
        eprintln!("a message of 60 MiB: {error}");
        assert!(error.to_string().contains("no memory"), "{error:?}");
        for client in clients.iter_mut().skip(1).take(20) {
            assert_eq!(client.call_bytes("len", b"four").unwrap()[0], 4);
        }
        drop(clients);
        eventually("all but one are gone", || server.ask("connections") == "1");
        let mut fresh = builder.connect_blocking(&name).unwrap();
        let answer = fresh.call_bytes("len", &large).unwrap();
        assert_eq!(answer, (large.len() as u64).to_le_bytes());
        assert_eq!(neighbour.call_bytes("len", b"four").unwrap()[0], 4);
        drop(fresh);
        before.recurs(&server);
        server.tell("shutdown 0");
        server.expect("shut down");
        assert!(files(ledger.place.path()).is_empty());
    });
}

/// Connects and calls with so many MiB of address space, and says how that went. Settings: `mib`.
pub fn client(settings: &Settings, commands: Commands) {
    let mut first = BlockingClient::connect(NAME).unwrap();
    allow((settings.number("mib").unwrap() as u64) << 20);
    let mut clients = Vec::new();
    let error = loop {
        match over_memory().ring(4 << 20).connect_blocking(NAME) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    say(format!("{} {error}", clients.len()));
    // A reply for which there is no memory.
    let asked = 60u64 << 20;
    let error = first.call_bytes("zeros", &asked.to_le_bytes()).unwrap_err();
    say(&error);
    drop(clients);
    let mut fresh = BlockingClient::connect(NAME).unwrap();
    say(fresh.call_bytes("len", b"four").unwrap()[0]);
    commands.wait();
}

#[test]
fn a_client_without_memory_says_so() {
    let ledger = Ledger::new();
    let server = ledger
        .place
        .start_ready("server", &[("ledger", ledger.path())]);
    let before = Census::at_rest(&server);
    let mut client = ledger.place.start("client with limit", &[("mib", "48")]);
    let said = client.hear();
    eprintln!("connections, and the error: {said}");
    assert!(said.contains("os error 12"), "{said}");
    let said = client.hear();
    eprintln!("a reply of 60 MiB: {said}");
    assert!(said.contains("no memory"), "{said}");
    client.expect("4");
    client.kill();
    client.ended();
    before.recurs(&server);
}

/// Calls once, and says how that went.
pub fn caller(_: &Settings, _: Commands) {
    let called =
        BlockingClient::connect(NAME).and_then(|mut client| client.call_bytes("len", b"four"));
    match called {
        Ok(answer) => say(answer[0]),
        Err(error) => say(error),
    }
}

/// Segments count as files, and the system would end who makes one that is larger than its limit.
#[test]
fn a_limit_of_files_sizes_is_no_signal() {
    // In units of 512 bytes or more.
    let limit = |blocks| format!("ulimit -f {blocks} && exec \"$@\"");
    let (small, large) = (limit(20), limit(10_000));
    let ledger = Ledger::new();
    let settings = [("ledger", ledger.path())];
    let start = |script: &str, role: &str| {
        let launcher = ["sh", "-c", script, "sh"];
        Process::start_through(&launcher, ledger.place.path(), role, &settings, &[])
    };
    // Either side turns to the socket.
    let server = start(&small, "server");
    server.expect("ready");
    start(&large, "one call").expect("4");
    drop(server);
    let server = start(&large, "server");
    server.expect("ready");
    start(&large, "one call").expect("4");
    eventually("it is gone", || server.ask("connections") == "0");
    let before = Census::at_rest(&server);
    start(&small, "one call").expect("4");
    start(&large, "one call").expect("4");
    before.recurs(&server);
}

/// A control group with a limit of so many MiB, if this process may make one.
struct Group(PathBuf);

impl Group {
    fn new(mib: usize) -> Option<Self> {
        let limit = (mib << 20).to_string();
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        // Of the second version there is one hierarchy, of the first one per resource.
        let versions = [
            ("0::/", "/sys/fs/cgroup", "memory.max"),
            (
                ":memory:/",
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
            ),
        ];
        versions.iter().find_map(|(mark, root, file)| {
            let line = own.lines().find_map(|line| line.split_once(mark))?;
            let name = format!("nearwire-chaos-{}", std::process::id());
            let group = Self(PathBuf::from(root).join(line.1).join(name));
            fs::create_dir(&group.0).ok()?;
            let file = group.0.join(file);
            // The system makes this file, unless it is no such hierarchy.
            (file.exists() && fs::write(file, &limit).is_ok()).then_some(group)
        })
    }

    fn take(&self, process: &Process) {
        fs::write(self.0.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_server_that_its_control_group_ends_is_one_that_was_killed() {
    within(PATIENCE, "a control group's limit", || {
        let Some(group) = Group::new(32) else {
            eprintln!("NOT TESTED: this user may not make control groups with a limit here");
            return;
        };
        let ledger = Ledger::new();
        let mut server = ledger
            .place
            .start_ready("server", &[("ledger", ledger.path())]);
        group.take(&server);
        let name = ledger.place.socket(NAME);
        let mut neighbour = BlockingClient::connect(&name).unwrap();
        assert_eq!(neighbour.call_bytes("len", b"four").unwrap()[0], 4);
        // It is the server that receives it, and pays for it. This process, which shares the
        // rings with it, must not feel it.
        let builder = ClientBuilder::new()
            .ring(16 << 20)
            .memory(Memory::default());
        let mut client = builder.connect_blocking(&name).unwrap();
        let large = vec![7; 63 << 20];
        let error = loop {
            if let Err(error) = client.call_bytes("len", &large) {
                break error;
            }
        };
        let gone = |error: &Error| {
            matches!(
                error,
                Error::Closed {
                    reason: CloseReason::PeerGone,
                    ..
                }
            )
        };
        assert!(gone(&error), "{error:?}");
        assert!(gone(&neighbour.call_bytes("len", b"").unwrap_err()));
        // Ended by the system's killer of those without memory, and not by SIGBUS.
        assert_eq!(server.ended().signal(), Some(9));
        drop(server);
        let _server = ledger
            .place
            .start_ready("server", &[("ledger", ledger.path())]);
        let mut client = BlockingClient::connect(&name).unwrap();
        assert_eq!(client.call_bytes("len", b"four").unwrap()[0], 4);
    });
}
