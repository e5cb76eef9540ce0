//! Asking a server for its counters page.

use crate::error::{Identity, Result};
use crate::name::Place;
use crate::segment::PageView;
use crate::settings::PeerPolicy;
use crate::sys::ControlSocket;
use std::time::Duration;
#[cfg(feature = "spsc_transport")]
use {
    super::establish::{Talk, check},
    crate::error::{Error, Violation},
    crate::metrics::layout::MAX_PAGE,
    crate::proto::handshake::{ObserverHandshake, VERSIONS},
    crate::sys::{Received, SegmentHandle},
    std::time::Instant,
};

/// Without shared memory there is nothing to be had.
#[cfg(not(feature = "spsc_transport"))]
pub(crate) fn observe(
    _: &Place,
    _: &PeerPolicy,
    _: Duration,
) -> Result<(PageView, ControlSocket, Identity)> {
    Err(crate::metrics::PageError::NoSharedMemory.into())
}

/// Gets the page, and the socket whose end tells that the server is gone. Blocks for `timeout` at
/// most.
#[cfg(feature = "spsc_transport")]
pub(crate) fn observe(
    place: &Place,
    policy: &PeerPolicy,
    timeout: Duration,
) -> Result<(PageView, ControlSocket, Identity)> {
    let deadline = Instant::now() + timeout;
    let socket = ControlSocket::connect(&place.path, deadline)?;
    let peer = socket.peer().map_err(Error::io("ask who the server is"))?;
    check(policy, peer)?;
    let mut handshake = ObserverHandshake::new(VERSIONS, MAX_PAGE as u64);
    let mut talk = Talk {
        socket: &socket,
        deadline,
    };
    talk.send(&handshake.observe()?, &[])?;
    let mut handles = Vec::new();
    let mut buffer = [0; 4096];
    let counters = loop {
        let before = handles.len();
        let received = socket.receive(&mut buffer, &mut handles);
        let count = match received.map_err(Error::io("read from the control socket"))? {
            Received::Nothing => {
                talk.wait(false)?;
                continue;
            }
            Received::EndOfFile => return Err(handshake.end_of_file().into()),
            Received::Bytes(count) => count,
        };
        let new = handles.len() - before;
        if let Some(counters) = handshake.receive(&buffer[..count], new)? {
            break counters;
        }
    };
    let handle = handles.pop();
    let handle = handle.ok_or_else(|| Error::Protocol(Violation::Control("no handle".into())))?;
    let page = PageView::open(SegmentHandle::from(handle), counters.segment_len as usize)?;
    Ok((page, socket, peer))
}
