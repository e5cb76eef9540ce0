//! Linux: memfd with seals, a socket pair under an edge-triggered epoll, membarrier.

pub(super) mod closing;
mod cpu;
mod doorbell;
mod memory;
mod multiplexer;
pub(super) mod socket;

pub(crate) use cpu::{allowed_cpus, heavy_fence, pin_to, register_for_heavy_fences};
pub(crate) use doorbell::{Doorbell, PeerDoorbell, Sleeper};
pub(crate) use memory::{create_segment, open_segment, page_size};
pub(crate) use multiplexer::{Multiplexer, MultiplexerWaker};
