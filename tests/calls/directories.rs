//! The directories that sockets live in.

use crate::support::{Place, Process};
use nearwire::{BlockingClient, DirectoryFault, Error, Server};
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
fn what_is_not_a_socket_stays() {
    let place = Place::new();
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
