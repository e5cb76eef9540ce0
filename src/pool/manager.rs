//! Connections for those who pool in their own way.

use crate::client::{Client, ClientBuilder};
use crate::error::{CloseReason, Error, Result};
use crate::name::Place;

/// Makes connections for a [`bb8::Pool`].
///
/// A [`Client`] that bb8 hands out is one task's alone until it is given back, so such a pool needs
/// as many connections as tasks call at a time. [`Pool`](crate::Pool) shares its connections.
///
/// Whether a connection is good is known without asking the server (the end of its process, and
/// its word that it shuts down, come by themselves), so `is_valid` costs no round trip.
///
/// ```no_run
/// # async fn example() -> nearwire::Result<()> {
/// use nearwire::{ClientBuilder, ConnectionManager};
///
/// let manager = ConnectionManager::new(ClientBuilder::new(), "text")?;
/// let pool = bb8::Pool::builder().max_size(16).build(manager).await?;
/// if let Ok(client) = pool.get().await {
///     let reply = client.call_bytes("reverse", b"wire").await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ConnectionManager {
    client: ClientBuilder,
    name: String,
}

impl ConnectionManager {
    /// Connects with these settings to the server of this name.
    ///
    /// # Errors
    /// [`Error::BadName`] for a name that cannot be one; [`Error::Setting`] for settings that make
    /// no sense.
    pub fn new(client: ClientBuilder, name: &str) -> Result<Self> {
        Place::of(name)?;
        client.check()?;
        let name = name.to_owned();
        Ok(Self { client, name })
    }
}

impl bb8::ManageConnection for ConnectionManager {
    type Connection = Client;
    type Error = Error;

    async fn connect(&self) -> Result<Client> {
        self.client.connect(&self.name).await
    }

    async fn is_valid(&self, client: &mut Client) -> Result<()> {
        match client.is_open() {
            true => Ok(()),
            false => Err(Error::closed(CloseReason::Finished)),
        }
    }

    fn has_broken(&self, client: &mut Client) -> bool {
        !client.is_open()
    }
}
