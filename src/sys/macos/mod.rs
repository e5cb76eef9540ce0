//! macOS: unlinked POSIX shared memory, a socket pair as doorbell under kqueue, QoS classes.

pub(super) mod closing;
mod cpu;
#[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))] // no peer rings
mod doorbell;
mod kqueue;
#[cfg(feature = "spsc_transport")]
mod memory;
mod multiplexer;
pub(super) mod socket;

pub(crate) use cpu::{allowed_cpus, pin_to};
#[cfg(any(feature = "spsc_transport", test))]
pub(crate) use doorbell::PeerDoorbell;
pub(crate) use doorbell::{Doorbell, Sleeper};
#[cfg(feature = "spsc_transport")]
pub(crate) use memory::{create_segment, open_segment, page_size};
pub(crate) use multiplexer::{Multiplexer, MultiplexerWaker};
