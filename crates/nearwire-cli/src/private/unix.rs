//! A socket in a directory that nobody else may enter.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where a server is found.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    path: String,
}

impl Place {
    /// Makes the directory.
    ///
    /// # Errors
    /// If the system refuses it, or its path is not UTF-8.
    pub fn new() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("nearwire-");
        builder.permissions(PermissionsExt::from_mode(0o700));
        let directory = builder
            .tempdir()
            .context("cannot make a temporary directory")?;
        let path = directory.path().join("server.sock");
        let path = path.to_str().context(
            "the temporary directory's path is not UTF-8: set TMPDIR to one whose path is",
        )?;
        Ok(Self {
            path: path.to_owned(),
            directory,
        })
    }

    /// The path of the socket.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Removes it.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn remove(self) -> Result<()> {
        let removed = self.directory.close();
        removed.context("cannot remove the socket's directory")
    }
}

/// The directory of a server's socket. The server removes it itself; this is for a server that was
/// killed.
#[derive(Debug)]
pub(super) struct Left(Option<PathBuf>);

impl Left {
    /// What a server with a [`Place`] of this path leaves.
    pub(super) fn at(path: &str) -> Self {
        Self(Path::new(path).parent().map(Path::to_owned))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // It is gone already, or somebody else's business by now.
        let _ = self.0.as_ref().map(std::fs::remove_dir_all);
    }
}
