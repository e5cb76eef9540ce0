//! A server that comes back under the same name, however it ended.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::private::{self, GRACE, PrivateServer};
use crate::process::{Child, Parent};

/// The role of the process that keeps the socket's directory.
pub const PLACE_ROLE: &str = "pool-place";

/// The role of the server's process.
pub const SERVER_ROLE: &str = "pool-server";

/// How long `block` blocks.
const BLOCK: Duration = Duration::from_millis(1);

/// A directory for the socket, which is removed whatever becomes of servers and of this process.
pub(super) struct Place(PrivateServer);

impl Place {
    pub(super) fn new() -> Result<Self> {
        PrivateServer::start(PLACE_ROLE, &(), None).map(Self)
    }

    /// What the server is called.
    pub(super) fn socket(&self) -> &str {
        self.0.name()
    }

    pub(super) fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// The role of the process that keeps the directory: it serves nobody.
///
/// # Errors
/// If there can be no directory.
pub fn keep_place(parent: Parent) -> Result<()> {
    private::serve(&parent, |(), _| Ok(()), drop)
}

/// A server's process. Killed when dropped.
pub(super) struct Server(Child);

impl Server {
    /// Starts it, and waits until it serves.
    pub(super) fn start(place: &Place, cpu: Option<usize>) -> Result<Self> {
        let child = Child::start(SERVER_ROLE, cpu)?;
        child.channel().send(&place.socket())?;
        let failed = "the server does not serve";
        child.channel().receive::<()>().context(failed)?;
        Ok(Self(child))
    }

    /// Kills it, and waits until it is gone.
    pub(super) fn kill(self) {
        drop(self.0);
    }

    /// Lets it finish what is in flight, and waits until it is gone.
    pub(super) fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

/// The role of the server's process.
///
/// # Errors
/// If it cannot serve.
pub fn serve(parent: Parent) -> Result<()> {
    let path: String = parent.channel().receive()?;
    let server = nearwire::Server::builder()
        .workers(2)
        .method_into("echo", |_, request, reply| {
            reply.extend_from_slice(request);
            Ok(())
        })
        .method_into("block", |_, request, reply| {
            std::thread::sleep(BLOCK);
            reply.extend_from_slice(request);
            Ok(())
        })
        .bind(&path)?;
    parent.channel().send(&())?;
    while parent.channel().next::<()>()?.is_some() {}
    server.shutdown(GRACE);
    Ok(())
}
