//! Closing what a peer sent, or may have left in a queue, without waiting for it.
//!
//! `close` can block: a TCP socket lingers until its other end has read, a file of a userspace
//! file system asks that for its leave. Whoever sends such a descriptor and keeps no copy has the
//! receiver wait in its place, and a descriptor that nobody has taken out of a socket's queue is
//! closed with the socket. So only what is known to close at once is closed in place; the rest
//! goes to a thread that has nothing else to do.

use crate::sys::os::closing::closes_at_once;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::mem::ManuallyDrop;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that may hang in a `close` at a time. What comes beyond waits for one of them.
const MAX_THREADS: usize = 16;

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<OwnedFd>,
    threads: usize,
    idle: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    waiting: Vec::new(),
    threads: 0,
    idle: 0,
});
static ARRIVED: Condvar = Condvar::new();

/// A descriptor of something that a peer made, or can put descriptors into. Dropping it never
/// blocks.
#[derive(Debug)]
pub(crate) struct Foreign(ManuallyDrop<OwnedFd>);

impl From<OwnedFd> for Foreign {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: taken here only, and nothing uses the field after the drop.
        close(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}

fn close(fd: OwnedFd) {
    if closes_at_once(&fd) {
        return;
    }
    let mut queue = lock();
    queue.waiting.push(fd);
    if queue.idle >= queue.waiting.len() || queue.threads >= MAX_THREADS {
        ARRIVED.notify_one();
        return;
    }
    let thread = std::thread::Builder::new().name("nearwire-close".into());
    match thread.spawn(close_what_waits) {
        Ok(_) => queue.threads += 1,
        Err(error) => tracing::warn!(%error, "no thread to close what a peer sent; it stays open"),
    }
    #[cfg(fuzzing)]
    let_them_start(queue);
}

/// Returns when no thread is starting any more, see [`KEPT`].
#[cfg(fuzzing)]
fn let_them_start(mut queue: MutexGuard<'_, Queue>) {
    while queue.idle < queue.threads {
        drop(queue);
        std::thread::yield_now();
        queue = lock();
    }
}

/// How long a thread waits for more before it ends. Years under a fuzzer, whose leak checker takes
/// for a leak what std keeps for a thread that is just starting or ending.
const KEPT: Duration = match cfg!(fuzzing) {
    true => Duration::from_secs(1 << 30),
    false => Duration::from_secs(1),
};

fn close_what_waits() {
    let mut queue = lock();
    loop {
        if let Some(fd) = queue.waiting.pop() {
            drop(queue);
            drop(fd);
            queue = lock();
            continue;
        }
        queue.idle += 1;
        let waited = ARRIVED.wait_timeout(queue, KEPT);
        let (again, time) = waited.unwrap_or_else(PoisonError::into_inner);
        queue = again;
        queue.idle -= 1;
        if time.timed_out() && queue.waiting.is_empty() {
            queue.threads -= 1;
            return;
        }
    }
}

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

// Sockets linger in close(2) on Linux.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn a_lingering_socket_holds_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut others = Vec::new();
        let begun = Instant::now();
        // More than there may be threads.
        for _ in 0..2 * MAX_THREADS {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            others.push(listener.accept().unwrap());
            stream.set_nonblocking(true).unwrap();
            while (&stream).write(&[0; 65536]).is_ok() {}
            let long = Some(Duration::from_secs(3600));
            rustix::net::sockopt::set_socket_linger(&stream, long).unwrap();
            close(stream.into());
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "a close hung");
        assert!(lock().threads <= MAX_THREADS);
        // Once the other ends are gone all of it is closed.
        drop(others);
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let queue = lock();
            if queue.threads == queue.idle && queue.waiting.is_empty() {
                break;
            }
            assert!(Instant::now() < patience, "{queue:?}");
            drop(queue);
            std::thread::sleep(Duration::from_millis(10));
        }
        let (one, _other) = UnixStream::pair().unwrap();
        close(one.into());
    }
}
