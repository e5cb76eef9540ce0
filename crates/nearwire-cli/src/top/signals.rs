//! Signals: they must not leave the terminal as it is.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The number of the signal that is to end this process, as soon as there is one; until then zero.
///
/// # Errors
/// If the system lets nobody watch for them.
pub fn watch() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_usize(number, signal.clone(), number as usize)
            .context("cannot watch for signals")?;
    }
    Ok(signal)
}

/// Ends this process as whoever sent the signal expects.
///
/// # Errors
/// If it does not end.
pub fn end_by(number: usize) -> Result<()> {
    signal_hook::low_level::emulate_default_handler(number as i32)
        .context("cannot end by the signal")
}
