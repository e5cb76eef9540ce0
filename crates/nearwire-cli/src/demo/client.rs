//! A client process: it makes the calls that it is told to make, and checks every answer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use nearwire::{BlockingClient, Method, Status};
use serde::{Deserialize, Serialize};

use super::figures::RoundTrips;
use super::in_use::{self, Connection};
use super::walk;
use crate::baseline::blocking::SocketClient;
use crate::baseline::socket;
use crate::measure::{Budget, Latency, latency};
use crate::process::{Child, Descriptor, Parent};

/// The role of a client process.
pub const DEMO_CLIENT_ROLE: &str = "demo-client";

/// Files in flight at a time.
const WINDOW: usize = 64;

/// The client's first message from its parent.
#[derive(Serialize, Deserialize)]
struct Introduction {
    /// The server to connect to.
    server: String,
}

/// What a client is told to do.
#[derive(Serialize, Deserialize)]
enum Task {
    /// Time round trips, over Nearwire and over the socket that comes along.
    RoundTrips {
        sizes: Vec<usize>,
        rounds: u32,
        budget: Budget,
    },
    /// Send these files and check the answers.
    Files(Vec<OsString>),
    /// Tell how the connection works.
    Connection,
}

/// What a client says.
#[derive(Serialize, Deserialize)]
enum Answer {
    /// One more run is done.
    Run,
    RoundTrips(Vec<RoundTrips>),
    Files(Checked),
    Connection(Connection),
}

/// What became of some files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Checked {
    /// Files whose answer came, right or wrong.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Files whose answer was wrong, and what is wrong with it.
    pub(super) mismatched: Vec<(OsString, String)>,
    /// Files that could not be read, and why.
    pub(super) unreadable: Vec<(OsString, String)>,
    /// Files that had become too large, and how.
    pub(super) too_large: Vec<(OsString, String)>,
}

/// A client process, as its parent sees it.
pub(super) struct Client {
    process: Child,
}

impl Client {
    pub(super) fn start(server: &str) -> Result<Self> {
        let process = Child::start(DEMO_CLIENT_ROLE, None)?;
        let server = server.to_owned();
        process.channel().send(&Introduction { server })?;
        Ok(Self { process })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn finish(self) -> Result<()> {
        self.process.finish()
    }

    /// Times round trips of some sizes over Nearwire and over a socket, in turn.
    pub(super) fn round_trips(
        &self,
        socket_server: &Child,
        sizes: &[usize],
        rounds: u32,
        budget: Budget,
        progress: &ProgressBar,
    ) -> Result<Vec<RoundTrips>> {
        let end = socket::pair(socket_server)?;
        let task = Task::RoundTrips {
            sizes: sizes.to_vec(),
            rounds,
            budget,
        };
        self.process.channel().send_with(&task, &[end])?;
        progress.set_length(2 * sizes.len() as u64 * u64::from(rounds));
        loop {
            match self.answer()? {
                Answer::Run => progress.inc(1),
                Answer::RoundTrips(round_trips) => {
                    progress.finish_and_clear();
                    return Ok(round_trips);
                }
                _ => bail!("a client process answered something else"),
            }
        }
    }

    /// Sends files through the server and has the answers checked.
    pub(super) fn files<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<Checked> {
        let paths = paths.map(|path| path.as_os_str().to_owned()).collect();
        self.process.channel().send(&Task::Files(paths))?;
        match self.answer()? {
            Answer::Files(checked) => Ok(checked),
            _ => bail!("a client process answered something else"),
        }
    }

    /// How the client's connection works.
    pub(super) fn connection(&self) -> Result<Connection> {
        self.process.channel().send(&Task::Connection)?;
        match self.answer()? {
            Answer::Connection(connection) => Ok(connection),
            _ => bail!("a client process answered something else"),
        }
    }

    fn answer(&self) -> Result<Answer> {
        self.process
            .channel()
            .receive()
            .context("a client process of the demo failed")
    }
}

/// The role of a client process: does what it is told until its parent closes the channel.
///
/// # Errors
/// If the server is gone, or an echo differs from what was sent.
pub fn be_client(parent: Parent) -> Result<()> {
    let Introduction { server } = parent.channel().receive()?;
    let mut client = BlockingClient::builder()
        .label("nearwire demo")
        .connect_blocking(&server)?;
    while let Some((task, descriptors)) = parent.channel().next()? {
        let answer = match task {
            Task::RoundTrips {
                sizes,
                rounds,
                budget,
            } => {
                let [end]: [Descriptor; 1] = descriptors
                    .try_into()
                    .map_err(|_| anyhow::anyhow!("a socket should have come along"))?;
                let mut contest = Contest {
                    client: &mut client,
                    socket: SocketClient::new(socket::open(end)?),
                    parent: &parent,
                    budget,
                };
                Answer::RoundTrips(contest.all(&sizes, rounds)?)
            }
            Task::Files(paths) => Answer::Files(check_files(&mut client, paths)?),
            Task::Connection => Answer::Connection(in_use::of_connection(&client)?),
        };
        parent.channel().send(&answer)?;
    }
    Ok(())
}

/// Two ways to call, in turn.
struct Contest<'a> {
    client: &'a mut BlockingClient,
    socket: SocketClient,
    parent: &'a Parent,
    budget: Budget,
}

