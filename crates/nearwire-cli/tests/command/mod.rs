//! Running the real command: in a place of its own, with an end to every wait, and with a look at
//! what it leaves behind.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// How long anything may take that takes a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of servers' names and one for temporary files, for the commands of one test.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tmp")).unwrap();
        Self(directory)
    }

    /// Where sockets lie.
    pub fn names(&self) -> PathBuf {
        self.0.path().join("names")
    }

    /// A path for a file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command, in this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nearwire"));
        command
            .args(arguments)
            .env("NEARWIRE_DIR", self.names())
            .env("TMPDIR", self.0.path().join("tmp"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            // A terminal's signals go to a group.
            .process_group(0);
        command
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait()
    }

    /// Runs the command, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn output(&self, arguments: &[&str]) -> Vec<u8> {
        let ended = self.run(arguments);
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
        ended.stdout
    }

    /// Runs the command, which must print one JSON value and nothing else.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.output(arguments);
        serde_json::from_slice(&output)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output)))
    }

    /// A server with the built-in services, which takes calls.
    pub fn serve(&self, name: &str, arguments: &[&str]) -> Running {
        let mut server = self.start(&[&["serve", name], arguments].concat());
        server.expect("serving");
        server
    }

    /// Waits until no process of this place is left, and checks that no file is.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        eventually("all processes are gone", || self.processes().is_empty());
        for directory in [self.names(), self.0.path().join("tmp")] {
            let left: Vec<PathBuf> = fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }

    /// Processes of commands that were started in this place, and of their descendants, whoever
    /// their parent is by now.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("NEARWIRE_DIR={}", self.names().display());
        if !cfg!(target_os = "linux") {
            // With the environment behind the command.
            let listed = ps(&["-axEww", "-o", "pid=,command="]);
            let marked = listed.lines().filter(|line| line.contains(&mark));
            return marked.filter_map(first_number).collect();
        }
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|id| {
                let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
                environment
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
            .collect()
    }
}

/// What `ps` says, where there is no `/proc`.
pub fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn first_number(line: &str) -> Option<u32> {
    line.split_whitespace().next()?.parse().ok()
}

/// A command at work. Killed when dropped.
pub struct Running {
    process: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    lines: Receiver<String>,
    /// Lines of standard error that were looked at.
    stderr: String,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = process.stdout.take().unwrap();
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let line = line.unwrap_or_else(|error| format!("({error})"));
                // Nobody may be interested any more.
                let _ = sender.send(line);
            }
        });
        Self {
            process,
            stdout: Some(stdout),
            lines,
            stderr: String::new(),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.id() as i32).unwrap()
    }

    /// Waits for a line of standard error that has this text.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        self.expect_line(text);
    }

    /// As [`expect`](Self::expect); returns the line.
    #[track_caller]
    pub fn expect_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {text:?}; there were: {}", self.stderr);
            };
            let found = line.contains(text);
            self.stderr += &line;
            self.stderr.push('\n');
            if found {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// As a terminal does it.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap();
    }

    /// Children, in the order in which they were started.
    pub fn children(&self) -> Vec<u32> {
        let id = self.id();
        if !cfg!(target_os = "linux") {
            let listed = ps(&["-ax", "-o", "pid=,ppid="]);
            let children = listed
                .lines()
                .filter(|line| line.split_whitespace().nth(1) == Some(&id.to_string()));
            return children.filter_map(first_number).collect();
        }
        fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .unwrap()
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect()
    }

    /// Waits for the end.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let mut status = None;
        eventually("the command ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        // Ends when the last process that has the pipe does.
        for line in self.lines.iter() {
            self.stderr += &(line + "\n");
        }
        Ended {
            status: status.unwrap(),
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr: std::mem::take(&mut self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ended {
    /// It failed with code 1, said why, and printed nothing.
    #[track_caller]
    pub fn expect_error(&self, texts: &[&str]) {
        self.expect_code(1, texts);
    }

    /// It ended with this code, said why, and printed nothing.
    #[track_caller]
    pub fn expect_code(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self:?}");
        for text in texts {
            assert!(self.stderr.contains(text), "no {text:?}: {self:?}");
        }
        assert!(self.stdout.is_empty(), "{self:?}");
    }

    /// It died of this signal.
    #[track_caller]
    pub fn expect_signal(&self, signal: Signal) {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:?}");
        // Whoever asked for the end is not told of a failure.
        assert!(!self.stderr.contains("error:"), "{self:?}");
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never so: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// A file of so many bytes that compress to little and hash to something.
pub fn write_pattern(path: &Path, bytes: usize) -> blake3::Hash {
    let content: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
    fs::write(path, &content).unwrap();
    blake3::hash(&content)
}
