//! ipc-channel, Servo's.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::drive::blocking::Lane;
use crate::peer::{About, Peer, Setup};

/// How long a client waits until the server is ready for its next connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client says first: where its requests come from, and where their replies go.
#[derive(Serialize, Deserialize)]
struct Hello {
    requests: IpcBytesReceiver,
    replies: IpcBytesSender,
}

/// ipc-channel.
pub struct IpcChannel;

impl Peer for IpcChannel {
    type Clients = Vec<ChannelLane>;
    const ABOUT: About = About {
        name: "ipc-channel",
        title: "ipc-channel",
        spins: false,
        packages: &["ipc-channel"],
        configuration: "A pair of byte channels for each connection, which serde never sees, and a \
            server thread for each: faster than sending a reply channel with each call, each of \
            which takes a descriptor (64 per message at most). Connecting is an \
            `IpcOneShotServer` for each connection, over which the channels are handed.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        for process in 0..setup.processes {
            let door = door(&setup.place, process);
            let first = open(&door)?;
            thread::spawn(move || admit(first, &door));
        }
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let door = door(&setup.place, setup.process);
        (0..setup.own).map(|_| connect(&door)).collect()
    }
}

/// The file with the name that a client process connects to next.
fn door(place: &Path, process: usize) -> PathBuf {
    place.join(format!("door-{process}"))
}

/// Makes a server for one connection, and writes its name down.
fn open(door: &Path) -> Result<IpcOneShotServer<Hello>> {
    let (server, name) = IpcOneShotServer::new()?;
    let written = door.with_extension("new");
    fs::write(&written, name)?;
    fs::rename(written, door)?;
    Ok(server)
}

/// Admits the connections of one client process, one after the other.
fn admit(mut server: IpcOneShotServer<Hello>, door: &Path) -> Result<()> {
    loop {
        let (_, hello) = server.accept()?;
        thread::spawn(move || answer(&hello));
        server = open(door)?;
    }
}

fn answer(hello: &Hello) -> Result<()> {
    loop {
        let request = hello.requests.recv()?;
        hello.replies.send(&request)?;
    }
}

fn connect(door: &Path) -> Result<ChannelLane> {
    let server = IpcSender::connect(fresh_name(door)?)?;
    let (requests, server_requests) = bytes_channel()?;
    let (server_replies, replies) = bytes_channel()?;
    server.send(Hello {
        requests: server_requests,
        replies: server_replies,
    })?;
    Ok(ChannelLane { requests, replies })
}

/// A name is good for one connection: waits for the next one.
fn fresh_name(door: &Path) -> Result<String> {
    static USED: Mutex<String> = Mutex::new(String::new());
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let name = fs::read_to_string(door)?;
        if name != *used {
            used.clone_from(&name);
            return Ok(name);
        }
        ensure!(Instant::now() < deadline, "the server admits nobody");
        thread::yield_now();
    }
}

/// Two channels.
pub struct ChannelLane {
    requests: IpcBytesSender,
    replies: IpcBytesReceiver,
}

impl Lane for ChannelLane {
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        self.requests.send(request).context("the server is gone")
    }

    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let reply = self.replies.recv();
        check(&reply.ok().context("the server is gone")?)
    }
}