impl Contest<'_> {
    fn all(&mut self, sizes: &[usize], rounds: u32) -> Result<Vec<RoundTrips>> {
        let mut all: Vec<_> = sizes.iter().map(|&bytes| RoundTrips::new(bytes)).collect();
        let echo = self.client.method("echo")?;
        for _ in 0..rounds {
            for of_size in &mut all {
                let payload: Vec<u8> = (0..of_size.bytes).map(|at| (at * 7) as u8).collect();
                of_size.nearwire.push(self.nearwire(echo, &payload)?);
                of_size.unix_socket.push(self.socket(&payload)?);
            }
        }
        Ok(all)
    }

    fn nearwire(&mut self, echo: Method, payload: &[u8]) -> Result<Latency> {
        let mut reply = Vec::with_capacity(payload.len());
        let measured = latency(self.budget, || {
            self.client.call_into(echo, payload, &mut reply)?;
            ensure!(reply == payload, "an echo differs from what was sent");
            Ok(())
        })?;
        self.parent.channel().send(&Answer::Run)?;
        Ok(measured)
    }

    fn socket(&mut self, payload: &[u8]) -> Result<Latency> {
        let measured = latency(self.budget, || self.socket.round_trip(payload))?;
        self.parent.channel().send(&Answer::Run)?;
        Ok(measured)
    }
}

/// A file whose answer has not come yet.
struct Due {
    path: OsString,
    /// What the answer must be.
    hash: blake3::Hash,
}

/// Sends files whole, several at a time, and compares the server's hash of each with its own.
fn check_files(client: &mut BlockingClient, paths: Vec<OsString>) -> Result<Checked> {
    let limit = client.info().max_message_out;
    let hash = client.method("hash")?;
    let mut pipeline = client.pipeline();
    let mut due = VecDeque::new();
    let mut checked = Checked::default();
    let mut content = Vec::new();
    // Sync handlers answer in the order of the calls.
    let settle = |due: &mut VecDeque<Due>, checked: &mut Checked, reply: Result<&[u8], Status>| {
        let Due { path, hash } = due.pop_front().context("an answer to no call came")?;
        let reply = reply.with_context(|| format!("the server failed at {path:?}"))?;
        if reply != hash.as_bytes() {
            let text = format!("the server answered {reply:02x?}, expected was {hash}");
            checked.mismatched.push((path, text));
        }
        anyhow::Ok(())
    };
    for path in paths {
        match read(Path::new(&path), limit, &mut content) {
            Ok(bytes) if bytes > limit => {
                checked
                    .too_large
                    .push((path, walk::too_large(bytes, limit)));
                continue;
            }
            Ok(bytes) => checked.bytes += bytes,
            Err(error) => {
                checked.unreadable.push((path, error.to_string()));
                continue;
            }
        }
        pipeline.submit(hash, &content)?;
        pipeline.flush();
        // While the server does the same.
        let hash = blake3::hash(&content);
        checked.files += 1;
        due.push_back(Due { path, hash });
        if due.len() >= WINDOW
            && let Some(settled) =
                pipeline.next(|_, reply| settle(&mut due, &mut checked, reply))?
        {
            settled?;
        }
    }
    while let Some(settled) = pipeline.next(|_, reply| settle(&mut due, &mut checked, reply))? {
        settled?;
    }
    ensure!(due.is_empty(), "{} answers did not come", due.len());
    Ok(checked)
}

/// Reads a file whole; returns its length, which is above `limit` if it was not read to its end.
fn read(path: &Path, limit: u64, content: &mut Vec<u8>) -> io::Result<u64> {
    content.clear();
    let mut options = File::options();
    only_files(options.read(true));
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("no regular file any more"));
    }
    if metadata.len() > limit {
        return Ok(metadata.len());
    }
    content.reserve_exact(metadata.len() as usize + 1);
    file.take(limit.saturating_add(1)).read_to_end(content)?;
    Ok(content.len() as u64)
}

/// What was a file when it was found may be a pipe by now, or a link to one: neither waits for who
/// writes to a pipe, nor follows a link.
#[cfg(unix)]
fn only_files(options: &mut OpenOptions) {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    options.custom_flags(flags.bits() as i32);
}

/// What was a file when it was found may be a link by now: opens that itself, which is no file.
#[cfg(windows)]
fn only_files(options: &mut OpenOptions) {
    use std::os::windows::fs::OpenOptionsExt;
    const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x20_0000;
    options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
}
