//! The parent's side: a child process, or a thread that stands for one.

use super::PATIENCE;
use super::child::{self, MARK, ROLE, Roles, SEPARATOR, SETTINGS};
use super::os;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A child process, or a thread of this one that stands for it. It does not outlive this.
#[derive(Debug)]
pub struct Process {
    runs: Runs,
    answers: Mutex<mpsc::Receiver<String>>,
    role: String,
}

/// Where a role runs, and what takes its commands.
#[derive(Debug)]
enum Runs {
    InProcess(Mutex<Child>, Mutex<ChildStdin>),
    /// Both are there until this is dropped.
    OnThread(Option<mpsc::Sender<String>>, Option<JoinHandle<()>>),
}

impl Process {
    /// Starts a child in this role, which finds servers' names in `directory`.
    pub fn start(directory: &Path, role: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_through(&[], directory, role, settings, &[])
    }

    /// As [`start`](Self::start), run by `launcher` (a program and its arguments, if any), with
    /// these variables in its environment.
    pub fn start_through(
        launcher: &[&str],
        directory: &Path,
        role: &str,
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Self {
        let program = std::env::current_exe().unwrap();
        let command = Self::command(launcher, &program, directory, role, settings);
        Self::spawn(command, environment, role)
    }

    /// Starts a thread in this role, which makes its servers in `directory` and finds them there.
    pub fn start_thread(
        roles: Roles,
        directory: &Path,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let (sender, commands) = mpsc::channel();
        let (listener, answers) = mpsc::channel();
        let directory = directory.to_str().unwrap();
        let thread = child::play_on_a_thread(roles, role, directory, settings, commands, listener);
        Self {
            runs: Runs::OnThread(Some(sender), Some(thread)),
            answers: answers.into(),
            role: role.to_owned(),
        }
    }

    /// What starts a child in this role; `program` is this test's, or a copy of it, and `launcher`
    /// runs it, if there is one.
    pub fn command(
        launcher: &[&str],
        program: &Path,
        directory: &Path,
        role: &str,
        settings: &[(&str, &str)],
    ) -> Command {
        let parts = settings.iter().flat_map(|(name, value)| [*name, *value]);
        let settings = parts.collect::<Vec<_>>().join(&SEPARATOR.to_string());
        let mut command = match launcher {
            [] => Command::new(program),
            [launcher, arguments @ ..] => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(program);
                command
            }
        };
        command
            .args(["child_process", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(SETTINGS, settings)
            .env("NEARWIRE_DIR", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Starts the child that [`command`](Self::command) describes, with these variables too.
    pub fn spawn(mut command: Command, environment: &[(&str, &str)], role: &str) -> Self {
        command.envs(environment.iter().copied());
        // While a copy of the program was written, another test may have forked, and holds it open for
        // writing until its own exec.
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                spawned => break spawned.unwrap(),
            }
        };
        let commands = child.stdin.take().unwrap().into();
        let (sender, answers) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let whose = format!("{role}, process {}", child.id());
        std::thread::spawn(move || {
            for line in output.lines() {
                let line = match line {
                    Ok(line) => line,
                    Err(error) => return eprintln!("{whose}: cannot be heard: {error}"),
                };
                // The harness does not end its own line before the child speaks.
                if let Some((_, said)) = line.split_once(MARK) {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Self {
            runs: Runs::InProcess(child.into(), commands),
            answers: answers.into(),
            role: role.to_owned(),
        }
    }

    pub fn id(&self) -> u32 {
        match &self.runs {
            Runs::InProcess(child, _) => child.lock().unwrap().id(),
            Runs::OnThread(..) => std::process::id(),
        }
    }

    /// The process, of which the body needs that it is one.
    #[track_caller]
    fn child(&mut self) -> &mut Child {
        match &mut self.runs {
            Runs::InProcess(child, _) => child.get_mut().unwrap(),
            Runs::OnThread(..) => panic!("{} is no process", self.role),
        }
    }

    /// As [`child`](Self::child).
    #[track_caller]
    fn child_id(&self) -> u32 {
        match &self.runs {
            Runs::InProcess(child, _) => child.lock().unwrap().id(),
            Runs::OnThread(..) => panic!("{} is no process", self.role),
        }
    }

    /// Tells the child something.
    pub fn tell(&self, command: &str) {
        let listens = match &self.runs {
            Runs::InProcess(_, commands) => {
                let line = format!("{command}\n");
                let told = commands.lock().unwrap().write_all(line.as_bytes());
                told.is_ok()
            }
            Runs::OnThread(commands, _) => {
                let commands = commands.as_ref().unwrap();
                commands.send(command.to_owned()).is_ok()
            }
        };
        assert!(listens, "{} is not listening", self.role);
    }

    /// The next thing that the child says.
    #[track_caller]
    pub fn hear(&self) -> String {
        match self.answers.lock().unwrap().recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("{} says nothing: {error}{}", self.role, self.how_it_ended()),
        }
    }

    /// With which status the child has ended, if it is a process and has, or is about to.
    fn how_it_ended(&self) -> String {
        let Runs::InProcess(child, _) = &self.runs else {
            return String::new();
        };
        for _ in 0..100 {
            if let Ok(Some(status)) = child.lock().unwrap().try_wait() {
                return format!(", it has ended ({status})");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        String::new()
    }

    /// What the child says within `time`, if anything.
    pub fn hear_within(&self, time: Duration) -> Option<String> {
        self.answers.lock().unwrap().recv_timeout(time).ok()
    }

    /// Hears exactly this.
    #[track_caller]
    pub fn expect(&self, line: &str) {
        assert_eq!(self.hear(), line, "what {} says", self.role);
    }

    /// Tells, and hears the answer.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }

    /// Asks for a report, which is `name=number` and so on.
    #[track_caller]
    pub fn report(&self) -> HashMap<String, u64> {
        let line = self.ask("report");
        let pairs = line.split_whitespace().map(|pair| {
            let (name, value) = pair.split_once('=').expect("name=number");
            (name.to_owned(), value.parse().expect("a number"))
        });
        pairs.collect()
    }

    /// SIGKILL. Returns when it was sent.
    pub fn kill(&mut self) -> Instant {
        let now = Instant::now();
        self.child().kill().unwrap();
        now
    }

    /// Stops all threads of the child. Returns when they have.
    pub fn stop(&self) {
        os::stop(self.child_id());
    }

    pub fn go_on(&self) {
        os::go_on(self.child_id());
    }

    /// Whether the child has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Waits for the child to end by itself, and well.
    #[track_caller]
    pub fn join(mut self) {
        let status = self.ended();
        assert!(status.success(), "{} failed: {status}", self.role);
    }

    /// Waits for the child to end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child().try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} hangs", self.role);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Time that each thread of the child has spent on processors. A sleeping thread has exactly
    /// what it had. (Where the system tells: else of all threads together.)
    pub fn cpu_times(&self) -> HashMap<String, Duration> {
        os::cpu_times(self.child_id())
    }

    /// Time that the child's threads, those that are still there, have spent on processors since
    /// `before`.
    pub fn cpu_time_since(&self, before: &HashMap<String, Duration>) -> Duration {
        let spent = |(thread, time): (&String, &Duration)| {
            let before = before.get(thread).copied().unwrap_or_default();
            time.saturating_sub(before)
        };
        self.cpu_times().iter().map(spent).sum()
    }

    /// Descriptors that the child has open.
    pub fn descriptors(&self) -> usize {
        os::open_handles(self.child_id())
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        os::resident(self.child_id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match &mut self.runs {
            Runs::InProcess(child, _) => {
                let child = child.get_mut().unwrap_or_else(PoisonError::into_inner);
                let _ = child.kill();
                let _ = child.wait();
            }
            Runs::OnThread(commands, thread) => {
                *commands = None;
                // It unwinds, out of its wait for commands.
                let _ = thread.take().map(JoinHandle::join);
            }
        }
    }
}
