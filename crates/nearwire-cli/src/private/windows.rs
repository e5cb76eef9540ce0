//! A pipe with a name that nobody else knows.

use std::hash::{BuildHasher, RandomState};

use anyhow::Result;

/// The name of a pipe that is nobody's: of this process, with a random number.
pub fn pipe_name() -> String {
    // The standard library seeds each of them by the system's random numbers.
    let random = RandomState::new().hash_one(std::process::id());
    format!(r"\\.\pipe\nearwire-{}-{random:016x}", std::process::id())
}

/// Where a server is found.
#[derive(Debug)]
pub struct Place {
    name: String,
}

impl Place {
    /// Makes up a name.
    ///
    /// # Errors
    /// None on this system.
    pub fn new() -> Result<Self> {
        let name = pipe_name();
        Ok(Self { name })
    }

    /// The name of the pipe.
    pub fn path(&self) -> &str {
        &self.name
    }

    /// Nothing is to be removed: the pipe goes with its server.
    ///
    /// # Errors
    /// None on this system.
    pub fn remove(self) -> Result<()> {
        Ok(())
    }
}

/// What is left of a server that was killed: nothing.
#[derive(Debug)]
pub(super) struct Left;

impl Left {
    /// What a server with a [`Place`] of this name leaves.
    pub(super) fn at(_: &str) -> Self {
        Self
    }
}
