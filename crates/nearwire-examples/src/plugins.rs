//! The messages of the plugin host.

use serde::{Deserialize, Serialize};

/// A plugin, as its host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// Its process, if one runs.
    pub process: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
}

/// A call to a plugin, which the host hands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The plugin's name.
    pub plugin: String,
    /// Its method.
    pub method: String,
    /// What the method is given.
    pub payload: Vec<u8>,
    /// Whether the call may be made again if the plugin dies under it.
    pub idempotent: bool,
}
