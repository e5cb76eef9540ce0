//! Names, directories and who may connect.

use crate::limits::rejected;
use crate::server::NAME;
use crate::support::{Place, Process, eventually};
use nearwire::proto::handshake::RejectCode;
use nearwire::{BlockingClient, Error, PeerPolicy, Server};

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
}

#[test]
fn the_socket_of_a_killed_server_is_replaced() {
    let place = Place::new();
    let mut server = place.start_ready("server", &[]);
    let socket = place.socket(NAME);
    server.kill();
    server.ended();
    // A pipe's name goes with its process, a socket's stays.
    assert!(cfg!(windows) || std::path::Path::new(&socket).exists());
    let error = BlockingClient::connect(&socket).unwrap_err();
    assert!(
        matches!(error, Error::NoServer { dead, .. } if dead == cfg!(unix)),
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
