//! Running the examples as users do: as processes, in a place of their own, with an end to every
//! wait.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nearwire::BlockingClient;
use tempfile::TempDir;

/// How long anything may take that takes a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for the sockets and files of one test.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The socket of a server of this place.
    pub fn socket(&self, name: &str) -> String {
        let file = self.path("names").join(format!("{name}.sock"));
        file.to_str().unwrap().to_owned()
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NEARWIRE_DIR", self.path("names"))
            .stdin(Stdio::null());
        command
    }

    /// Starts a server and waits until it serves.
    pub fn serve(&self, program: &str, arguments: &[&str]) -> Running {
        let mut running = self.start(program, arguments);
        running.expect("serving");
        running
    }

    /// Starts a server that says something before it serves; and what, behind `before`.
    pub fn serve_after(
        &self,
        program: &str,
        arguments: &[&str],
        before: &str,
    ) -> (Running, String) {
        let mut running = self.start(program, arguments);
        let line = running.expect(before);
        running.expect("serving");
        let (_, said) = line.split_once(before).unwrap();
        (running, said.to_owned())
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(program, arguments);
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = lines(child.stderr.take().unwrap());
        Running {
            child,
            lines: stderr,
            stdin: None,
        }
    }

    /// Starts a program that is talked to: its standard input and output.
    pub fn talk(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Running {
            lines: lines(child.stdout.take().unwrap()),
            stdin: child.stdin.take(),
            child,
        }
    }

    /// Runs a program to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Runs a program, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A client of a server of this place.
    #[track_caller]
    pub fn connect(&self, name: &str) -> BlockingClient {
        BlockingClient::connect(&self.socket(name)).unwrap()
    }
}

fn lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody may be interested any more.
            let _ = sender.send(line);
        }
    });
    lines
}

/// A program at work. Killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stdin: Option<ChildStdin>,
}

impl Running {
    /// The next line that it says.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    /// Waits for a line that has this text.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {text:?} ({error}) among {seen:?}"),
            }
        }
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is talked to");
        writeln!(stdin, "{line}").unwrap();
    }

    /// Says no more, and waits for the end.
    #[track_caller]
    pub fn finish(mut self) {
        self.stdin = None;
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }

    /// Ends it as kill -9 does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The library's own source code.
pub fn source_tree() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../src"))
}

/// Whether a process runs. One that has ended and only waits for its parent to notice does not.
pub fn runs(process: u32) -> bool {
    let process = process.to_string();
    let output = Command::new("ps")
        .args(["-o", "stat=", "-p", &process])
        .output();
    let state = String::from_utf8(output.unwrap().stdout).unwrap();
    !matches!(state.trim().chars().next(), None | Some('Z'))
}
