//! Linux: memfd with seals, eventfd under an edge-triggered epoll, Unix sockets, membarrier.

mod control;
mod cpu;
mod doorbell;
mod memory;
mod multiplexer;
#[cfg(feature = "tokio")]
mod reactor;

pub(crate) use control::{
    ControlListener, ControlSocket, Received, default_directory, no_answer, sweep_dead_name,
};
pub(crate) use cpu::{allowed_cpus, heavy_fence, pin_to, register_for_heavy_fences};
pub(crate) use doorbell::{Doorbell, Sleeper, Woken};
pub(crate) use memory::{Mapping, SegmentHandle, create_segment, open_segment, page_size};
pub(crate) use multiplexer::{Event, Multiplexer, MultiplexerWaker};
#[cfg(feature = "tokio")]
pub(crate) use reactor::ReactorSleeper;
