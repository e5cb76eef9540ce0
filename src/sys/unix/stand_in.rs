//! Something that can be watched as a control socket is, without a peer.

use rustix::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Stands for a control socket.
pub(in crate::sys) struct ControlStandIn {
    ours: UnixStream,
    theirs: Option<UnixStream>,
}

impl ControlStandIn {
    pub(in crate::sys) fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        Self {
            ours,
            theirs: Some(theirs),
        }
    }

    /// As if the peer had died.
    pub(in crate::sys) fn end(&mut self) {
        self.theirs = None;
    }
}

impl AsFd for ControlStandIn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}
