//! Calls between processes on one machine, at the speed of shared memory.

pub mod proto;
