//! Two users of one machine: what one of them can do to the other's servers and clients, which by
//! default is nothing. The processes run as users of their own, so this needs root; without it the
//! tests say so and check nothing (CI runs them as root, and insists).

#![cfg(all(target_os = "linux", feature = "tokio", feature = "serde"))]

mod support;
mod transports;

use nearwire::{BlockingClient, ClientBuilder, Error, PeerPolicy, Server};
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::child::{Commands, say};
use support::{Process, Settings, play};

/// Numbers that no system gives to a person.
const ALICE: u32 = 64_101;
const MALLORY: u32 = 64_102;

#[test]
fn child_process() {
    play(&[("serve", serve), ("connect", connect), ("open", open)]);
}

fn policy(settings: &Settings) -> PeerPolicy {
    match settings.number("trust") {
        None => PeerPolicy::default(),
        Some(uid) => PeerPolicy::custom(move |peer| match peer.uid as usize == uid {
            true => Ok(()),
            false => Err(format!("not user {uid}")),
        }),
    }
}

/// Serves `name`; says how binding went. With `mode` the socket is opened to others afterwards.
fn serve(settings: &Settings, commands: Commands) {
    let name = settings.text("name").expect("a name");
    let builder = Server::builder()
        .method("echo", |request: &[u8]| Ok(request.to_vec()))
        .peers(policy(settings));
    let server = match builder.bind(name) {
        Ok(server) => server,
        Err(error) => return say(format!("{error:?} | {error}")),
    };
    if settings.has("open to all") {
        fs::set_permissions(server.path(), Permissions::from_mode(0o666)).unwrap();
    }
    say("ready");
    while commands.next() == "connections" {
        say(server.connections());
    }
}

/// Connects to `name` and calls; says how it went.
fn connect(settings: &Settings, commands: Commands) {
    let builder = ClientBuilder::new().peers(policy(settings));
    let name = settings.text("name").expect("a name");
    let called = builder
        .connect_blocking(name)
        .and_then(|mut client: BlockingClient| {
            // Asleep on both sides in between, so that the bells of the other user ring.
            for n in 0..50u8 {
                std::thread::sleep(std::time::Duration::from_millis(3));
                assert_eq!(client.call_bytes("echo", &[n; 100])?, [n; 100]);
            }
            Ok(client)
        });
    match called {
        Ok(_client) => {
            say("called");
            commands.wait();
        }
        Err(error @ Error::Credentials { .. }) => say(format!("Credentials | {error}")),
        Err(error) => say(format!("{error:?} | {error}")),
    }
}

/// Tries to get at what another process has open: says which of its descriptors and mappings could
/// be opened, and how many there are to try.
fn open(settings: &Settings, _: Commands) {
    let pid = settings.number("pid").expect("a process");
    let mut opened = Vec::new();
    for number in 0..64 {
        for path in [
            format!("/proc/{pid}/fd/{number}"),
            format!("/proc/{pid}/fdinfo/{number}"),
        ] {
            if fs::File::open(&path).is_ok() {
                opened.push(path);
            }
        }
    }
    for name in ["mem", "maps", "environ", "map_files"] {
        let path = format!("/proc/{pid}/{name}");
        if fs::read(&path).is_ok() || fs::read_dir(&path).is_ok() {
            opened.push(path);
        }
    }
    say(format!("opened {opened:?}"));
}

/// A directory that everybody may enter, with a copy of this program that everybody may run.
struct Town {
    path: PathBuf,
    program: PathBuf,
}

