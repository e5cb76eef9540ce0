//! `nearwire serve`, `nearwire call` and what looks at servers and machines, on every system: what needs
//! no signals and no terminals.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

fn nearwire(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearwire"));
    command.args(arguments).stdin(Stdio::null());
    command
}

const NAME: &str = "demo";

/// A server in a directory of its own. It does not outlive this.
struct Serving {
    process: Child,
    directory: std::path::PathBuf,
}

impl Serving {
    fn start(transport: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let unique = format!("nearwire-serve-{process}-{number}");
        let directory = std::env::temp_dir().join(unique);
        let mut process = nearwire(&["serve", NAME, "--transport", transport])
            .env("NEARWIRE_DIR", &directory)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stderr.take().unwrap());
        let mut said = String::new();
        // Behind a warning, on a machine that is busy.
        while !said.lines().any(|line| line.starts_with("serving ")) {
            let more = output.read_line(&mut said).unwrap();
            assert_ne!(more, 0, "it ended: {said}");
        }
        // Nothing that it says later may keep it waiting.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { process, directory }
    }

    /// A command about the server.
    fn about(&self, command: &str, arguments: &[&str]) -> Output {
        let mut command = nearwire(&[command, NAME]);
        command.args(arguments).env("NEARWIRE_DIR", &self.directory);
        command.output().unwrap()
    }

    #[track_caller]
    fn reply(&self, arguments: &[&str]) -> String {
        said(self.about("call", arguments))
    }
}

/// What a command said that did its work.
#[track_caller]
fn said(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn calls_are_answered_over(transport: &str) {
    let server = Serving::start(transport);
    assert_eq!(server.reply(&["echo", "hello"]), "hello");
    let hash = server.reply(&["hash", "hello", "--hex"]);
    assert_eq!(hash.trim_end().len(), 64, "{hash}");
    let methods = server.reply(&[]);
    assert!(methods.lines().any(|method| method == "echo"), "{methods}");
    let items = server.reply(&["stream", "3", "--json"]);
    assert_eq!(items.lines().count(), 3, "{items}");
    let offer = server.reply(&["--json"]);
    let offer: serde_json::Value = serde_json::from_str(&offer).unwrap();
    assert_eq!(offer["server"]["pid"], server.process.id());
    let failed = server.about("call", &["nothing"]);
    assert_eq!(failed.status.code(), Some(1));
    let errors = String::from_utf8(failed.stderr).unwrap();
    assert!(errors.starts_with("error: "), "{errors}");
}

#[test]
fn calls_are_answered_over_shared_memory() {
    calls_are_answered_over("shared-memory");
}

#[test]
fn calls_are_answered_over_the_socket() {
    calls_are_answered_over("socket");
}

#[test]
fn a_server_can_be_looked_at() {
    let server = Serving::start("shared-memory");
    assert_eq!(server.reply(&["echo", "hello"]), "hello");
    let stat = said(server.about("stat", &[]));
    let calls = stat.lines().find(|line| line.starts_with("calls_ok"));
    let calls = calls.and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(calls, Some("1"), "{stat}");
    let inspect = said(server.about("inspect", &[]));
    assert!(inspect.contains("1 worker"), "{inspect}");
}

#[test]
fn what_needs_no_server_runs_everywhere() {
    let doctor = nearwire(&["doctor", "--json"]).output().unwrap();
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(findings.is_object(), "{findings}");
    let manual = said(nearwire(&["man"]).output().unwrap());
    assert!(manual.contains(".TH NEARWIRE"), "{manual}");
    let completions = said(nearwire(&["completions", "powershell"]).output().unwrap());
    assert!(completions.contains("nearwire"), "{completions}");
}

#[test]
fn a_call_to_nobody_says_what_to_do() {
    let output = nearwire(&["call", "nearwire-nobody-is-called-so", "echo", "x"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("help: `nearwire serve"), "{errors}");
}
