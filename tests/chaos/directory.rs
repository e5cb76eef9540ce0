//! A socket directory that is full, or that cannot be written, from the start or from some time on.

use crate::server::NAME;
use crate::support::child::{Commands, Settings, say};
use crate::support::{Place, Process};
use nearwire::{BlockingClient, Client, Server};
use rustix::fs::{FlockOperation, flock};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Binds, fills, remounts, whatever it is told, in a directory of its own. Says how it went.
pub fn server(_: &Settings, commands: Commands) {
    let directory = PathBuf::from(std::env::var("NEARWIRE_DIR").unwrap());
    let filler = directory.join("filler");
    let mut server = None;
    say("ready");
    loop {
        match &*commands.next() {
            "fill" => {
                std::fs::write(&filler, "").unwrap();
                say("filled");
            }
            "empty" => {
                std::fs::remove_file(&filler).unwrap();
                say("emptied");
            }
            "bind" => match Server::builder().method("ping", |_| Ok(vec![])).bind(NAME) {
                Ok(bound) => {
                    server = Some(bound);
                    say("bound");
                }
                Err(error) => say(error),
            },
            "call" => {
                let called = BlockingClient::connect(NAME)
                    .and_then(|mut client| client.call_bytes("ping", b""));
                match called {
                    Ok(_) => say("called"),
                    Err(error) => say(error),
                }
            }
            "stop" => {
                drop(server.take());
                say("stopped");
            }
            "list" => say(crate::census::files(&directory).join(" ")),
            mode @ ("ro" | "rw") => {
                let options = format!("remount,{mode}");
                let mounted = Command::new("mount")
                    .args(["-o", &options])
                    .arg(&directory)
                    .status();
                assert!(mounted.unwrap().success());
                say(mode);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Such a process, whose directory is a file system with room for two names, its own among them.
/// `None` if that is not allowed here.
fn with_small_directory(place: &Place) -> Option<Process> {
    let mount = "mount -t tmpfs -o mode=0700,nr_inodes=2 tmpfs \"$NEARWIRE_DIR\"";
    let unshare = ["unshare", "--user", "--map-root-user", "--mount"];
    let tried = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "-c", mount])
        .env("NEARWIRE_DIR", place.path())
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("NOT TESTED: this user may not mount file systems, not even in a namespace");
        return None;
    }
    let script = format!("{mount} && exec \"$@\"");
    let launcher = [&unshare[..], &["sh", "-c", &script, "sh"]].concat();
    let process = Process::start_through(&launcher, place.path(), "directory", &[], &[]);
    process.expect("ready");
    Some(process)
}

#[test]
fn a_full_directory_is_named_and_takes_a_server_when_there_is_room() {
    let place = Place::new();
    let Some(server) = with_small_directory(&place) else {
        return;
    };
    assert_eq!(server.ask("fill"), "filled");
    let said = server.ask("bind");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(server.ask("list"), "filler");
    assert_eq!(server.ask("empty"), "emptied");
    assert_eq!(server.ask("bind"), "bound");
    assert_eq!(server.ask("call"), "called");
    assert_eq!(server.ask("stop"), "stopped");
    assert_eq!(server.ask("list"), "");
}

#[test]
fn a_directory_that_becomes_unwritable_keeps_no_server_from_serving() {
    let place = Place::new();
    let Some(server) = with_small_directory(&place) else {
        return;
    };
    assert_eq!(server.ask("ro"), "ro");
    let said = server.ask("bind");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(server.ask("rw"), "rw");
    assert_eq!(server.ask("bind"), "bound");
    assert_eq!(server.ask("ro"), "ro");
    assert_eq!(server.ask("call"), "called");
    // The name stays behind, for nobody may remove it; whoever finds it is told so.
    assert_eq!(server.ask("stop"), "stopped");
    assert_eq!(server.ask("list"), format!("{NAME}.sock"));
    let said = server.ask("call");
    assert!(said.contains("left over"), "{said}");
    let said = server.ask("bind");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(server.ask("rw"), "rw");
    assert_eq!(server.ask("bind"), "bound");
    assert_eq!(server.ask("call"), "called");
}

/// One that this user owns and may not write.
#[test]
fn a_directory_without_the_right_to_write_is_named() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    set_permissions(place.path(), Permissions::from_mode(0o500)).unwrap();
    // Root may write it all the same, but not as somebody who is not root in a namespace.
    let launcher = ["unshare", "--user", "--map-user=1000", "--map-group=1000"];
    let tried = Command::new(launcher[0])
        .args(&launcher[1..])
        .arg("true")
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("NOT TESTED: this user may not make a namespace");
        return;
    }
    let server = Process::start_through(&launcher, place.path(), "directory", &[], &[]);
    server.expect("ready");
    let said = server.ask("bind");
    set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
    assert!(said.contains("ermission denied"), "{said}");
    assert_eq!(server.ask("bind"), "bound");
    assert_eq!(server.ask("stop"), "stopped");
    assert!(is_empty(place.path()));
}

fn is_empty(directory: &Path) -> bool {
    crate::census::files(directory).is_empty()
}

/// A client that cannot remove a dead server's name is not kept by that.
#[test]
fn a_dead_servers_name_that_cannot_be_removed_keeps_nobody() {
    let ledger = crate::ledger::Ledger::new();
    let mut server = crate::kills::start_server(&ledger);
    server.expect("ready");
    let name = ledger.place.socket(NAME);
    crate::support::within_async(crate::support::PATIENCE, "a name that stays", async move {
        let client = Client::connect(&name).await.unwrap();
        // Somebody holds the directory's lock, and does not let go.
        let directory = std::fs::File::open(ledger.place.path()).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        let killed = server.kill();
        client.closed().await;
        crate::support::soon_after(killed, "with the directory locked");
        assert!(Path::new(&name).exists());
        drop(directory);
        server.ended();
        let server = crate::kills::start_server(&ledger);
        server.expect("ready");
        let client = Client::connect(&name).await.unwrap();
        assert_eq!(client.call_bytes("len", b"four").await.unwrap()[0], 4);
    });
}
