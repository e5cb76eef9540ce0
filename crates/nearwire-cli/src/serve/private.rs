//! A server in a process of its own, for one command: nobody else finds it, and it goes when the
//! command does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::set_parent_process_death_signal;
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::process::{Child, Parent, cpus_of};
use crate::services;

/// The role of the server's process.
pub const PRIVATE_SERVER_ROLE: &str = "server";

/// How long the server may take to close its connections.
const GRACE: Duration = Duration::from_secs(2);

/// What the server's process says when it serves.
#[derive(Serialize, Deserialize)]
struct Serving {
    path: String,
    directory: PathBuf,
}

/// A server process with the services `echo` and `hash`, under a path of its own.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    serving_at: String,
    _directory: Directory,
}

/// The server removes it itself; this is for a server that was killed.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // It is gone already, or somebody else's business by now.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl PrivateServer {
    /// Starts the process, on one CPU if `cpu` says so, and waits until it serves.
    ///
    /// # Errors
    /// If it cannot be started, or cannot serve.
    pub fn start(settings: &Settings, cpu: Option<usize>) -> Result<Self> {
        let child = Child::start(PRIVATE_SERVER_ROLE, cpu)?.tidy();
        child.channel().send(settings)?;
        let serving: Serving = child
            .channel()
            .receive()
            .context("the server process does not serve")?;
        Ok(Self {
            child,
            serving_at: serving.path,
            _directory: Directory(serving.directory),
        })
    }

    /// What clients connect to.
    pub fn name(&self) -> &str {
        &self.serving_at
    }

    /// The server's process.
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// The CPUs that each of the server's workers may run on, as the kernel says.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn worker_cpus(&self) -> Result<Vec<Vec<usize>>> {
        let mut workers = Vec::new();
        let tasks = format!("/proc/{}/task", self.child.id());
        for task in std::fs::read_dir(tasks).context("the server process is gone")? {
            let task = task?;
            // A thread may end meanwhile.
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let number = name.trim_end().strip_prefix("nearwire-");
            if number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit())) {
                let thread = task.file_name().to_str().and_then(|id| id.parse().ok());
                workers.push(cpus_of(thread));
            }
        }
        Ok(workers)
    }

    /// Ends the server and waits until it is gone.
    ///
    /// # Errors
    /// If it had failed meanwhile.
    pub fn finish(self) -> Result<()> {
        self.child.finish()
    }
}

/// The role of the server's process: serves until the parent closes the channel, or dies.
///
/// # Errors
/// If it cannot serve.
pub fn serve_privately(parent: Parent) -> Result<()> {
    // The end of the channel tells that the parent is dead, whatever killed it, and leaves time to
    // remove the directory.
    set_parent_process_death_signal(None)?;
    let settings: Settings = parent.channel().receive()?;
    let directory = private_directory()?;
    let path = directory.path().join("server.sock");
    let path = path
        .to_str()
        .context("the temporary directory's path is not UTF-8: set TMPDIR to one whose path is")?;
    let server = services::add_immediate(settings.builder()).bind(path)?;
    parent.channel().send(&Serving {
        path: path.to_owned(),
        directory: directory.path().to_owned(),
    })?;
    // Nothing else is ever said.
    while parent.channel().next::<()>()?.is_some() {}
    // Clients that do not let go must not keep this process.
    std::thread::spawn(|| {
        std::thread::sleep(2 * GRACE);
        std::process::exit(1);
    });
    // The socket is in it; nobody is to find it any more.
    let removed = directory.close();
    server.shutdown(GRACE);
    removed.context("cannot remove the socket's directory")
}

fn private_directory() -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("nearwire-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder
        .tempdir()
        .context("cannot make a temporary directory")
}
