//! shmipc, CloudWeGo's.

use std::any::Any;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ::shmipc::buffer::BufferReader as _;
use ::shmipc::config::{Config, SizePercentPair};
use ::shmipc::consts::MemMapType;
use ::shmipc::session::{SessionManager, SessionManagerConfig};
use ::shmipc::stream::Stream;
use ::shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use ::shmipc::{Error, Listener};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;

use crate::drive::awaited::{Lane, Lanes};
use crate::drive::runtime;
use crate::message::Expected;
use crate::peer::{About, Peer, Setup};

/// Bytes of a buffer's own header.
const SLICE_HEADER: usize = 256;

/// Buffers of a connection, in bytes: at least what shmipc allows, and room for the window.
const LEAST: usize = 4 << 20;

/// shmipc.
pub struct ShmIpc;

impl Peer for ShmIpc {
    type Clients = Lanes<ShmIpcLane>;
    const ABOUT: About = About {
        name: "shmipc",
        title: "shmipc",
        spins: false,
        packages: &["shmipc"],
        configuration: "Protocol V4 with eventfd wake-ups over a memfd, which its documentation \
            recommends for small messages; a session with one stream for each client; buffers as \
            large as the longest message, so that each message is one; a Tokio runtime of one \
            thread on either side.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let runtime = runtime()?;
        let (address, config) = (address(&setup.place)?, config(setup));
        let mut listener = runtime.block_on(Listener::new(DefaultUnixListen, address, config))?;
        thread::spawn(move || {
            runtime.block_on(async move {
                while let Ok(stream) = listener.accept().await {
                    tokio::spawn(answer(stream));
                }
            });
        });
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        Lanes::open(setup.own, |_| async {
            let config = SessionManagerConfig::new()
                .with_config(config(setup))
                .with_session_num(1);
            let session = SessionManager::new(config, DefaultUnixConnect, address(&setup.place)?)
                .await
                .map_err(failed)?;
            Ok(ShmIpcLane {
                stream: session.get_stream().map_err(failed)?,
                _session: session,
            })
        })
    }
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("shmipc: {error}")
}

fn address(place: &Path) -> Result<SocketAddr> {
    Ok(SocketAddr::from_pathname(place.join("socket"))?)
}

fn config(setup: &Setup) -> Config {
    let buffer = setup.longest + SLICE_HEADER;
    let all = (buffer * (setup.window + 2) * 4).next_power_of_two();
    let mut config = Config::default().with_v4_eventfd();
    config.mem_map_type = MemMapType::MemMapTypeMemFd;
    config.share_memory_buffer_cap = all.max(LEAST) as u32;
    config.buffer_slice_sizes = vec![SizePercentPair {
        size: buffer as u32,
        percent: 100,
    }];
    config.connection_write_timeout = Duration::from_secs(5);
    config
}

/// Messages have no length of their own: each has four bytes of it in front.
const HEADER: usize = 4;

/// The next message, where it lies.
async fn read(stream: &mut Stream) -> Result<Option<Bytes>> {
    let length = match stream.read_exact_bytes(HEADER).await {
        Ok(length) => u32::from_le_bytes(length.as_ref().try_into()?) as usize,
        Err(Error::StreamClosed | Error::EndOfStream) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let message = stream.read_exact_bytes(length).await.map_err(failed)?;
    Ok(Some(message.into_bytes()))
}

fn write(stream: &mut Stream, message: &[u8]) -> Result<()> {
    let length = u32::try_from(message.len())?.to_le_bytes();
    stream.write_bytes(&length).map_err(failed)?;
    stream.write_bytes(message).map_err(failed)?;
    Ok(())
}

async fn flush(stream: &mut Stream) -> Result<()> {
    loop {
        match stream.flush(false).await {
            Ok(()) => return Ok(()),
            Err(Error::QueueFull) => tokio::task::yield_now().await,
            Err(error) => return Err(failed(error)),
        }
    }
}

async fn answer(mut stream: Stream) -> Result<()> {
    while let Some(message) = read(&mut stream).await? {
        write(&mut stream, &message)?;
        drop(message);
        flush(&mut stream).await?;
        stream.recv_buf().release_previous_read();
    }
    stream.close().await.map_err(failed)
}

/// A stream, and the session that it belongs to.
pub struct ShmIpcLane {
    stream: Stream,
    _session: SessionManager<DefaultUnixConnect>,
}

impl Lane for ShmIpcLane {
    async fn submit(&mut self, request: &[u8]) -> Result<()> {
        write(&mut self.stream, request)?;
        flush(&mut self.stream).await
    }

    async fn collect(&mut self, expected: &mut Expected) -> Result<()> {
        let reply = read(&mut self.stream).await?;
        expected.check(&reply.context("the server is gone")?)?;
        self.stream.recv_buf().release_previous_read();
        Ok(())
    }
}
