//! The files by which Linux tells about itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The files of `/proc`, `/sys` and the like, below a root.
#[derive(Debug, Clone)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// This one.
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    /// One whose files lie below a directory.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Whether there is such a file.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path.as_ref()).exists()
    }

    /// A file's text, without the line break at its end.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read(self.at(path.as_ref())).ok()?;
        Some(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// The number that a file consists of.
    pub fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The value behind a key, in a file of lines such as `key value` or `key: value kB`.
    pub fn value(&self, path: impl AsRef<Path>, key: &str) -> Option<u64> {
        self.text(path)?.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let found = words.next()?.trim_end_matches(':') == key;
            found.then(|| words.next()?.parse().ok()).flatten()
        })
    }

    /// The choice in a file such as `always [madvise] never`.
    pub fn choice(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.text(path)?.split(['[', ']']).nth(1)?.to_owned())
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// A machine made of files, for tests.
#[cfg(test)]
pub struct Files {
    system: System,
    /// Removed when dropped.
    _directory: tempfile::TempDir,
}

#[cfg(test)]
impl Files {
    /// With these files.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let system = System::below(directory.path());
        Self {
            system,
            _directory: directory,
        }
    }
}

#[cfg(test)]
impl std::ops::Deref for Files {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_shapes_are_read() {
        let files = Files::new([
            ("/proc/number", "12\n"),
            ("/proc/values", "a 1\nb: 2 kB\n"),
            ("/sys/choice", "always [never] advise\n"),
        ]);
        assert_eq!(files.number("/proc/number"), Some(12));
        assert_eq!(files.number::<u64>("/proc/nothing"), None);
        assert_eq!(files.value("/proc/values", "b"), Some(2));
        assert_eq!(files.value("/proc/values", "c"), None);
        assert_eq!(files.choice("/sys/choice").unwrap(), "never");
        assert!(files.has("/sys/choice") && !files.has("/sys/other"));
    }
}
