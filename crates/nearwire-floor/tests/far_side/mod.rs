//! The far side of an operation in a process of its own: this executable, run again.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as os;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as os;

use std::io::Read;
use std::process::Command;
use std::thread::{self, JoinHandle};

use nearwire_floor::Descriptors;

/// Which far side a process was started to be.
const ROLE: &str = "NEARWIRE_FLOOR_TEST_ROLE";

/// The exit code of a far side that has done its part. What else there is, a far side that was never
/// begun included, is a failure.
const PLAYED: i32 = 17;

/// What a far side does with the operation's descriptors.
pub type Role = fn(Descriptors);

/// Another process, which leaves when this one does.
pub struct FarSide {
    _line: os::Line,
    ending: JoinHandle<()>,
}

impl FarSide {
    /// Starts the far side called `role`. Should it fail, so does this process, which would spin for
    /// ever.
    pub fn start(role: &str, descriptors: Descriptors) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child_process", "--exact", "--nocapture"])
            .env(ROLE, role);
        let (mut child, line) = os::start(command, descriptors);
        let role = role.to_owned();
        let ending = thread::spawn(move || {
            let status = child.wait().unwrap();
            if status.code() != Some(PLAYED) {
                eprintln!("the far side called {role} has failed: {status}");
                std::process::abort();
            }
        });
        Self {
            _line: line,
            ending,
        }
    }

    /// Waits until it has done its part.
    pub fn finish(self) {
        self.ending.join().unwrap();
    }
}

/// Does what this process was started for, if it is a far side, and ends it.
pub fn play(roles: &[(&str, Role)]) {
    let Ok(wanted) = std::env::var(ROLE) else {
        return;
    };
    let (descriptors, mut line) = os::handed_over();
    thread::spawn(move || {
        // Nothing more comes but the end.
        let _ = line.read(&mut [0]);
        std::process::exit(1);
    });
    let (_, role) = roles.iter().find(|(name, _)| *name == wanted).unwrap();
    role(descriptors);
    std::process::exit(PLAYED);
}
