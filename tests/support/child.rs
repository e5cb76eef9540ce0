//! The child's side: which role it plays, what it is told, what it says.

use std::collections::HashMap;
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

pub const ROLE: &str = "NEARWIRE_TEST_ROLE";
pub const SETTINGS: &str = "NEARWIRE_TEST_SETTINGS";
/// Begins every line that is meant for the parent, for the test harness prints lines of its own.
pub const MARK: &str = "@@ ";
/// Between settings, and between a setting's name and value.
pub const SEPARATOR: char = '\x1f';

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

/// Plays the role that the environment names, if any. Returns whether there was one.
///
/// A child whose parent is gone ends by itself.
pub fn play(roles: &[(&str, Role)]) -> bool {
    let Ok(wanted) = std::env::var(ROLE) else {
        return false;
    };
    let role = roles.iter().find(|(name, _)| *name == wanted);
    let (_, role) = role.unwrap_or_else(|| panic!("no role {wanted:?}"));
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

/// What the parent says.
#[derive(Debug)]
pub struct Commands(mpsc::Receiver<String>);

impl Commands {
    /// Waits for the next command.
    pub fn next(&self) -> String {
        // The thread at the other end exits the process; it never just ends.
        self.0.recv().expect("the parent is there")
    }

    /// For ever: until the parent kills this process, or is gone itself.
    pub fn wait(&self) -> ! {
        loop {
            std::thread::park();
        }
    }
}

/// Says a line to the parent.
pub fn say(line: impl std::fmt::Display) {
    let text = format!("{MARK}{line}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    super::os::open_handles(std::process::id())
}
