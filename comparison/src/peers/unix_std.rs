//! A Unix stream socket and the standard library: no runtime, a thread for each connection.

use std::any::Any;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::Result;

use super::frames::{FrameLane, Writing, answer};
use crate::peer::{Ability, About, Peer, Setup};

/// One system call for each message.
pub struct Singly;

/// Messages in flight share system calls.
pub struct Coalesced;

impl Peer for Singly {
    type Clients = Vec<FrameLane<UnixStream, UnixStream>>;
    const ABOUT: About = About {
        name: "unix-std",
        title: "Unix socket, std",
        spins: false,
        packages: &[],
        configuration: "Blocking reads and writes, a server thread for each connection, frames of a \
            4-byte length and the message. One vectored write for each message; reads take up to \
            64 KiB, so several small messages may come with one. What a careful author writes in an \
            hour.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup, Writing::Singly)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, Writing::Singly)
    }
}

impl Peer for Coalesced {
    type Clients = Vec<FrameLane<UnixStream, UnixStream>>;
    const ABOUT: About = About {
        name: "unix-std-coalesced",
        title: "Unix socket, std, coalesced",
        spins: false,
        packages: &[],
        configuration: "As above, but the client writes half a window of frames with one system \
            call, and the server answers all whole frames that a read brought with one write. Only \
            shows with several calls in flight.",
        cannot: &[
            (
                Ability::RoundTrips,
                "one call in flight: nothing to coalesce",
            ),
            (Ability::Crowd, "one call in flight: nothing to coalesce"),
            (Ability::Connect, "connects as without"),
        ],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup, Writing::Coalesced)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        connect(setup, Writing::Coalesced)
    }
}

fn serve(setup: &Setup, writing: Writing) -> Result<Box<dyn Any>> {
    let listener = UnixListener::bind(setup.place.join("socket"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with its connection, or with the process.
            thread::spawn(move || answer(&stream, &stream, writing));
        }
    });
    Ok(Box::new(()))
}

fn connect(setup: &Setup, writing: Writing) -> Result<Vec<FrameLane<UnixStream, UnixStream>>> {
    (0..setup.own)
        .map(|_| {
            let stream = UnixStream::connect(setup.place.join("socket"))?;
            Ok(FrameLane::new(stream.try_clone()?, stream, writing))
        })
        .collect()
}
