//! The control pipe: the one thing with a name. It carries the handshake with its handles, then
//! rare messages, and its end is how a side learns that the other died.
//!
//! A pipe knows of no handles, so what is sent goes in chunks with a [`Head`] that names the handles,
//! by their values in the client's process, in either direction (see [`super`]).
//!
//! The name is kept free of connections: a pipe's name is in use as long as any end of it is open, so
//! a server that is gone would leave it taken for as long as a client of its holds on. Whoever
//! connects gets a pipe of its own instead ([`listener`]), as a handle that the server puts into the
//! client's process, and the value of that handle (`u64`; 0: refused) is all that the named pipe ever
//! carries.
//!
//! Pipes tell of readiness only by finishing what was begun: there is always a read under way,
//! whose event is signalled when something has come, and a write goes on by itself.

mod connect;
mod listener;
mod operation;
mod pipe;
mod writer;

pub(crate) use listener::ControlListener;

use super::event::{Event, Reset};
use super::process::{Process, copy_of, own_user};
use super::{Handle, Watched};
use crate::error::{Error, Identity};
use pipe::{Head, MAX_CHUNK, MAX_HANDLES, Pipe};
use std::fs::OpenOptions;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, OwnedHandle};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_OVERLAPPED, SECURITY_IDENTIFICATION};

/// The longest name of a pipe, in UTF-16 units.
const MAX_PATH: usize = 256;

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

fn check_path(path: &Path) -> Result<(), Error> {
    let len = path.as_os_str().encode_wide().count();
    if len > MAX_PATH {
        return Err(Error::PathTooLong {
            path: path.to_owned(),
            len,
            max: MAX_PATH,
        });
    }
    Ok(())
}

/// Takes the other end of the pipe that is called `path`.
fn open_pipe(path: &Path) -> io::Result<OwnedHandle> {
    let pipe = OpenOptions::new()
        .read(true)
        .write(true)
        .share_mode(0)
        .custom_flags(FILE_FLAG_OVERLAPPED)
        // Whoever has the name may learn who we are but not act as us.
        .security_qos_flags(SECURITY_IDENTIFICATION)
        .open(path)?;
    Ok(pipe.into())
}

/// Nothing to do: a pipe's name goes with the process.
pub(crate) fn sweep_dead_name(_: &Path) {}

/// What [`ControlSocket::receive`] got.
#[derive(Debug)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing at the moment.
    Nothing,
    /// The peer is gone.
    EndOfFile,
}

/// Which end of the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

/// One connection's control pipe.
pub(crate) struct ControlSocket {
    pipe: Mutex<Pipe>,
    /// Signalled while something is there to receive, or the end.
    readable: Arc<Event>,
    /// Signalled while no write is under way.
    writable: Arc<Event>,
    end: End,
    /// The process at the other end. A server can put handles into it and take them out.
    process: Process,
    pid: u32,
}

impl ControlSocket {
    fn new(handle: OwnedHandle, end: End, pid: u32, process: Process) -> io::Result<Self> {
        let readable = Arc::new(Event::new(Reset::Manual)?);
        let writable = Arc::new(Event::new(Reset::Manual)?);
        let pipe = Pipe::new(handle, readable.clone(), writable.clone())?;
        Ok(Self {
            pipe: Mutex::new(pipe),
            readable,
            writable,
            end,
            process,
            pid,
        })
    }

    /// Who is at the other end: for a client, whoever made the pipe.
    pub(crate) fn peer(&self) -> io::Result<Identity> {
        Ok(Identity {
            pid: self.pid,
            sid: self.process.user()?,
        })
    }

    /// Who this process is.
    pub(crate) fn own_identity() -> Identity {
        Identity {
            pid: std::process::id(),
            sid: own_user(),
        }
    }

