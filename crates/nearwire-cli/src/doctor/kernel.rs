//! What of the kernel Nearwire is built on, each thing tried.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU32;

use rustix::event::{Timespec, epoll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{MembarrierCommand, MembarrierQuery, futex};

use super::Finding;

/// The oldest kernel with everything that is needed: `F_SEAL_FUTURE_WRITE` came with it.
const OLDEST: (u32, u32) = (5, 1);

/// The oldest with `MADV_POPULATE_WRITE`, by which rings are touched in advance.
const POPULATES: (u32, u32) = (5, 14);

/// The oldest with `SO_PEERPIDFD`.
const PEERPIDFD: (u32, u32) = (6, 5);

pub fn examine() -> Vec<Finding> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    vec![
        kernel(&release),
        seals(try_seals()),
        doorbells(try_doorbell()),
        control_socket(try_control_socket()),
        membarrier(try_membarrier()),
        futex_calls(),
        pidfd(),
        peerpidfd(&release),
    ]
}

/// The first two numbers of a release such as `6.1.0-17-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    match version(release) {
        Some(version) if version < OLDEST => Finding::fail(
            CHECK,
            format!("Linux {release}: no seal keeps a peer from writing"),
            format!("use Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
        Some(version) if version < POPULATES => Finding::warn(
            CHECK,
            format!("Linux {release}: rings cannot be touched in advance (pre_touch)"),
            format!("use Linux {}.{} or newer", POPULATES.0, POPULATES.1),
        ),
        Some(_) => Finding::ok(CHECK, format!("Linux {release}")),
        None => Finding::warn(
            CHECK,
            format!("Linux {release}: a release that says nothing"),
            "rely on the checks that follow: they try the features themselves",
        ),
    }
}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// Makes a segment as a connection does and tries to spoil it. Returns what was possible that
/// should not be.
fn try_seals() -> io::Result<Option<&'static str>> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create("nearwire-doctor", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("nearwire-doctor", flags)?,
        other => other?,
    };
    rustix::fs::ftruncate(&fd, 4096)?;
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(if !rustix::fs::fcntl_get_seals(&fd)?.contains(SEALS) {
        Some("the seals are not all there afterwards")
    } else if rustix::io::pwrite(&fd, b"x", 0).is_ok() {
        Some("a sealed segment can be written")
    } else if rustix::fs::ftruncate(&fd, 0).is_ok() {
        Some("a sealed segment can be cut")
    } else {
        None
    })
}

fn seals(tried: io::Result<Option<&str>>) -> Finding {
    const CHECK: &str = "memfd seals";
    const ADVICE: &str = "use Linux 5.1 or newer with memfd_create; in a sandbox (gVisor, an own \
                          seccomp filter), allow memfd_create and fcntl(F_ADD_SEALS)";
    match tried {
        Ok(None) => Finding::ok(
            CHECK,
            "SHRINK, GROW, FUTURE_WRITE and SEAL hold: neither writing nor cutting is possible",
        ),
        Ok(Some(hole)) => Finding::fail(CHECK, hole, ADVICE),
        Err(error) => Finding::fail(
            CHECK,
            format!("no sealed anonymous memory: {error}"),
            ADVICE,
        ),
    }
}

/// Rings a doorbell twice without reading it in between, as connections do. Returns how often it
/// was heard.
fn try_doorbell() -> io::Result<usize> {
    let (bell, ring) = UnixStream::pair()?;
    bell.shutdown(Shutdown::Read)?;
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&poller, &bell, epoll::EventData::new_u64(0), events)?;
    let hear = |tv_sec| {
        let mut events = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 1];
        let timeout = Timespec { tv_sec, tv_nsec: 0 };
        io::Result::Ok(epoll::wait(&poller, &mut events, Some(&timeout))?.0.len())
    };
    // It is readable from the start.
    hear(0)?;
    let mut heard = 0;
    for _ in 0..2 {
        rustix::net::shutdown(&ring, rustix::net::Shutdown::Write)?;
        heard += hear(1)?;
    }
    Ok(heard)
}

fn doorbells(tried: io::Result<usize>) -> Finding {
    const CHECK: &str = "doorbells";
    const ADVICE: &str =
        "sleepers would not be woken: use a kernel, or a sandbox, with edge-triggered epoll";
    match tried {
        Ok(2) => Finding::ok(
            CHECK,
            "sockets shut down again, and edge-triggered epoll: each ring is heard",
        ),
        Ok(heard) => Finding::fail(
            CHECK,
            format!("rung twice, a doorbell was heard {heard} times"),
            ADVICE,
        ),
        Err(error) => Finding::fail(CHECK, format!("no socket in an epoll: {error}"), ADVICE),
    }
}

