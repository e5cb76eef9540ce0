//! A process that serves one command: nobody else finds its socket, and it goes when the command
//! does.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{Child, Parent, outlive_parent};

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

/// How long the process may take to close its connections.
pub const GRACE: Duration = Duration::from_secs(2);

#[cfg(unix)]
pub use unix::Place;
#[cfg(windows)]
pub use windows::{Place, pipe_name};

#[cfg(unix)]
use unix::Left;
#[cfg(windows)]
use windows::Left;

/// What the process says when it serves.
#[derive(Serialize, Deserialize)]
struct Serving {
    path: String,
}

/// A child process that serves under a path of its own.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    serving_at: String,
    _left: Left,
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
            _left: Left::at(&serving.path),
            serving_at: serving.path,
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
    let place = Place::new()?;
    let server = start(settings, place.path())?;
    parent.channel().send(&Serving {
        path: place.path().to_owned(),
    })?;
    // Nothing else is ever said.
    while parent.channel().next::<()>()?.is_some() {}
    // Clients that do not let go must not keep this process.
    std::thread::spawn(|| {
        std::thread::sleep(2 * GRACE);
        std::process::exit(1);
    });
    // Nobody is to find it any more.
    let removed = place.remove();
    stop(server);
    removed
}
