//! Children on Unix: a socket pair between parent and child, signals, and the kernel's own word about
//! a child's end where it gives one.

mod channel;
mod parent_death;
mod signals;
mod watch;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use channel::{Channel, Descriptor};
pub use parent_death::outlive_parent;
pub use signals::end_with_children;

pub(super) use parent_death::Lifeline;
pub(super) use signals::{leave_to_parent, mark_tidy, unregister};
pub(super) use watch::Watch;

/// Starts a child whose standard input is the channel to this process.
pub(super) fn start(mut command: Command) -> Result<(std::process::Child, Channel, Watch)> {
    let (near, far) = UnixStream::pair().context("cannot make a socket pair")?;
    let process = command.stdin(OwnedFd::from(far)).spawn()?;
    // Closes this process's copy of the far end, so that the child's death is an end-of-file.
    drop(command);
    let watch = Watch::new(process.id(), &near)?;
    Ok((process, Channel::new(near), watch))
}

/// The channel of a process that [`start`] started.
pub(super) fn parent_channel() -> Result<Channel> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(Channel::new(UnixStream::from(input)))
}

/// From now on a signal that ends this process ends the child too.
pub(super) fn register(
    id: u32,
    watch: &Watch,
    channel: &Channel,
    dismissed: &Arc<AtomicBool>,
) -> Result<()> {
    signals::register(signals::Entry {
        id,
        process: watch.clone(),
        channel: channel.socket()?,
        tidy: false,
        dismissed: Arc::clone(dismissed),
    });
    Ok(())
}

/// Whether a process ended of one of the signals that end a command.
pub(super) fn was_interrupted(status: ExitStatus) -> bool {
    status.signal().is_some_and(signals::is_ending)
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