    /// Sends as much of `bytes` as the pipe takes; `handles` go with the first byte. Returns how
    /// much. Never blocks: zero if there is no room.
    ///
    /// A client must keep the handles until it knows that the server has them.
    pub(crate) fn send(&self, bytes: &[u8], handles: &[&Handle]) -> io::Result<usize> {
        if handles.len() > MAX_HANDLES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many handles",
            ));
        }
        let mut pipe = self.lock();
        if !pipe.has_room()? {
            return Ok(0);
        }
        let len = bytes.len().min(MAX_CHUNK);
        let mut head = Head {
            len,
            copied: std::mem::take(&mut pipe.copied),
            handles: Vec::with_capacity(handles.len()),
        };
        for handle in handles {
            head.handles.push(match self.end {
                End::Server => {
                    let value = self.process.put(handle.as_handle())?;
                    pipe.lent.add(value);
                    value
                }
                End::Client => handle.0.as_raw_handle().expose_provenance() as u64,
            });
        }
        let mut chunk = head.encode();
        chunk.extend_from_slice(&bytes[..len]);
        pipe.write(chunk)?;
        Ok(len)
    }

    /// Receives into `buffer`, appending handles that come along to `handles`. Never blocks.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        handles: &mut Vec<Handle>,
    ) -> io::Result<Received> {
        let mut pipe = self.lock();
        loop {
            if pipe.left > 0 {
                let Some(count) = pipe.take(buffer) else {
                    return Ok(pipe.nothing());
                };
                if pipe.taken_back {
                    continue;
                }
                return Ok(Received::Bytes(count));
            }
            let Some(head) = pipe.take_head()? else {
                return Ok(pipe.nothing());
            };
            // A server copies nothing, and has lent nothing either.
            if !pipe.lent.close(head.copied, &self.process) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more handles copied than there were",
                ));
            }
            // A message that is longer than a chunk fills all but its last.
            let goes_on = std::mem::replace(&mut pipe.is_full, head.len == MAX_CHUNK);
            let taken = match self.end {
                End::Server => head
                    .handles
                    .iter()
                    .map(|it| self.process.take(*it))
                    .collect(),
                // The originals stay the server's, which closes them.
                End::Client => head.handles.iter().map(|it| copy_of(*it)).collect(),
            };
            let taken: Vec<_> = match (taken, self.end) {
                (Ok(taken), _) => taken,
                (Err(error), End::Server) => return Err(error),
                // It has closed them, and let go of this client: what they came with is as if it had
                // not been sent. The last word may be behind it.
                (Err(_), End::Client) => {
                    pipe.taken_back = true;
                    continue;
                }
            };
            pipe.taken_back &= goes_on && taken.is_empty();
            if self.end == End::Client {
                pipe.copied += taken.len();
            }
            handles.extend(taken.into_iter().map(Handle));
        }
    }

    /// Tells a server that the handles that it has sent have arrived, for when nothing else is to be
    /// said. False if there is no room for it.
    #[cfg_attr(not(feature = "spsc_transport"), allow(dead_code))]
    pub(crate) fn confirm(&self) -> io::Result<bool> {
        let mut pipe = self.lock();
        if pipe.copied == 0 {
            return Ok(true);
        }
        if !pipe.has_room()? {
            return Ok(false);
        }
        let head = Head {
            copied: std::mem::take(&mut pipe.copied),
            ..Head::default()
        };
        pipe.write(head.encode())?;
        Ok(true)
    }

    /// Whether the client has the handles that were sent, as far as it has said so: what it does not
    /// have goes with this side's end.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.lock().lent.is_empty()
    }

    /// Whether the system has all that was sent, so that a shut-down cuts nothing off.
    pub(crate) fn is_sent(&self) -> bool {
        self.lock().has_room().unwrap_or(true)
    }

    /// Has whatever the peer has sent by now be there to receive, and its end.
    ///
    /// Otherwise the system finishes the read that is under way in this process's own time, so that
    /// something else that the peer has done since, in shared memory, may be seen before.
    pub(crate) fn settle(&self) {
        self.lock().settle();
    }

    /// What is there to receive does not wake anybody until it is asked for again.
    pub(crate) fn hold(&self) {
        let pipe = self.lock();
        if !pipe.ended {
            self.readable.reset();
        }
    }

    /// Ends the connection in both directions; the peer gets what was sent, then the end of file.
    pub(crate) fn shut_down(&self) {
        let mut pipe = self.lock();
        pipe.shut_down();
        pipe.lent.close_all(&self.process);
    }

    /// Whether the peer has closed its end. Not known here before a send fails.
    pub(crate) fn is_peer_gone(&self) -> bool {
        false
    }

    /// Blocks until there is something to receive (`for_sending`: room to send), or `timeout` is
    /// over. Returns whether there is.
    pub(crate) fn wait_ready(&self, for_sending: bool, timeout: Duration) -> io::Result<bool> {
        let event = if for_sending {
            &self.writable
        } else {
            &self.readable
        };
        event.wait(Some(timeout))
    }

    fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Watched for ControlSocket {
    fn readable(&self) -> &Arc<Event> {
        &self.readable
    }

    fn writable(&self) -> &Arc<Event> {
        &self.writable
    }
}

impl std::fmt::Debug for ControlSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ControlSocket").field(&self.end).finish()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let pipe = self.pipe.get_mut().unwrap_or_else(|e| e.into_inner());
        pipe.lent.close_all(&self.process);
    }
}
