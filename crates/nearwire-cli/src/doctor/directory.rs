//! The directory where servers' sockets lie, as the library itself judges it.

use std::path::Path;

use nearwire::{BlockingClient, Error, Server};

use super::Finding;

const CHECK: &str = "directory";

/// A name that only this process uses, for as long as it takes to find out whether a server could
/// have one.
fn name() -> String {
    format!("nearwire-doctor-{}", std::process::id())
}

pub fn examine() -> Finding {
    // Where a server of that name would be: nobody has it, and that says so.
    let path = match BlockingClient::connect(&name()) {
        Err(Error::NoServer { path, .. }) => path,
        Ok(_) => return Finding::warn(CHECK, "a stranger has this process's name", "try again"),
        Err(error) => return refused(&error),
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    // A server makes what is missing. To look is not to make.
    #[cfg(unix)]
    if let Some(finding) = missing(directory) {
        return finding;
    }
    match Server::builder().bind(&name()) {
        Ok(_server) if cfg!(windows) => Finding::ok(
            CHECK,
            "a server can have a name, which is a pipe's and no file's",
        ),
        Ok(_server) => Finding::ok(
            CHECK,
            format!(
                "{}: private, a server can have a name in it",
                directory.display()
            ),
        ),
        Err(error) => refused(&error),
    }
}

fn refused(error: &Error) -> Finding {
    let advice = match error {
        _ if cfg!(windows) => {
            "end what has the name, or set NEARWIRE_DIR, which becomes a part of the pipe's"
        }
        Error::Directory { fault, .. } => match fault {
            nearwire::DirectoryFault::Mode { .. } => {
                "chmod 700 the directory, or set NEARWIRE_DIR to one that is private"
            }
            _ => "set NEARWIRE_DIR to a directory of this user's own, mode 0700",
        },
        Error::PathTooLong { .. } => "set NEARWIRE_DIR to a directory with a shorter path",
        _ => "set NEARWIRE_DIR to a directory that this user may write, mode 0700",
    };
    Finding::fail(CHECK, error.to_string(), advice)
}

/// What is to be said if there is no such directory: whether it could be made.
#[cfg(unix)]
fn missing(directory: &Path) -> Option<Finding> {
    use rustix::fs::Access;

    if directory.symlink_metadata().is_ok() {
        return None;
    }
    let nearest = directory.ancestors().find(|place| place.exists())?;
    let may = Access::WRITE_OK | Access::EXEC_OK;
    Some(match rustix::fs::access(nearest, may) {
        Ok(()) => Finding::ok(
            CHECK,
            format!(
                "{}: the first server makes it, mode 0700",
                directory.display()
            ),
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!(
                "{} is missing and cannot be made in {}: {error}",
                directory.display(),
                nearest.display()
            ),
            "set NEARWIRE_DIR to a directory that this user may make or write",
        ),
    })
}
