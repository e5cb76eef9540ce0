//! Messages and descriptors between a parent and its child.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::{Gone, LONGEST};

/// What travels with a message.
pub type Descriptor = OwnedFd;

/// The most descriptors one message may carry.
const MOST_DESCRIPTORS: usize = 8;

/// A peer that is gone is an error, not a signal (which Rust's programs ignore in any case).
#[cfg(target_os = "linux")]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: SendFlags = SendFlags::empty();

/// Descriptors do not go on to children.
#[cfg(target_os = "linux")]
const RECEIVE_FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE_FLAGS: RecvFlags = RecvFlags::empty();

fn cannot_send(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            anyhow::Error::new(error).context(Gone)
        }
        _ => anyhow::Error::new(error).context("cannot send to the other process"),
    }
}

/// A socket that carries messages in JSON behind a 4-byte length, with descriptors.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
}

impl Channel {
    /// Talks over a socket, whose other end does so too.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Another descriptor of the socket.
    pub(super) fn socket(&self) -> Result<UnixStream> {
        self.socket.try_clone().context("cannot copy a descriptor")
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other process is gone.
    pub fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message and copies of up to 8 descriptors.
    ///
    /// # Errors
    /// If the other process is gone, or there are more descriptors.
    pub fn send_with(&self, message: &impl Serialize, descriptors: &[Descriptor]) -> Result<()> {
        if descriptors.len() > MOST_DESCRIPTORS {
            bail!("a message carries at most {MOST_DESCRIPTORS} descriptors");
        }
        let body = serde_json::to_vec(message)?;
        let mut bytes = u32::try_from(body.len())?.to_le_bytes().to_vec();
        bytes.extend(body);
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        let sent = sendmsg(
            &self.socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SEND_FLAGS,
        )
        .map_err(|errno| cannot_send(errno.into()))?;
        (&self.socket)
            .write_all(&bytes[sent..])
            .map_err(cannot_send)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the other process is gone, a timeout is set and passes, or the message is of another kind.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(self.receive_with()?.0)
    }

    /// Waits for the next message and takes its descriptors.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_with<T: DeserializeOwned>(&self) -> Result<(T, Vec<Descriptor>)> {
        self.next()?.context(Gone)
    }

    /// Waits for the next message; `None` when the other side has closed the channel.
    ///
    /// # Errors
    /// If a timeout is set and passes, or the message is of another kind.
    pub fn next<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<Descriptor>)>> {
        let mut length = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // Descriptors come with the first byte.
        let received = loop {
            let mut into = [IoSliceMut::new(&mut length)];
            match recvmsg(&self.socket, &mut into, &mut ancillary, RECEIVE_FLAGS) {
                Ok(received) => break received.bytes,
                Err(rustix::io::Errno::INTR) => {}
                // A peer that died with something unread resets the connection.
                Err(rustix::io::Errno::CONNRESET) => break 0,
                Err(error) => return Err(error).context("no message from the other process"),
            }
        };
        if received == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
                #[cfg(not(target_os = "linux"))]
                for descriptor in &descriptors {
                    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
                }
            }
        }
        let cut_off = "the other process died in the middle of a message";
        (&self.socket)
            .read_exact(&mut length[received..])
            .context(cut_off)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            bail!("a message of {length} bytes is longer than {LONGEST}");
        }
        let mut body = vec![0; length];
        (&self.socket).read_exact(&mut body).context(cut_off)?;
        let message = serde_json::from_slice(&body).context("a message of another kind came")?;
        Ok(Some((message, descriptors)))
    }

    /// Lets waits for a message fail after a while; `None` waits for ever.
    ///
    /// # Errors
    /// If the duration is zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        Ok(self.socket.set_read_timeout(timeout)?)
    }

    /// Tells the other side that nothing more will come.
    pub fn close(&self) {
        // Fails only if the other side is gone, which is what closing is for.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}
