//! A server on Tokio for many connections at a time, frames coalesced by hand.

use std::time::Duration;

use anyhow::Result;

use super::coalesced::echo;
use super::socket::Listener;
use crate::private;
use crate::process::Parent;

/// The role of the server's process; a [`PrivateServer`](crate::private::PrivateServer) that echoes.
pub const CROWD_ROLE: &str = "crowd-echo";

/// The role of the server: one thread for all connections, as one worker of Nearwire's is.
///
/// # Errors
/// If it cannot serve.
pub fn serve_crowd(parent: Parent) -> Result<()> {
    // The thread goes with the process, and nothing else needs an end.
    private::serve(&parent, start, drop)
}

fn start((): (), path: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _context = runtime.enter();
        Listener::bind(path)?
    };
    std::thread::Builder::new()
        .name("crowd".into())
        .spawn(move || runtime.block_on(accept(listener)))?;
    Ok(())
}

async fn accept(mut listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                tokio::spawn(async move {
                    if let Err(error) = echo(stream).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                // Descriptors are used up, as a rule; some may be given back.
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
