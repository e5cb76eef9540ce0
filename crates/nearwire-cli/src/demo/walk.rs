//! The files of a directory.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use walkdir::WalkDir;

/// A file that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Its length when it was found, in bytes.
    pub(super) bytes: u64,
}

/// A path with which something is wrong, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Flawed {
    #[serde(serialize_with = "as_text")]
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

/// A path as text; what is not UTF-8 is replaced.
pub(super) fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// What a directory holds, all the way down.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: Vec<File>,
    /// Regular files that are too large.
    pub(super) too_large: Vec<Flawed>,
    /// Directories and files that cannot be read.
    pub(super) unreadable: Vec<Flawed>,
    /// Symbolic links, which are not followed.
    pub(super) links: u64,
    /// Pipes, sockets and devices.
    pub(super) special: u64,
}

/// Finds all files under `root`, in the order of their names; those beyond `largest` bytes are left
/// out.
pub(super) fn walk(root: &Path, largest: u64) -> Tree {
    let mut tree = Tree {
        root: root.to_owned(),
        ..Tree::default()
    };
    // A root that is itself a link was asked for, so it is followed.
    for entry in WalkDir::new(root).follow_links(false).sort_by_file_name() {
        match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
            Ok((_, entry)) if entry.file_type().is_dir() => {}
            Ok((metadata, entry)) if entry.file_type().is_file() => {
                let (path, bytes) = (entry.into_path(), metadata.len());
                if bytes > largest {
                    tree.too_large.push(Flawed {
                        path,
                        reason: too_large(bytes, largest),
                    });
                } else {
                    tree.files.push(File { path, bytes });
                }
            }
            Ok((_, entry)) if entry.file_type().is_symlink() && entry.depth() > 0 => {
                tree.links += 1;
            }
            Ok((_, entry)) if entry.file_type().is_symlink() => {}
            Ok(_) => tree.special += 1,
            Err(error) => tree.unreadable.push(Flawed {
                path: error.path().unwrap_or(root).to_owned(),
                reason: match error.io_error() {
                    Some(error) => error.to_string(),
                    None => error.to_string(),
                },
            }),
        }
    }
    tree
}

/// Why a file of `bytes` bytes is left out.
pub(super) fn too_large(bytes: u64, largest: u64) -> String {
    format!("{bytes} bytes, more than the demo's limit of {largest}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes links, and what is no file; returns how many of each.
    #[cfg(unix)]
    fn make_others(root: &Path) -> (u64, u64) {
        let at = |name: &str| root.join(name);
        std::os::unix::fs::symlink(at("small"), at("link")).unwrap();
        std::os::unix::fs::symlink(root, at("below/circle")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
        (2, 1)
    }

    /// Not everybody may make a link on this system.
    #[cfg(not(unix))]
    fn make_others(_: &Path) -> (u64, u64) {
        (0, 0)
    }

    #[test]
    fn only_regular_files_are_found_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("below")).unwrap();
        fs::write(at("below/empty"), []).unwrap();
        fs::write(at("large"), [0; 11]).unwrap();
        fs::write(at("small"), [0; 10]).unwrap();
        let others = make_others(root.path());

        let tree = walk(root.path(), 10);
        let file = |path, bytes| File { path, bytes };
        assert_eq!(
            tree.files,
            [file(at("below/empty"), 0), file(at("small"), 10)]
        );
        assert_eq!(tree.too_large.len(), 1);
        assert_eq!(tree.too_large[0].path, at("large"));
        assert_eq!((tree.links, tree.special), others);
        assert_eq!(tree.unreadable, []);
    }

    #[cfg(unix)]
    #[test]
    fn a_root_that_is_a_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("file"), [1]).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(walk(&link, 10).files.len(), 1);
    }
}
