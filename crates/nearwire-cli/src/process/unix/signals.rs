//! Ctrl-C and its like: the whole family leaves, and leaves nothing behind.
//!
//! A terminal sends the signal to all processes at once. Children let it pass: the parent decides,
//! and the order matters. It kills them, but for those that have something to tidy up, which it
//! asks to leave; when all are gone it dies of the signal itself, as whoever started it expects.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::watch::Watch;

/// The signals that end a command.
const ENDING: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

/// How long those that tidy up may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The children of this process that are not reaped.
static CHILDREN: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// A child, as far as its end is concerned.
#[derive(Debug)]
pub(in crate::process) struct Entry {
    pub(in crate::process) id: u32,
    pub(in crate::process) process: Watch,
    pub(in crate::process) channel: UnixStream,
    /// Leaves by itself when the channel is closed, and has reasons to.
    pub(in crate::process) tidy: bool,
    /// Set before the child's end is this side's doing.
    pub(in crate::process) dismissed: Arc<AtomicBool>,
}

fn children() -> MutexGuard<'static, Vec<Entry>> {
    // A list of descriptors is as good as before, whoever panicked.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(in crate::process) fn register(entry: Entry) {
    children().push(entry);
}

pub(in crate::process) fn mark_tidy(id: u32) {
    for entry in children().iter_mut().filter(|entry| entry.id == id) {
        entry.tidy = true;
    }
}

pub(in crate::process) fn unregister(id: u32) {
    children().retain(|entry| entry.id != id);
}

/// Whether it is one of the signals that end a command.
pub(in crate::process) fn is_ending(signal: i32) -> bool {
    ENDING.contains(&signal)
}

/// Lets signals that end a command pass: the parent, who gets them too, decides.
pub(in crate::process) fn leave_to_parent() -> Result<()> {
    for signal in ENDING {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .context("cannot handle signals")?;
    }
    Ok(())
}

/// From now on, ends all children when a signal ends this process.
///
/// # Errors
/// If the system refuses a thread.
pub fn end_with_children() -> Result<()> {
    let mut signals = Signals::new(ENDING).context("cannot handle signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Kept to the end: nobody starts or reaps a child any more.
                let children = children();
                end(&children);
                // Returns only if the system does not know the signal.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                std::process::exit(1);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn end(children: &[Entry]) {
    let kill = |child: &Entry| child.process.kill();
    for child in children {
        // SYNC: dismissed
        child.dismissed.store(true, Ordering::Release);
    }
    children.iter().filter(|child| !child.tidy).for_each(kill);
    for child in children.iter().filter(|child| child.tidy) {
        // Fails only if it is dead.
        let _ = child.channel.shutdown(Shutdown::Both);
    }
    let deadline = Instant::now() + PATIENCE;
    for child in children {
        if !child.process.ended(Some(deadline)) {
            kill(child);
        }
    }
}
