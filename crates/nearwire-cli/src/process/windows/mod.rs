//! Children on Windows: a pipe each way, which are the child's standard input and output, and their
//! end, by which either process knows that the other has ended.

mod channel;
mod parent_death;

use std::os::windows::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};

pub use channel::{Channel, Descriptor};
pub use parent_death::outlive_parent;

pub(super) use channel::Watch;
pub(super) use parent_death::{Lifeline, parent_channel};

/// Keys such as Ctrl-C reach the processes of one group.
const NEW_GROUP: u32 = 0x200;

/// The exit code of a process that such a key has ended.
const ENDED_BY_KEY: i32 = 0xC000_013A_u32.cast_signed();

/// Starts a child with a pipe each way to this process. Ctrl-C does not reach it: the parent ends of
/// it, and the child of the parent's end.
pub(super) fn start(mut command: Command) -> Result<(std::process::Child, Channel, Watch)> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .creation_flags(NEW_GROUP)
        .spawn()?;
    let input = process.stdin.take().context("no pipe to the child")?;
    let output = process.stdout.take().context("no pipe from the child")?;
    let watch = Watch::default();
    let ended = watch.clone();
    let channel = Channel::new(output, input, move || ended.end())?;
    Ok((process, channel, watch))
}

/// Nothing is to be done: children end of their parent's end, whatever ends it.
pub(super) fn register(_: u32, _: &Watch, _: &Channel, _: &Arc<AtomicBool>) -> Result<()> {
    Ok(())
}

/// Nothing is to be done: what a child would tidy up goes with it on this system.
pub(super) fn mark_tidy(_: u32) {}

/// See [`register`].
pub(super) fn unregister(_: u32) {}

/// See [`start`].
pub(super) fn leave_to_parent() -> Result<()> {
    Ok(())
}

/// From now on children end when this process does: they do so anyway.
///
/// # Errors
/// None on this system.
pub fn end_with_children() -> Result<()> {
    Ok(())
}

/// Whether a key such as Ctrl-C has ended a process.
pub(super) fn was_interrupted(status: ExitStatus) -> bool {
    status.code() == Some(ENDED_BY_KEY)
}

/// There is no such limit on this system.
pub fn raise_descriptor_limit() {}
