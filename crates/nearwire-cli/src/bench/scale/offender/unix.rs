//! Stopping a process by a signal.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

pub(super) const CAN_STOP: bool = true;

pub(super) fn stop(process: u32) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(process)?).context("no such process")?;
    kill_process(process, Signal::STOP).context("cannot stop the process")
}
