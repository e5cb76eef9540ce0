//! A child's life is its parent's.

use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How long after what comes of a parent's end that end itself may show: a system closes what a
/// process had open, one after the other, before it hands over the children.
const PATIENCE_WITH_END: Duration = Duration::from_millis(100);

/// What ties this process to its parent.
pub(in crate::process) struct Lifeline {
    parent: u32,
}

impl Lifeline {
    /// From now on this process ends when its parent does. (A parent that died before this has closed
    /// the channel before that, which is noticed.)
    ///
    /// # Errors
    /// If the system refuses it.
    pub(in crate::process) fn to_parent() -> Result<Self> {
        let parent = parent_id();
        die_with_parent()?;
        Ok(Self { parent })
    }

    /// Whether the process that was this one's parent when it began is gone or goes within 100 ms.
    /// (Where the kernel kills this process then, that is the answer.)
    pub(in crate::process) fn is_cut(&self) -> bool {
        let deadline = Instant::now() + PATIENCE_WITH_END;
        while parent_id() == self.parent {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// From now on the kernel kills this process when its parent dies.
#[cfg(target_os = "linux")]
fn die_with_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// This process sees itself that its parent is gone, by the channel's end, and leaves something to
/// tidy up.
///
/// # Errors
/// Whatever the kernel says.
#[cfg(target_os = "linux")]
pub fn outlive_parent() -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(None)?)
}

#[cfg(not(target_os = "linux"))]
static OUTLIVES: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on this process ends some time after its parent has closed the channel or is dead, if it
/// has not left by then.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::Relaxed;
    let channel = std::io::stdin().as_fd().try_clone_to_owned()?;
    std::thread::Builder::new()
        .name("parent-watch".into())
        .spawn(move || {
            // Of a closed channel the system tells without being asked.
            let mut closed = [PollFd::new(&channel, PollFlags::empty())];
            while poll(&mut closed, None) == Err(rustix::io::Errno::INTR) {}
            std::thread::sleep(crate::process::PATIENCE);
            if !OUTLIVES.load(Relaxed) {
                std::process::exit(1);
            }
        })?;
    Ok(())
}

/// This process sees itself that its parent is gone, by the channel's end, and leaves something to
/// tidy up.
///
/// # Errors
/// None on this system.
#[cfg(not(target_os = "linux"))]
pub fn outlive_parent() -> Result<()> {
    OUTLIVES.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}
