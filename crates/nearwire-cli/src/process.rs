//! Child processes: this executable again, under a hidden subcommand.
//!
//! A child never outlives its parent: the kernel kills it when the parent dies (also of SIGKILL; where
//! the kernel does not, the child ends itself), and the guard kills and reaps it when it is dropped.
//! Parent and child talk over a socket that is the child's standard input (see [`Channel`]).

mod affinity;
mod channel;
mod parent_death;
mod signals;
mod watch;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

pub use affinity::{Placement, allowed_cpus, cpus_of, run_on, two_cpus};
pub use channel::Channel;
pub use parent_death::outlive_parent;
pub use signals::end_with_children;

use watch::Watch;

/// The hidden subcommand that [`Child::start`] runs.
pub const SUBCOMMAND: &str = "__child";

/// How long a child may take to report in, and to leave once it has been asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a child a signal may come to this process that was sent to both.
const PATIENCE_WITH_SIGNALS: Duration = Duration::from_secs(1);

/// What a child is started with.
#[derive(Debug, clap::Args)]
pub struct ChildArguments {
    /// What the child is for: a name in the table of roles.
    pub role: String,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
}

/// The child's first message.
#[derive(Serialize, Deserialize)]
struct Hello {
    placement: Placement,
}

/// A child process, killed and reaped on drop.
///
/// Start it from a thread that lives as long as the child shall: the kernel counts the end of the
/// *thread* that started a child as the parent's death.
pub struct Child {
    process: std::process::Child,
    watch: Watch,
    channel: Channel,
    role: String,
    placement: Placement,
    /// Set before the end of the child is this side's doing.
    dismissed: Arc<AtomicBool>,
}

impl Child {
    /// Starts this executable in `role`, on one CPU if `cpu` says so, and waits until it reports in.
    ///
    /// # Errors
    /// If the process cannot be started, or does not report in within 10 s.
    pub fn start(role: &str, cpu: Option<usize>) -> Result<Self> {
        let (near, far) = UnixStream::pair().context("cannot make a socket pair")?;
        let executable = std::env::current_exe().context("cannot find this executable")?;
        let mut command = Command::new(executable);
        command
            .args([SUBCOMMAND, role])
            .stdin(OwnedFd::from(far))
            .stdout(Stdio::null());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let process = command
            .spawn()
            .with_context(|| format!("cannot start the {role} process"))?;
        // Closes this process's copy of the far end, so that the child's death is an end-of-file.
        drop(command);
        let watch = Watch::new(process.id(), &near)?;
        let leaving = near.try_clone().context("cannot copy a descriptor")?;
        let mut child = Self {
            process,
            watch,
            channel: Channel::new(near),
            role: role.to_owned(),
            placement: Placement::default(),
            dismissed: Arc::default(),
        };
        signals::register(signals::Entry {
            id: child.id(),
            process: child.watch.clone(),
            channel: leaving,
            tidy: false,
            dismissed: Arc::clone(&child.dismissed),
        });
        child.channel.set_timeout(Some(PATIENCE))?;
        let hello: Hello = child
            .channel
            .receive()
            .with_context(|| format!("the {role} process did not report in"))?;
        child.channel.set_timeout(None)?;
        child.placement = hello.placement;
        Ok(child)
    }

    /// Ends this process, with exit code 1 and a message, if the child dies unasked: for whoever
    /// spins on memory that only the child would change.
    ///
    /// # Errors
    /// If the child cannot be watched.
    pub fn vital(self) -> Result<Self> {
        let watch = self.watch.clone();
        let (role, dismissed) = (self.role.clone(), Arc::clone(&self.dismissed));
        std::thread::Builder::new()
            .name("child-watch".into())
            .spawn(move || {
                while !watch.ended(None) {}
                // SYNC: dismissed
                if !dismissed.load(Ordering::Acquire) {
                    eprintln!("error: the {role} process died; what it took part in cannot go on");
                    std::process::exit(1);
                }
            })?;
        Ok(self)
    }

    /// Asks the child to leave where it would be killed because a signal ends this process: it has
    /// something to tidy up.
    pub fn tidy(self) -> Self {
        signals::mark_tidy(self.id());
        self
    }

    /// The connection to the child.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where the child really runs, as the child found after it was pinned.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Asks the child to leave by closing the channel, and waits until it has.
    ///
    /// # Errors
    /// If the child ends with an error, or has not left after 10 s (it is killed then).
    pub fn finish(mut self) -> Result<()> {
        self.dismiss();
        self.channel.close();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the {} process ended with {status}", self.role);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!(
            "the {} process did not leave within {PATIENCE:?} and was killed",
            self.role
        );
    }

    fn dismiss(&self) {
        // SYNC: dismissed
        self.dismissed.store(true, Ordering::Release);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.dismiss();
        // First of all: if a signal is ending this process, it stops here. Who tidies up must not
        // be killed then because its channel, closed for that, looks like a failure.
        signals::unregister(self.id());
        // Both fail only if the child is already reaped.
        let _ = self.process.kill();
        let ended = self.process.wait();
        if ended.is_ok_and(|status| status.signal().is_some_and(signals::is_ending)) {
            // Ctrl-C, before the child could let it pass. This process was sent it too, and ends
            // of it in a moment, rather than of the child's death.
            std::thread::sleep(PATIENCE_WITH_SIGNALS);
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Child({}, {})", self.role, self.id())
    }
}

/// The parent, as its child sees it.
#[derive(Debug)]
pub struct Parent {
    channel: Channel,
}

impl Parent {
    /// The connection to the parent.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }
}

/// Raises the number of descriptors that this process, and its children, may have, as far as the
/// system lets it: each connection takes several.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, ?limit, "the limit of descriptors stays");
    }
}

/// What a child does until its parent closes the channel.
pub type Role = fn(Parent) -> Result<()>;

/// The child's `main`: ties its life to the parent's, pins itself, reports in and plays its role.
///
/// # Errors
/// If `roles` does not know the role, the parent was gone before it began, or the role fails.
pub fn be_child(
    arguments: &ChildArguments,
    roles: impl FnOnce(&str) -> Option<Role>,
) -> Result<()> {
    let role = &arguments.role;
    let play = roles(role).with_context(|| format!("there is no role named {role}"))?;
    let parent_id = std::os::unix::process::parent_id();
    // A parent that has died before this has closed the channel before that, and is noticed below.
    parent_death::die_with_parent()?;
    signals::leave_to_parent()?;
    let placement = match arguments.cpu {
        Some(cpu) => Placement::pin(cpu),
        None => Placement::current(),
    };
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let parent = Parent {
        channel: Channel::new(UnixStream::from(input)),
    };
    let outcome = parent
        .channel
        .send(&Hello { placement })
        .with_context(|| format!("this {role} process has no parent that listens"))
        .and_then(|()| play(parent));
    match outcome {
        // It has ended, or is about to, and nobody waits for this process any more.
        Err(error) if error.is::<channel::Gone>() => Ok(()),
        // The parent's end reaches its other children as well: the server that this one cannot find
        // may have left because of it.
        Err(_) if parent_death::parent_ends(parent_id) => Ok(()),
        outcome => outcome,
    }
}
