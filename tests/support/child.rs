//! The child's side: which role it plays, what it is told, what it says.

use super::Place;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

pub const ROLE: &str = "NEARWIRE_TEST_ROLE";
pub const SETTINGS: &str = "NEARWIRE_TEST_SETTINGS";
/// Begins every line that is meant for the parent, for the test harness prints lines of its own.
pub const MARK: &str = "@@ ";
/// The setting that a role has which runs on a thread of its parent's process, whose environment is not
/// its own.
const DIRECTORY: &str = "directory";
/// Between settings, and between a setting's name and value.
pub const SEPARATOR: char = '\x1f';

thread_local! {
    /// Who listens to the role that runs on this thread, if its parent is in the same process.
    static LISTENER: RefCell<Option<mpsc::Sender<String>>> = const { RefCell::new(None) };
}

/// What a role was started with.
#[derive(Debug, Clone)]
pub struct Settings(HashMap<String, String>);

impl Settings {
    fn from_environment() -> Self {
        let text = std::env::var(SETTINGS).unwrap_or_default();
        let mut parts = text.split(SEPARATOR).map(str::to_owned);
        let mut settings = HashMap::new();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            settings.insert(name, value);
        }
        Self(settings)
    }

    /// What a server is called that others in the test's directory call `name`.
    pub fn server(&self, name: &str) -> String {
        match self.text(DIRECTORY) {
            Some(directory) => Place::socket_in(directory.as_ref(), name),
            // The environment has it.
            None => name.to_owned(),
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn number(&self, name: &str) -> Option<usize> {
        let parse = |text: &String| text.parse().unwrap_or_else(|_| panic!("{name}={text}"));
        self.0.get(name).map(parse)
    }

    pub fn millis(&self, name: &str) -> Option<Duration> {
        Some(Duration::from_millis(self.number(name)? as u64))
    }
}

/// A role: what it was started with, and what it is told meanwhile.
pub type Role = fn(&Settings, Commands);

/// Roles by their names.
pub type Roles = &'static [(&'static str, Role)];

fn role(roles: Roles, wanted: &str) -> Role {
    let role = roles.iter().find(|(name, _)| *name == wanted);
    role.unwrap_or_else(|| panic!("no role {wanted:?}")).1
}

/// Plays the role that the environment names, if any. Returns whether there was one.
///
/// A child whose parent is gone ends by itself.
pub fn play(roles: Roles) -> bool {
    let Ok(wanted) = std::env::var(ROLE) else {
        return false;
    };
    let role = role(roles, &wanted);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let Ok(line) = line else { break };
            let _ = sender.send(line);
        }
        std::process::exit(0);
    });
    role(&Settings::from_environment(), Commands(receiver));
    // The harness would print what nobody reads.
    std::process::exit(0);
}

/// Plays a role on a thread of its own in this process, until it ends or `commands` are over. Speaks to
/// `listener`.
pub fn play_on_a_thread(
    roles: Roles,
    wanted: &str,
    directory: &str,
    settings: &[(&str, &str)],
    commands: mpsc::Receiver<String>,
    listener: mpsc::Sender<String>,
) -> std::thread::JoinHandle<()> {
    let role = role(roles, wanted);
    let directory = (DIRECTORY, directory);
    let settings = settings.iter().chain([&directory]);
    let settings = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings = Settings(settings.collect());
    let thread = std::thread::Builder::new().name(wanted.to_owned());
    let play = move || {
        LISTENER.set(Some(listener));
        role(&settings, Commands(commands));
    };
    thread.spawn(play).unwrap()
}

/// What the parent says.
#[derive(Debug)]
pub struct Commands(mpsc::Receiver<String>);

impl Commands {
    /// Waits for the next command.
    pub fn next(&self) -> String {
        // In a process of its own, the thread at the other end exits the process; it never just ends.
        // On a thread of the parent's process, the role is over.
        let ended = |_| std::panic::resume_unwind(Box::new("the parent wants no more of it"));
        self.0.recv().unwrap_or_else(ended)
    }

    /// For ever: until the parent kills this process, or is gone itself.
    pub fn wait(&self) -> ! {
        loop {
            self.next();
        }
    }
}

/// Says a line to the parent.
pub fn say(line: impl std::fmt::Display) {
    if let Some(listener) = LISTENER.with_borrow(Clone::clone) {
        let _ = listener.send(line.to_string());
        return;
    }
    let text = format!("{MARK}{line}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    super::os::open_handles(std::process::id())
}
