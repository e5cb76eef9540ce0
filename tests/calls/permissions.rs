//! Names, directories and who may connect.

use crate::limits::rejected;
use crate::server::NAME;
use crate::support::{Place, Process, eventually};
use nearwire::proto::handshake::RejectCode;
use nearwire::{BlockingClient, DirectoryFault, Error, PeerPolicy, Server};
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Binds the plain name `x` in a process whose own directory is this.
fn bind_in(directory: &Path) -> (Process, String) {
    let process = Process::start(directory, "bind", &[("name", "x")]);
    let said = process.hear();
    (process, said)
}

fn bind(path: &Path) -> nearwire::Result<Server> {
    Server::builder().bind(path.to_str().unwrap())
}

#[track_caller]
fn fault_of(result: nearwire::Result<Server>) -> DirectoryFault {
    match result {
        Err(Error::Directory { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_server_makes_is_closed_to_others() {
    let place = Place::new();
    // Its parents are made as well.
    let own = place.path().join("run/nearwire");
    let (server, said) = bind_in(&own);
    assert_eq!(said, "ready");
    assert_eq!(mode(&own), 0o700);
    let socket = own.join("x.sock");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!(mode(&socket), 0o600);
    let mut all = fs::read_dir(&own).unwrap();
    assert_eq!(all.next().unwrap().unwrap().path(), socket);
    assert!(all.next().is_none(), "there is more than the socket");
    assert!(BlockingClient::connect(socket.to_str().unwrap()).is_ok());
    drop(server);
}

#[test]
fn an_own_directory_that_others_may_enter_is_refused() {
    let place = Place::new();
    for bad in [0o770, 0o750, 0o701, 0o777] {
        let own = place.path().join(format!("{bad:o}"));
        fs::create_dir(&own).unwrap();
        set_mode(&own, bad);
        let (_process, said) = bind_in(&own);
        assert!(
            said.contains("Directory") && said.contains("chmod 700"),
            "{bad:o}: {said}"
        );
        set_mode(&own, 0o700);
        let (_process, said) = bind_in(&own);
        assert_eq!(said, "ready");
    }
    let (real, link) = (place.path().join("real"), place.path().join("link"));
    fs::create_dir(&real).unwrap();
    set_mode(&real, 0o700);
    symlink(&real, &link).unwrap();
    let (_process, said) = bind_in(&link);
    assert!(said.contains("SymbolicLink"), "{said}");
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let (_process, said) = bind_in(&file);
    assert!(said.contains("NotADirectory"), "{said}");
}

#[test]
fn a_paths_directory_must_not_be_writable_for_others() {
    let place = Place::new();
    let directory = place.path().join("shared");
    fs::create_dir(&directory).unwrap();
    let socket = directory.join("socket");
    for good in [0o700, 0o750, 0o755] {
        set_mode(&directory, good);
        let server = bind(&socket).unwrap();
        assert_eq!(mode(&socket), 0o600);
        drop(server);
        assert!(!socket.exists(), "the name is not freed");
    }
    for bad in [0o770, 0o757, 0o1777] {
        set_mode(&directory, bad);
        let fault = fault_of(bind(&socket));
        assert_eq!(fault, DirectoryFault::Mode { is: bad });
    }
    set_mode(&directory, 0o700);
    let link = place.path().join("link");
    symlink(&directory, &link).unwrap();
    let fault = fault_of(bind(&link.join("socket")));
    assert_eq!(fault, DirectoryFault::SymbolicLink);
    let fault = fault_of(bind(&place.path().join("missing/socket")));
    assert_eq!(fault, DirectoryFault::Missing);
}

#[test]
fn a_name_in_use_stays_with_its_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    for _ in 0..3 {
        let error = Server::builder().bind(&socket).unwrap_err();
        assert!(matches!(error, Error::NameInUse { .. }), "{error}");
    }
    let mut client = BlockingClient::connect(&socket).unwrap();
    assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
    // Also while it cannot answer.
    server.stop();
    let error = Server::builder().bind(&socket).unwrap_err();
    assert!(matches!(error, Error::NameInUse { .. }), "{error}");
    server.go_on();

    for (what, path) in [("file", "file.sock"), ("directory", "directory.sock")] {
        let path = place.path().join(path);
        match what {
            "file" => fs::write(&path, "mine").unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, Error::NotASocket { .. }), "{error}");
        assert!(path.exists(), "a {what} was removed");
    }
}

#[test]
fn the_socket_of_a_killed_server_is_replaced() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    server.kill();
    server.ended();
    assert!(Path::new(&socket).exists());
    let error = BlockingClient::connect(&socket).unwrap_err();
    assert!(
        matches!(error, Error::NoServer { dead: true, .. }),
        "{error}"
    );
    let server = place.start_ready("server", &[]);
    let mut client = BlockingClient::connect(&socket).unwrap();
    assert_eq!(client.info().peer.pid, server.id());
    assert_eq!(client.call_bytes("echo", b"on").unwrap(), b"on");
}

#[test]
fn of_many_servers_that_want_a_name_one_gets_it() {
    let place = Place::new();
    // A socket is left over, so that all of them find something to remove.
    let mut first = place.start_ready("bind", &[("name", "x")]);
    first.kill();
    first.ended();
    let processes: Vec<_> = (0..6)
        .map(|_| place.start("bind", &[("name", "x")]))
        .collect();
    let said: Vec<_> = processes.iter().map(Process::hear).collect();
    let winners: Vec<_> = said.iter().filter(|said| *said == "ready").collect();
    assert_eq!(winners.len(), 1, "{said:?}");
    let losers = said.iter().filter(|said| said.starts_with("NameInUse"));
    assert_eq!(losers.count(), 5, "{said:?}");
    assert!(BlockingClient::connect(&place.socket("x")).is_ok());
}

#[test]
fn a_policy_of_the_server_refuses_with_its_reason() {
    let place = Place::new();
    let server = place.start_ready("server", &[("refuse", "not on Mondays")]);
    for _ in 0..3 {
        let error = BlockingClient::connect(&place.socket(NAME)).unwrap_err();
        assert!(error.to_string().contains("not on Mondays"), "{error}");
        assert_eq!(
            rejected(error),
            (RejectCode::Credentials, "not on Mondays".into())
        );
    }
    eventually("nobody is connected", || {
        server.report()["connections"] == 0
    });
}

#[test]
fn a_policy_of_the_client_refuses_the_server() {
    let place = Place::new();
    let server = place.start_ready("server", &[]);
    let pid = server.id();
    let policy = PeerPolicy::custom(move |peer| {
        assert_eq!(peer.pid, pid);
        Err(format!("{} is too young", peer.pid))
    });
    let builder = BlockingClient::builder().peers(policy);
    let error = builder.connect_blocking(&place.socket(NAME)).unwrap_err();
    match error {
        Error::Credentials { peer, reason } => {
            assert_eq!(peer.pid, pid);
            assert_eq!(reason, format!("{pid} is too young"));
        }
        other => panic!("{other}"),
    }
}
