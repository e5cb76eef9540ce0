//! There is no signal that stops a process.

use anyhow::{Result, bail};

pub(super) const CAN_STOP: bool = false;

pub(super) fn stop(_: u32) -> Result<()> {
    bail!("this system has no signal that stops a process")
}
