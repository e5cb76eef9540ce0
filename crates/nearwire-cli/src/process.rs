//! Child processes: this executable again, under a hidden subcommand.
//!
//! A child never outlives its parent: the kernel kills it when the parent dies (also of SIGKILL; where
//! the kernel does not, the child ends itself), and the guard kills and reaps it when it is dropped.
//! Parent and child talk over a [`Channel`]: on Unix a socket that is the child's standard input,
//! on Windows two pipes, its standard input and output.
//!
//! What differs from system to system is in `unix` and `windows`, with the same surface.

mod affinity;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fmt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

pub use affinity::{Placement, allowed_cpus, cpus_of, run_on, two_cpus};
pub use os::{Channel, Descriptor, end_with_children, outlive_parent, raise_descriptor_limit};

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

/// The hidden subcommand that [`Child::start`] runs.
pub const SUBCOMMAND: &str = "__child";

/// How long a child may take to report in, and to leave once it has been asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a child a signal may come to this process that was sent to both.
const PATIENCE_WITH_SIGNALS: Duration = Duration::from_secs(1);

/// The longest message of a channel, in bytes.
const LONGEST: usize = 1 << 20;

/// The other process has ended, or closed the channel.
#[derive(Debug, Clone, Copy)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the other process died, or has left")
    }
}

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
    watch: os::Watch,
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
        let executable = std::env::current_exe().context("cannot find this executable")?;
        let mut command = Command::new(executable);
        command.args([SUBCOMMAND, role]).stdout(Stdio::null());
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let (process, channel, watch) =
            os::start(command).with_context(|| format!("cannot start the {role} process"))?;
        let mut child = Self {
            process,
            watch,
            channel,
            role: role.to_owned(),
            placement: Placement::default(),
            dismissed: Arc::default(),
        };
        os::register(child.id(), &child.watch, &child.channel, &child.dismissed)?;
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
        os::mark_tidy(self.id());
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

    /// Whether it has ended, asked or not.
    pub fn has_ended(&self) -> bool {
        self.watch.ended(Some(Instant::now()))
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
        os::unregister(self.id());
        // Both fail only if the child is already reaped.
        let _ = self.process.kill();
        let ended = self.process.wait();
        if ended.is_ok_and(os::was_interrupted) {
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
    let lifeline = os::Lifeline::to_parent()?;
    os::leave_to_parent()?;
    let placement = match arguments.cpu {
        Some(cpu) => Placement::pin(cpu),
        None => Placement::current(),
    };
    let parent = Parent {
        channel: os::parent_channel()?,
    };
    let outcome = parent
        .channel
        .send(&Hello { placement })
        .with_context(|| format!("this {role} process has no parent that listens"))
        .and_then(|()| play(parent));
    match outcome {
        // It has ended, or is about to, and nobody waits for this process any more.
        Err(error) if error.is::<Gone>() => Ok(()),
        // The parent's end reaches its other children as well: the server that this one cannot find
        // may have left because of it.
        Err(_) if lifeline.is_cut() => Ok(()),
        outcome => outcome,
    }
}
