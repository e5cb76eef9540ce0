//! The connection that is measured against: a Unix stream socket; on Windows, whose programs talk
//! over named pipes, one of those. Same surface on either.

use std::io;

use anyhow::Result;

use crate::process::{Child, Descriptor};

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

pub use os::{
    AsyncStream, Driver, Listener, NAME, Polled, Stream, accept, accept_async, connect,
    connect_async, ends, open, open_async,
};

/// What leads to the two ends of a new connection, as `server` is handed one of them: the other.
///
/// # Errors
/// If the system refuses it, or the server is gone.
pub fn pair(server: &Child) -> Result<Descriptor> {
    let (near, far) = ends()?;
    server.channel().send_with(&(), &[far])?;
    Ok(near)
}

/// What `operation` says, which is made again when a signal interrupts it; `None` for what would block.
///
/// # Errors
/// Those of the operation.
fn unless_blocking(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match operation() {
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// What a read gave: a caller that has left is the end of what it wrote, however the system says so.
///
/// # Errors
/// Those of the read.
pub fn end_of_broken(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        read => read,
    }
}
