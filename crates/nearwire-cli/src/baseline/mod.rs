//! What Nearwire is compared with: a plain Unix stream socket (Windows: a named pipe), used as well
//! as it can be.
//!
//! Server and client are separate processes. Both baselines speak the same frames, a 4-byte
//! little-endian length and the payload, and the server echoes them; every reply is compared with
//! what was sent, byte by byte.
//!
//! - [`blocking`]: one call at a time with blocking reads and writes, any size;
//! - [`coalesced`]: many calls in flight on Tokio, as many frames per system call as there are;
//! - [`crowd`]: the same server for many connections at a time;
//! - [`socket`]: the connection itself.
//!
//! And, on Linux, the least that calls could cost: `slots`, of the yardstick.

pub mod blocking;
pub mod coalesced;
pub mod crowd;
#[cfg(target_os = "linux")]
pub mod slots;
pub mod socket;

use anyhow::{Result, bail};

/// Bytes of a frame's header: the payload's length.
pub const HEADER: usize = 4;

/// The longest payload, in bytes: what a peer may make this side allocate.
pub const LONGEST: usize = 256 << 20;

/// The payload's length that a header gives.
pub fn payload_length(header: [u8; HEADER]) -> Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > LONGEST {
        bail!("a frame of {length} bytes is longer than {LONGEST}");
    }
    Ok(length)
}

/// The header of a payload of `length` bytes.
pub fn header(length: usize) -> Result<[u8; HEADER]> {
    if length > LONGEST {
        bail!("a payload of {length} bytes is longer than {LONGEST}");
    }
    Ok(u32::try_from(length)?.to_le_bytes())
}
