//! A child's life is its parent's: what the parent wrote to ends with it.

use std::fs::File;
use std::os::windows::io::AsHandle;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Channel;
use crate::process::PATIENCE;

/// How long after what comes of a parent's end that end itself may show.
const PATIENCE_WITH_END: Duration = Duration::from_millis(100);

/// Set at the end of the channel from the parent.
static ENDED: AtomicBool = AtomicBool::new(false);

static OUTLIVES: AtomicBool = AtomicBool::new(false);

/// The channel of a process that was started with one. Some time after its end this process ends, if
/// it has not left by then.
pub(in crate::process) fn parent_channel() -> Result<Channel> {
    let input = File::from(std::io::stdin().as_handle().try_clone_to_owned()?);
    let output = File::from(std::io::stdout().as_handle().try_clone_to_owned()?);
    Channel::new(input, output, || {
        ENDED.store(true, Relaxed);
        std::thread::sleep(PATIENCE);
        if !OUTLIVES.load(Relaxed) {
            std::process::exit(1);
        }
    })
}

/// This process sees itself that its parent is gone, by the channel's end, and leaves something to
/// tidy up.
///
/// # Errors
/// None on this system.
pub fn outlive_parent() -> Result<()> {
    OUTLIVES.store(true, Relaxed);
    Ok(())
}

/// What ties this process to its parent: the end of the [`parent_channel`].
pub(in crate::process) struct Lifeline;

impl Lifeline {
    /// Ties this process to its parent. The channel does so.
    pub(in crate::process) fn to_parent() -> Result<Self> {
        Ok(Self)
    }

    /// Whether the parent is gone or goes within 100 ms.
    pub(in crate::process) fn is_cut(&self) -> bool {
        let deadline = Instant::now() + PATIENCE_WITH_END;
        while !ENDED.load(Relaxed) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}
