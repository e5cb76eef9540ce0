//! Looking at a server from another process.

use crate::error::{Identity, Result};
use crate::link::observe;
use crate::metrics::{Reader, Snapshot};
use crate::name::Place;
use crate::settings::PeerPolicy;
use crate::sys::{ControlSocket, Received};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

/// Reads a server's counters page, read-only, from this or another process. The server does nothing
/// for it once the page is handed over.
///
/// A server lets those look who may connect: processes of the same user, unless its
/// [`PeerPolicy`] says otherwise. A server that has no room for more connections can be looked at all
/// the same.
///
/// ```no_run
/// # fn main() -> nearwire::Result<()> {
/// use nearwire::{Observer, metrics::Counter};
///
/// let observer = Observer::connect("search")?;
/// let snapshot = observer.snapshot();
/// println!("{} calls, {} connections", snapshot.calls(), snapshot.connections.len());
/// println!("{} wake-ups saved", snapshot.total(Counter::WakeupsSaved));
/// # Ok(())
/// # }
/// ```
pub struct Observer {
    reader: Reader,
    /// Its end tells that the server is gone. One thread asks at a time.
    socket: Mutex<ControlSocket>,
    peer: Identity,
}

impl Observer {
    /// Asks the server of this name, or path, for its page. Blocks for 5 s at most.
    ///
    /// # Errors
    /// [`Error::NoServer`](crate::Error::NoServer) if nobody serves there;
    /// [`Error::Handshake`](crate::Error::Handshake) if the server refuses, for example because it
    /// serves messages or byte streams, which have no counters page, or has no shared memory;
    /// [`Error::Credentials`](crate::Error::Credentials) if it belongs to somebody else;
    /// [`Error::Counters`](crate::Error::Counters) if its page is that of another version, or
    /// this program was built without the feature `spsc_transport`.
    pub fn connect(name: &str) -> Result<Self> {
        Self::connect_with(name, &PeerPolicy::same_user(), Duration::from_secs(5))
    }

    /// As [`connect`](Self::connect), with a choice of trusted servers and of how long to wait.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(name: &str, servers: &PeerPolicy, timeout: Duration) -> Result<Self> {
        let (page, socket, peer) = observe(&Place::of(name)?, servers, timeout)?;
        Ok(Self {
            reader: Reader::new(page)?,
            socket: Mutex::new(socket),
            peer,
        })
    }

    /// What the page says now. Of a server that is gone: what it said last.
    pub fn snapshot(&self) -> Snapshot {
        self.reader.snapshot()
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Who the server is, as the system tells.
    pub fn server(&self) -> &Identity {
        &self.peer
    }

    /// Whether the server still serves. Costs a system call.
    pub fn is_alive(&self) -> bool {
        let socket = self.socket.lock().unwrap_or_else(|e| e.into_inner());
        // Nothing is ever said; a server that does it nevertheless is not listened to.
        let mut buffer = [0; 64];
        matches!(
            socket.receive(&mut buffer, &mut Vec::new()),
            Ok(Received::Nothing | Received::Bytes(_))
        )
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("server", &self.peer)
            .finish()
    }
}
