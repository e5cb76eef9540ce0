//! What Linux and macOS share: Unix sockets, the directories that they live in, sleeping in Tokio's
//! reactor, mappings, closing.

mod clock;
pub(super) mod closing;
mod control;
mod directory;
#[cfg(feature = "spsc_transport")]
mod mapping;
mod name;
#[cfg(feature = "tokio")]
mod reactor;

#[cfg(test)]
mod stand_in;

#[cfg(test)]
pub(super) use stand_in::ControlStandIn;

pub(crate) use clock::monotonic;
pub(crate) use control::{ControlListener, ControlSocket, Received, sweep_dead_name};
#[cfg(feature = "spsc_transport")]
pub(crate) use mapping::{Mapping, SegmentHandle};
pub(crate) use name::{endpoint_of_name, endpoint_of_path, is_path};
#[cfg(feature = "tokio")]
pub(crate) use reactor::ReactorSleeper;

use closing::Foreign;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// What travels with a control message: a descriptor.
#[derive(Debug)]
pub(crate) enum Handle {
    /// Made here, for the peer.
    Own(OwnedFd),
    /// From the peer: it may be anything.
    Foreign(Foreign),
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Handle::Own(fd)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Own(fd) => fd.as_fd(),
            Handle::Foreign(fd) => fd.as_fd(),
        }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