/// Asks a socket who is at its other end. Returns whether it says so rightly.
fn try_control_socket() -> io::Result<bool> {
    let (here, _there): (OwnedFd, OwnedFd) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let peer = rustix::net::sockopt::socket_peercred(here.as_fd())?;
    Ok(peer.pid == getpid() && peer.uid == rustix::process::geteuid())
}

fn control_socket(tried: io::Result<bool>) -> Finding {
    const CHECK: &str = "peer credentials";
    const ADVICE: &str = "a server could not tell whose connection it has: use a kernel, or a \
                          sandbox, with SO_PEERCRED";
    match tried {
        Ok(true) => Finding::ok(CHECK, "SO_PEERCRED tells process and user"),
        Ok(false) => Finding::fail(CHECK, "SO_PEERCRED names somebody else", ADVICE),
        Err(error) => Finding::fail(CHECK, format!("no SO_PEERCRED: {error}"), ADVICE),
    }
}

/// Fences for another process, as a sleeper does.
fn try_membarrier() -> io::Result<()> {
    let needed = MembarrierQuery::GLOBAL_EXPEDITED | MembarrierQuery::REGISTER_GLOBAL_EXPEDITED;
    if !rustix::thread::membarrier_query().contains(needed) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    rustix::thread::membarrier(MembarrierCommand::RegisterGlobalExpedited)?;
    Ok(rustix::thread::membarrier(
        MembarrierCommand::GlobalExpedited,
    )?)
}

fn membarrier(tried: io::Result<()>) -> Finding {
    const CHECK: &str = "membarrier";
    match tried {
        Ok(()) => Finding::ok(CHECK, "global expedited: publishing needs no fence"),
        Err(error) => Finding::warn(
            CHECK,
            format!("none ({error}): every publish costs a full fence instead"),
            "allow the membarrier system call, or use Linux 4.16 or newer",
        ),
    }
}

fn futex_calls() -> Finding {
    const CHECK: &str = "futex";
    match futex::wake(&AtomicU32::new(0), futex::Flags::empty(), 1) {
        Ok(_) => Finding::ok(CHECK, "between processes; only `bench floor` sleeps on one"),
        Err(error) => Finding::warn(
            CHECK,
            format!("not between processes: {error}"),
            "connections do without, but `nearwire bench floor` cannot compare with it",
        ),
    }
}

fn pidfd() -> Finding {
    const CHECK: &str = "pidfd";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::ok(
            CHECK,
            "there, for supervisors; connections notice a death by their socket",
        ),
        Err(error) => Finding::ok(
            CHECK,
            format!("none ({error}); connections do without: their socket tells of a death"),
        ),
    }
}

fn peerpidfd(release: &str) -> Finding {
    const CHECK: &str = "SO_PEERPIDFD";
    let (major, minor) = PEERPIDFD;
    Finding::ok(
        CHECK,
        match version(release) {
            Some(version) if version >= PEERPIDFD => {
                format!("in Linux since {major}.{minor}; a connection asks for SO_PEERCRED only")
            }
            _ => format!("not before Linux {major}.{minor}; connections do without"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(version("6.1.0-17-amd64"), Some((6, 1)));
        assert_eq!(version("5.15-custom"), Some((5, 15)));
        assert_eq!(version("next"), None);
        for (release, level) in [
            ("4.19.0", Level::Fail),
            ("5.0.21", Level::Fail),
            ("5.4.0", Level::Warn),
            ("5.14", Level::Ok),
            ("6.18.5", Level::Ok),
            ("next", Level::Warn),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn what_is_missing_is_judged_by_whether_anything_works_without() {
        let missing = || io::Error::from(io::ErrorKind::Unsupported);
        assert_eq!(seals(Err(missing())).level, Level::Fail);
        assert_eq!(seals(Ok(Some("a hole"))).level, Level::Fail);
        assert_eq!(doorbells(Ok(1)).level, Level::Fail);
        assert_eq!(control_socket(Ok(false)).level, Level::Fail);
        assert_eq!(membarrier(Err(missing())).level, Level::Warn);
    }
}
