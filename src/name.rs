//! From a server's name to its socket.

use crate::error::{Error, Result};
use crate::sys;
use std::path::{Path, PathBuf};

/// Where a server is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Whether the directory is Nearwire's own: made when missing, closed to everybody else.
    pub(crate) private_directory: bool,
}

impl Place {
    /// A plain name lives in the user's own directory; anything with a slash is a path.
    pub(crate) fn of(name: &str) -> Result<Self> {
        if sys::is_path(name) {
            return Ok(Self {
                path: sys::endpoint_of_path(Path::new(name)),
                private_directory: false,
            });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::BadName {
                name: name.to_owned(),
            });
        }
        Ok(Self {
            path: sys::endpoint_of_name(name),
            private_directory: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let place = Place::of("search").unwrap();
        assert!(place.private_directory);
        assert_eq!(place.path, sys::endpoint_of_name("search"));
        let place = Place::of("./search").unwrap();
        assert!(!place.private_directory);
        assert_eq!(place.path, sys::endpoint_of_path(Path::new("./search")));
        for bad in ["", ".", "..", ".hidden", "a b", "a\0b", "ä"] {
            assert!(
                matches!(Place::of(bad), Err(Error::BadName { .. })),
                "{bad:?}"
            );
        }
    }
}
