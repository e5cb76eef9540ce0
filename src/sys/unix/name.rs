//! From a server's name to its socket.

use super::own_uid;
use std::path::{Path, PathBuf};

/// Whether a name is a path, which says by itself where the server is.
pub(crate) fn is_path(name: &str) -> bool {
    name.contains('/')
}

/// The socket of a server that is found by a path.
pub(crate) fn endpoint_of_path(path: &Path) -> PathBuf {
    path.to_owned()
}

/// The socket of a server with a plain name: in `$NEARWIRE_DIR`, else in
/// `$XDG_RUNTIME_DIR/nearwire`, else in `/tmp/nearwire-UID`.
pub(crate) fn endpoint_of_name(name: &str) -> PathBuf {
    directory().join(format!("{name}.sock"))
}

fn directory() -> PathBuf {
    if let Some(dir) = std::env::var_os("NEARWIRE_DIR").filter(|d| !d.is_empty()) {
        return dir.into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        Some(dir) => Path::new(&dir).join("nearwire"),
        None => format!("/tmp/nearwire-{}", own_uid()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_a_file_in_the_directory() {
        assert_eq!(endpoint_of_name("search"), directory().join("search.sock"));
        assert!(is_path("./search") && !is_path("search"));
    }
}
