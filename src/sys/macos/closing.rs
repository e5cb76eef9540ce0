//! Which descriptors close at once.

use rustix::fd::OwnedFd;

/// Whether closing a descriptor waits for nothing. Here all are taken for such: unlike Linux
/// (`linux/closing.rs`), macOS has not been looked at with hostile descriptors.
pub(in crate::sys) fn closes_at_once(_: &OwnedFd) -> bool {
    true
}
