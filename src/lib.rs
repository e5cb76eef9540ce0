//! Calls between processes on one machine, at the speed of shared memory.

#![deny(unsafe_code)]

mod error;
pub mod layout;
pub mod proto;
pub mod ring;
// Under loom only the algorithms are built, over the heap: the system has no loom atomics.
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod segment;
mod settings;
mod sync;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod sys;
mod waiter;

pub use error::{
    CloseReason, Code, DirectoryFault, Error, Identity, RefusedCode, Result, SegmentRefused,
    Status, VersionRange, Violation,
};
pub use settings::{HugePages, Memory, Spin};
