//! From a server's name to its pipe.
//!
//! Pipes have one flat name space. A plain name becomes `\\.\pipe\nearwire-SID-NAME`, where SID is the
//! user's; a path, which on Unix says where the socket is, becomes part of such a name, made
//! absolute, with everything but letters, digits, `.`, `_` and `-` written as `%XX`. So a path means
//! one server on each system, and nothing is created on the disk.

use super::process::own_user;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where all pipes are.
const PIPES: &str = r"\\.\pipe\";

/// Whether a name is a path, which says by itself where the server is.
pub(crate) fn is_path(name: &str) -> bool {
    name.contains(['/', '\\'])
}

/// The pipe of a server that is found by a path; a pipe's full name is taken as it is.
pub(crate) fn endpoint_of_path(path: &Path) -> PathBuf {
    if path.to_str().is_some_and(|path| path.starts_with(PIPES)) {
        return path.to_owned();
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut name = String::new();
    for byte in absolute.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                name.push(char::from(*byte));
            }
            _ => write!(name, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    pipe(&name)
}

/// The pipe of a server with a plain name: the user's own, or, if `NEARWIRE_DIR` is set, that of the
/// path `NEARWIRE_DIR/NAME.sock`.
pub(crate) fn endpoint_of_name(name: &str) -> PathBuf {
    match std::env::var_os("NEARWIRE_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => endpoint_of_path(&Path::new(&dir).join(format!("{name}.sock"))),
        None => pipe(name),
    }
}

fn pipe(name: &str) -> PathBuf {
    format!("{PIPES}nearwire-{}-{name}", own_user()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_part_of_a_name() {
        let pipe = endpoint_of_path(Path::new(r"C:\some dir/socket"));
        let pipe = pipe.to_str().unwrap();
        assert!(pipe.starts_with(r"\\.\pipe\nearwire-S-1-"), "{pipe}");
        assert!(pipe.ends_with("-C%3A%5Csome%20dir%5Csocket"), "{pipe}");
        let full = Path::new(r"\\.\pipe\of-ones-own");
        assert_eq!(endpoint_of_path(full), full);
    }
}
