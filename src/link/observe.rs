//! Asking a server for its counters page.

use crate::error::{Identity, Result};
use crate::name::Place;
use crate::segment::PageView;
use crate::settings::PeerPolicy;
use crate::sys::ControlSocket;
use std::time::Duration;
#[cfg(feature = "spsc_transport")]
use {
    super::establish::{Talk, check},
    crate::error::{Error, Violation},
    crate::metrics::layout::MAX_PAGE,
    crate::proto::handshake::{ObserverHandshake, VERSIONS},
    crate::sys::{Received, SegmentHandle},
    std::time::Instant,
};

/// Without shared memory there is nothing to be had.
#[cfg(not(feature = "spsc_transport"))]
pub(crate) fn observe(
    _: &Place,
    _: &PeerPolicy,
    _: Duration,
) -> Result<(PageView, ControlSocket, Identity)> {
    Err(crate::metrics::PageError::NoSharedMemory.into())
}

/// Gets the page, and the socket whose end tells that the server is gone. Blocks for `timeout` at
/// most.
#[cfg(feature = "spsc_transport")]
pub(crate) fn observe(
    place: &Place,
    policy: &PeerPolicy,
    timeout: Duration,
) -> Result<(PageView, ControlSocket, Identity)> {
    Asked::begin(place, policy, timeout)?.take()
}

/// An observer that has asked for the page.
#[cfg(feature = "spsc_transport")]
struct Asked {
    socket: ControlSocket,
    peer: Identity,
    handshake: ObserverHandshake,
    deadline: Instant,
}

#[cfg(feature = "spsc_transport")]
impl Asked {
    fn begin(place: &Place, policy: &PeerPolicy, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let socket = ControlSocket::connect(&place.path, deadline)?;
        let peer = socket.peer().map_err(Error::io("ask who the server is"))?;
        check(policy, peer)?;
        let handshake = ObserverHandshake::new(VERSIONS, MAX_PAGE as u64);
        let mut talk = Talk {
            socket: &socket,
            deadline,
        };
        talk.send(&handshake.observe()?, &[])?;
        Ok(Self {
            socket,
            peer,
            handshake,
            deadline,
        })
    }

    fn take(mut self) -> Result<(PageView, ControlSocket, Identity)> {
        let talk = Talk {
            socket: &self.socket,
            deadline: self.deadline,
        };
        let mut handles = Vec::new();
        let mut buffer = [0; 4096];
        let counters = loop {
            let before = handles.len();
            let received = self.socket.receive(&mut buffer, &mut handles);
            let count = match received.map_err(Error::io("read from the control socket"))? {
                Received::Nothing => {
                    talk.wait(false)?;
                    continue;
                }
                Received::EndOfFile => return Err(self.handshake.end_of_file().into()),
                Received::Bytes(count) => count,
            };
            let new = handles.len() - before;
            if let Some(counters) = self.handshake.receive(&buffer[..count], new)? {
                break counters;
            }
        };
        talk.confirm()?;
        let handle = handles.pop();
        let handle =
            handle.ok_or_else(|| Error::Protocol(Violation::Control("no handle".into())))?;
        let page = PageView::open(SegmentHandle::from(handle), counters.segment_len as usize)?;
        Ok((page, self.socket, self.peer))
    }
}

#[cfg(all(test, feature = "spsc_transport"))]
mod tests {
    use super::*;
    use crate::listener::MAX_OBSERVERS;
    use crate::{Observer, Server};

    #[test]
    fn one_too_many_has_the_page_however_late_it_looks() {
        let unique = format!("nearwire-observe-{}", std::process::id());
        let directory = std::env::temp_dir().join(unique);
        std::fs::create_dir(&directory).unwrap();
        #[cfg(unix)]
        {
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&directory, private).unwrap();
        }
        let path = directory.join("socket");
        let path = path.to_str().unwrap();
        let server = Server::builder().bind(path).unwrap();
        let others: Vec<_> = (0..MAX_OBSERVERS)
            .map(|_| Observer::connect(path).unwrap())
            .collect();

        let long = Duration::from_secs(30);
        let place = Place::of(path).unwrap();
        let late = Asked::begin(&place, &PeerPolicy::same_user(), long).unwrap();
        assert!(late.socket.wait_ready(false, long).unwrap());
        // When a later one has been let go, the server has nothing more to do for this one.
        let later = Observer::connect(path).unwrap();
        let deadline = Instant::now() + long;
        while later.is_alive() {
            assert!(Instant::now() < deadline, "it is not let go");
            std::thread::sleep(Duration::from_millis(1));
        }
        late.take().unwrap();
        assert!(others.iter().all(Observer::is_alive));
        drop(server);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
