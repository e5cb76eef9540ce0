//! What the hardware gives: the yardstick that Nearwire's benchmarks are measured against.
//!
//! The crate holds *operations*, not a benchmark: a round trip of one cache line, the barest ring
//! that still carries records, a copy, a sleep and a wake-up, calls of many threads to one. Nothing here reads a clock; whoever
//! wants a time runs these operations and the product's under the same measuring code.
//!
//! It shares no code with Nearwire, and it is **raw on purpose**. Both ends are taken to be honest
//! and of this very build: nothing in the memory is validated beyond its bounds, nothing is sealed,
//! waiting is spinning (except in `sleeping`, which does nothing but sleep, and in `slots`, which ends with
//! it), a dead peer leaves the other side spinning, and payloads are moved with plain copies. Never use it to talk to
//! another program. What the product adds to these figures is the price of being safe.
//!
//! Every operation has a near side, which is timed, and a far side in another process. The near
//! side creates the operation, hands its descriptors ([`Descriptors`]) to a process of the same
//! executable (by `SCM_RIGHTS`, say; on Windows they are names, which any message carries), and that
//! process opens the far side and calls `answer`, which returns once the near side has called
//! `stop`. The near side stays until the far side is open: a name goes with its memory.
//!
//! Linux has all of it; macOS and Windows lack what sleeps and the kernel's prices; on other
//! systems the crate is empty.
#![cfg(any(target_os = "linux", target_os = "macos", windows))]

pub mod copying;
#[cfg(target_os = "linux")]
pub mod kernel;
mod memory;
pub mod ping_pong;
pub mod ring;
#[cfg(target_os = "linux")]
pub mod sleeping;
#[cfg(target_os = "linux")]
pub mod slots;

pub use memory::{Arena, Descriptor};

/// The descriptors of one operation, to be handed to the process of its far side in this order.
pub type Descriptors = Vec<Descriptor>;

/// The error of a far side that was handed the wrong number of descriptors.
fn wrong_descriptors(operation: &str, expected: usize) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        format!("{operation} needs {expected} descriptors: pass on all that `create` returned"),
    )
}

/// Takes exactly `N` descriptors.
fn take<const N: usize>(
    operation: &str,
    descriptors: Descriptors,
) -> std::io::Result<[Descriptor; N]> {
    descriptors
        .try_into()
        .map_err(|_| wrong_descriptors(operation, N))
}
