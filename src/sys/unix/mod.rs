//! What Linux and macOS share: Unix sockets, the directories that they live in, sleeping in Tokio's
//! reactor, mappings.

mod control;
mod directory;
#[cfg(feature = "spsc_transport")]
mod mapping;
mod name;
#[cfg(feature = "tokio")]
mod reactor;

pub(crate) use control::{ControlListener, ControlSocket, Received, sweep_dead_name};
#[cfg(feature = "spsc_transport")]
pub(crate) use mapping::{Mapping, SegmentHandle};
pub(crate) use name::{endpoint_of_name, endpoint_of_path, is_path};
#[cfg(feature = "tokio")]
pub(crate) use reactor::ReactorSleeper;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// What travels with a control message: a descriptor.
#[derive(Debug)]
pub(crate) struct Handle(OwnedFd);

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Handle> for OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.0
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
