//! Seeing a child end, and killing it, whoever reaps it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

/// A child that runs or has ended. As long as it is not reaped its id means nobody else.
#[derive(Debug, Clone)]
pub(in crate::process) struct Watch {
    /// Linux: the process. Else the channel to it, of which the child has the only other end.
    descriptor: Arc<OwnedFd>,
    #[cfg(not(target_os = "linux"))]
    pid: Pid,
}

/// What the descriptor is polled for. A closed channel needs no asking.
const ENDED: PollFlags = if cfg!(target_os = "linux") {
    PollFlags::IN
} else {
    PollFlags::empty()
};

impl Watch {
    pub(in crate::process) fn new(id: u32, channel: &UnixStream) -> Result<Self> {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("the system gave process id {id}"))?;
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open};
            let _ = channel;
            let descriptor = pidfd_open(pid, PidfdFlags::empty())
                .with_context(|| format!("cannot watch process {id}"))?;
            Ok(Self {
                descriptor: Arc::new(descriptor),
            })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let channel = channel.try_clone().context("cannot copy a descriptor")?;
            Ok(Self {
                descriptor: Arc::new(channel.into()),
                pid,
            })
        }
    }

    /// Waits for the child's end until `deadline` (`None`: for ever). Returns whether it has ended.
    pub(in crate::process) fn ended(&self, deadline: Option<Instant>) -> bool {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left: Duration| Timespec::try_from(left).ok());
            let mut ended = [PollFd::new(&*self.descriptor, ENDED)];
            match poll(&mut ended, left.as_ref()) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Fails only if it is dead.
    pub(in crate::process) fn kill(&self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::pidfd_send_signal(&*self.descriptor, Signal::KILL);
        #[cfg(not(target_os = "linux"))]
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
    }
}
