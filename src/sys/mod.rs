//! What Nearwire asks of the operating system; one folder per system, all with the same surface.
//!
//! | part | what it gives |
//! |---|---|
//! | `memory` | anonymous segments that only their creator can write, and their mappings |
//! | `doorbell` | waking a sleeper in another process, sleeping until then or until the peer dies |
//! | `control` | the socket with a name: handshake, descriptors, credentials, death of the peer |
//! | `cpu` | the sleeper's heavy fence, affinity |
//!
//! Nothing here knows of rings or frames.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
