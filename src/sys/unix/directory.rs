//! The directory that a socket lives in: who may enter it, and whose turn it is to take a name.

use super::own_uid;
use crate::error::{DirectoryFault, Error};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for others to take or free their names.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directory of a socket, opened and found private. Locked while a name is taken or freed.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`, which must be a real directory of this user's (or root's) that nobody else
    /// may write. `create`: make it, 0700, if it is missing. `private`: nobody else may even
    /// enter it.
    pub(super) fn open(path: &Path, create: bool, private: bool) -> Result<Self, Error> {
        if create {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Err(Errno::NOENT) => {
                    if let Some(parent) = path.parent() {
                        std::fs::create_dir_all(parent).map_err(Error::io("create directory"))?;
                    }
                    rustix::fs::mkdir(path, Mode::RWXU)
                        .map_err(|e| Error::io("create the socket directory")(e.into()))?;
                }
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("create the socket directory")(error.into())),
            }
        }
        let fault = |fault| Error::Directory {
            path: path.to_owned(),
            fault,
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Err(fault(DirectoryFault::SymbolicLink)),
            // With O_DIRECTORY a symbolic link is "not a directory".
            Err(Errno::NOTDIR) => {
                let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
                return Err(fault(if link {
                    DirectoryFault::SymbolicLink
                } else {
                    DirectoryFault::NotADirectory
                }));
            }
            Err(Errno::ACCESS) => return Err(fault(DirectoryFault::NoAccess)),
            Err(Errno::NOENT) => return Err(fault(DirectoryFault::Missing)),
            other => other.map_err(|e| Error::io("open the socket directory")(e.into()))?,
        };
        let stat = rustix::fs::fstat(&fd)
            .map_err(|e| Error::io("check the socket directory")(e.into()))?;
        let mine = own_uid();
        if stat.st_uid != mine && (private || stat.st_uid != 0) {
            return Err(fault(DirectoryFault::Owner {
                is: stat.st_uid,
                me: mine,
            }));
        }
        let forbidden = if private { 0o077 } else { 0o022 };
        #[allow(clippy::useless_conversion)] // 16 bits on macOS
        let mode = u32::from(stat.st_mode);
        if mode & forbidden != 0 {
            return Err(fault(DirectoryFault::Mode { is: mode & 0o7777 }));
        }
        Ok(Self(fd))
    }

    /// Keeps other servers of this directory from taking or freeing a name meanwhile. Released
    /// when the directory is closed. Servers hold it for a moment; whoever holds it for longer
    /// (anybody who may read the directory can) is not waited for.
    pub(super) fn lock(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_lock() {
            if Instant::now() >= deadline {
                let doing = "lock the socket directory: some process holds it and is no server \
                             (lslocks tells which)";
                return Err(Error::io(doing)(std::io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// As [`lock`](Self::lock), if that can be had at once.
    pub(super) fn try_lock(&self) -> bool {
        rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_ok()
    }
}
