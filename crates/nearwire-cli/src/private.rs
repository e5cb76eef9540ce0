//! A process that serves one command: nobody else finds its socket, and it goes when the command
//! does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{Child, Parent, outlive_parent};

/// How long the process may take to close its connections.
pub const GRACE: Duration = Duration::from_secs(2);

/// What the process says when it serves.
#[derive(Serialize, Deserialize)]
struct Serving {
    path: String,
    directory: PathBuf,
}

/// A child process that serves under a path of its own.
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
    /// Starts a process in `role`, which calls [`serve`], on one CPU if `cpu` says so. Waits until
    /// it serves.
    ///
    /// # Errors
    /// If it cannot be started, or cannot serve.
    pub fn start(role: &str, settings: &impl Serialize, cpu: Option<usize>) -> Result<Self> {
        let child = Child::start(role, cpu)?.tidy();
        child.channel().send(settings)?;
        let serving: Serving = child
            .channel()
            .receive()
            .with_context(|| format!("the {role} process does not serve"))?;
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

    /// The process.
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// Ends the process and waits until it is gone.
    ///
    /// # Errors
    /// If it had failed meanwhile.
    pub fn finish(self) -> Result<()> {
        self.child.finish()
    }
}

/// The process's side: serves with what `start` makes of the settings and the path, until the
/// parent closes the channel, or dies; then `stop`s.
///
/// # Errors
/// If it cannot serve.
pub fn serve<S: DeserializeOwned, T>(
    parent: &Parent,
    start: impl FnOnce(S, &str) -> Result<T>,
    stop: impl FnOnce(T),
) -> Result<()> {
    // The end of the channel tells that the parent is dead, whatever killed it, and leaves time to
    // remove the directory.
    outlive_parent()?;
    let settings = parent.channel().receive()?;
    let directory = private_directory()?;
    let path = directory.path().join("server.sock");
    let path = path
        .to_str()
        .context("the temporary directory's path is not UTF-8: set TMPDIR to one whose path is")?;
    let server = start(settings, path)?;
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
    stop(server);
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
