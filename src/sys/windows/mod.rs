//! Windows: page-file sections whose handles are duplicated read-only, auto-reset events as
//! doorbells, a named pipe for control.
//!
//! # Handles on their way
//! A handle is a number that means something in one process only, so somebody must duplicate it into
//! the other process. The server does all of it, with a handle of the client's process that it
//! opened when the client connected: it puts its own handles into the client and takes the client's
//! out. So a client needs no rights to its server's process, and no value that a client sends can
//! name one of the server's own handles.
//!
//! What a handle may do is decided where it is made, before it travels: a segment's can be mapped
//! for reading, a doorbell's can be rung. The objects' access list gives nobody any rights, not even
//! their owner, so that duplicating cannot add what is missing ([`security`]).
//!
//! # Who is kept out
//! Other users, and processes of the same user at a lower integrity level. Between processes of one
//! user at the same level Windows knows no boundary (each may open the other's process and write
//! its memory), so there the read-only segments guard against accidents, not against malice.

mod clock;
mod control;
mod cpu;
#[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))] // no peer rings
mod doorbell;
mod event;
#[cfg(feature = "spsc_transport")]
mod memory;
mod multiplexer;
mod name;
mod process;
#[cfg(feature = "tokio")]
mod reactor;
mod security;
#[cfg(test)]
mod stand_in;
mod watch;

pub(crate) use clock::monotonic;
pub(crate) use control::{ControlListener, ControlSocket, Received, sweep_dead_name};
pub(crate) use cpu::{allowed_cpus, pin_to};
#[cfg(any(feature = "spsc_transport", test))]
pub(crate) use doorbell::PeerDoorbell;
pub(crate) use doorbell::{Doorbell, Sleeper};
#[cfg(feature = "spsc_transport")]
pub(crate) use memory::{Mapping, SegmentHandle, create_segment, open_segment, page_size};
pub(crate) use multiplexer::{Multiplexer, MultiplexerWaker};
pub(crate) use name::{endpoint_of_name, endpoint_of_path, is_path};
#[cfg(feature = "tokio")]
pub(crate) use reactor::ReactorSleeper;
#[cfg(test)]
pub(super) use stand_in::ControlStandIn;

use event::Event as SystemEvent;
use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::sync::Arc;

/// What travels with a control message.
#[derive(Debug)]
pub(crate) struct Handle(OwnedHandle);

impl From<OwnedHandle> for Handle {
    fn from(handle: OwnedHandle) -> Self {
        Self(handle)
    }
}

impl From<Handle> for OwnedHandle {
    fn from(handle: Handle) -> Self {
        handle.0
    }
}

impl AsHandle for Handle {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// What can be watched together with a doorbell.
pub(crate) trait Watched {
    /// Signalled as long as there is something to receive or to accept, or the end.
    fn readable(&self) -> &Arc<SystemEvent>;
    /// Signalled as long as there is room to send.
    fn writable(&self) -> &Arc<SystemEvent> {
        self.readable()
    }
}

/// The result of a system function that reports success as a truth value.
fn check(success: windows_sys::core::BOOL) -> io::Result<()> {
    if success == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
