//! Linux: memfd with seals, a socket pair under an edge-triggered epoll, membarrier.

pub(super) mod closing;
#[cfg_attr(
    not(any(feature = "spsc_transport", feature = "tokio")),
    allow(dead_code)
)] // nobody to fence for
mod cpu;
#[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))] // no peer rings
mod doorbell;
#[cfg(feature = "spsc_transport")]
mod memory;
mod multiplexer;
pub(super) mod socket;

#[cfg(any(feature = "spsc_transport", feature = "tokio"))]
pub(crate) use cpu::register_for_heavy_fences;
pub(crate) use cpu::{RunDelay, allowed_cpus, heavy_fence, pin_to};
#[cfg(any(feature = "spsc_transport", test))]
pub(crate) use doorbell::PeerDoorbell;
pub(crate) use doorbell::{Doorbell, Sleeper};
#[cfg(feature = "spsc_transport")]
#[cfg(feature = "mpmc_transport")]
pub(crate) use memory::{create_common_segment, identity_of_segment, open_common_segment};
#[cfg(feature = "spsc_transport")]
pub(crate) use memory::{create_segment, open_segment, page_size};
pub(crate) use multiplexer::{Multiplexer, MultiplexerWaker};