impl Town {
    /// `None` without root.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI must run the tests of two users as root"
            );
            eprintln!("not root: cannot be two users, nothing is checked");
            return None;
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("nearwire-users-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let program = path.join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Some(Self { path, program })
    }

    /// A directory of this user's.
    fn directory(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        path
    }

    /// A process of this user's, which finds plain names in `directory`.
    fn start(&self, user: u32, directory: &Path, role: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = Process::command(&[], &self.program, directory, role, settings);
        // Root's supplementary groups go with the change of user.
        command.uid(user).gid(user).current_dir("/");
        Process::spawn(command, &[], role)
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_server_in_its_own_directory_is_out_of_reach() {
    let Some(town) = Town::new() else { return };
    let home = town.directory("alice", ALICE, 0o755);
    let own = home.join("nearwire");
    let server = town.start(ALICE, &own, "serve", &[("name", "x")]);
    server.expect("ready");
    assert_eq!((mode(&own), mode(&own.join("x.sock"))), (0o700, 0o600));
    let socket = own.join("x.sock");
    let mallory = town.start(MALLORY, &own, "connect", &[("name", text(&socket))]);
    let said = mallory.hear();
    assert!(
        said.contains("NoAccess") && said.contains("another user"),
        "{said}"
    );
    // She may not take the name either.
    let squatter = town.start(MALLORY, &own, "serve", &[("name", "x")]);
    let said = squatter.hear();
    assert!(
        said.contains("Directory") && said.contains("Owner") || said.contains("NoAccess"),
        "{said}"
    );
    let friend = town.start(ALICE, &own, "connect", &[("name", "x")]);
    friend.expect("called");
    // Root is not kept out by the system, and is refused by the server.
    let root = town.start(0, &own, "connect", &[("name", text(&socket))]);
    let said = root.hear();
    assert!(
        said.contains("Credentials") || said.contains("not welcome"),
        "{said}"
    );
    assert_eq!(server.ask("connections"), "1");
}

#[test]
fn a_socket_that_others_may_open_is_guarded_by_credentials() {
    let Some(town) = Town::new() else { return };
    let shared = town.directory("shared", ALICE, 0o755);
    let socket = shared.join("x.sock");
    let name = ("name", text(&socket));
    // As it is made, the system keeps her out.
    let closed = town.start(ALICE, &shared, "serve", &[name]);
    closed.expect("ready");
    assert_eq!(mode(&socket), 0o600);
    let said = town.start(MALLORY, &shared, "connect", &[name]).hear();
    assert!(said.contains("NoAccess"), "{said}");
    drop(closed);
    // Opened by its owner, the server does.
    let opened = town.start(ALICE, &shared, "serve", &[name, ("open to all", "")]);
    opened.expect("ready");
    let trust = ("trust", "64101");
    let said = town
        .start(MALLORY, &shared, "connect", &[name, trust])
        .hear();
    assert!(
        said.contains("Credentials") && said.contains("user"),
        "{said}"
    );
    assert_eq!(opened.ask("connections"), "0");
    // And her own client does not talk to a server of somebody else unless told to.
    let said = town.start(MALLORY, &shared, "connect", &[name]).hear();
    assert!(
        said.starts_with("Credentials") && said.contains(&ALICE.to_string()),
        "{said}"
    );
}

#[test]
fn two_users_that_trust_each_other_can_talk() {
    let Some(town) = Town::new() else { return };
    let shared = town.directory("shared", ALICE, 0o755);
    let socket = shared.join("x.sock");
    let name = ("name", text(&socket));
    let trusting = [name, ("open to all", ""), ("trust", "64102")];
    let server = town.start(ALICE, &shared, "serve", &trusting);
    server.expect("ready");
    let client = town.start(MALLORY, &shared, "connect", &[name, ("trust", "64101")]);
    client.expect("called");
    assert_eq!(server.ask("connections"), "1");
    // What they share is reached by nobody else: neither's memory, nor its descriptors.
    for process in [&server, &client] {
        let pid = process.id().to_string();
        for user in [ALICE, MALLORY] {
            let owner = if process.id() == server.id() {
                ALICE
            } else {
                MALLORY
            };
            if user != owner {
                let said = town.start(user, &shared, "open", &[("pid", &pid)]).hear();
                assert_eq!(said, "opened []");
            }
        }
    }
}

#[test]
fn a_place_that_somebody_else_prepared_is_refused() {
    let Some(town) = Town::new() else { return };
    let refused = |directory: &Path, name: &str, fault: &str| {
        let process = town.start(ALICE, directory, "serve", &[("name", name)]);
        let said = process.hear();
        assert!(
            said.contains("Directory") && said.contains(fault),
            "{}: {said}",
            directory.display()
        );
    };
    // Her directory where his would be made, as in a sticky /tmp.
    let tmp = town.directory("tmp", 0, 0o1777);
    let squatted = town.directory("tmp/nearwire-64101", MALLORY, 0o755);
    refused(&squatted, "x", "Owner");
    // Closed, so that he cannot even look.
    let closed = town.directory("tmp/closed", MALLORY, 0o700);
    refused(&closed, "x", "NoAccess");
    // Her symbolic link, to a directory of her own and to one of his.
    let his = town.directory("his", ALICE, 0o700);
    for (name, target) in [("link", &squatted), ("to-his", &his)] {
        let link = tmp.join(name);
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(MALLORY), Some(MALLORY)).unwrap();
        refused(&link, "x", "SymbolicLink");
    }
    // A path straight into what everybody may write, sticky or not.
    refused(&his, text(&tmp.join("x.sock")), "Mode");
    // Her directory, open to him and closed to others' writes.
    refused(&his, text(&squatted.join("x.sock")), "Owner");
    // Nothing of all that was left behind.
    assert_eq!(fs::read_dir(&squatted).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&his).unwrap().count(), 0);
    // Where nobody was before, all is well.
    let fresh = town.directory("alice", ALICE, 0o755);
    let server = town.start(ALICE, &fresh.join("own"), "serve", &[("name", "x")]);
    server.expect("ready");
}

#[test]
fn a_server_of_somebody_else_under_the_wanted_name_is_not_trusted() {
    let Some(town) = Town::new() else { return };
    let hers = town.directory("hers", MALLORY, 0o755);
    let socket = hers.join("x.sock");
    let name = ("name", text(&socket));
    let server = town.start(
        MALLORY,
        &hers,
        "serve",
        &[name, ("open to all", ""), ("trust", "64101")],
    );
    server.expect("ready");
    let said = town.start(ALICE, &hers, "connect", &[name]).hear();
    assert!(
        said.starts_with("Credentials") && said.contains(&MALLORY.to_string()),
        "{said}"
    );
    assert_eq!(server.ask("connections"), "0");
}
