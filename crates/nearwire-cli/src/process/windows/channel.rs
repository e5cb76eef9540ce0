//! Messages, and names of what the other process is to open, between a parent and its child.
//!
//! Waits on a pipe have no deadline on this system, so that a thread reads it, and whoever waits does
//! so for that thread. The thread ends with the pipe.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{Gone, LONGEST};

/// What travels with a message: the name of a thing that the other process opens. It is there as long
/// as somebody has it open.
pub type Descriptor = String;

/// A message as it travels.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    message: T,
    names: Vec<Descriptor>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in them can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pipe each way that carries messages in JSON behind a 4-byte length.
pub struct Channel {
    /// `None` once it is closed.
    output: Mutex<Option<Box<dyn Write + Send>>>,
    /// What the reading thread has taken from the pipe; the thread drops its end with the pipe's.
    received: Mutex<Receiver<Result<Vec<u8>>>>,
    timeout: Mutex<Option<Duration>>,
}

impl Channel {
    /// Talks over a pipe each way, whose other ends do so too, and does `at_end` once nothing more can
    /// come.
    pub(super) fn new(
        mut input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        at_end: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let (sender, received) = channel();
        std::thread::Builder::new()
            .name("channel".into())
            .spawn(move || {
                // Ends as well when nobody is left who would take a message.
                while let Some(message) = read(&mut input).transpose() {
                    let failed = message.is_err();
                    if sender.send(message).is_err() || failed {
                        break;
                    }
                }
                drop(sender);
                at_end();
            })?;
        Ok(Self {
            output: Mutex::new(Some(Box::new(output))),
            received: Mutex::new(received),
            timeout: Mutex::default(),
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the other process is gone.
    pub fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message and names of what the other process is to open.
    ///
    /// # Errors
    /// If the other process is gone.
    pub fn send_with(&self, message: &impl Serialize, names: &[Descriptor]) -> Result<()> {
        let names = names.to_vec();
        let body = serde_json::to_vec(&Envelope { message, names })?;
        let mut bytes = u32::try_from(body.len())?.to_le_bytes().to_vec();
        bytes.extend(body);
        let mut output = locked(&self.output);
        let output = output.as_mut().context(Gone)?;
        let written = output.write_all(&bytes).and_then(|()| output.flush());
        written.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => anyhow::Error::new(error).context(Gone),
            _ => anyhow::Error::new(error).context("cannot send to the other process"),
        })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// If the other process is gone, a timeout is set and passes, or the message is of another kind.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(self.receive_with()?.0)
    }

    /// Waits for the next message and takes its names.
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
        let timeout = *locked(&self.timeout);
        let received = locked(&self.received);
        let body = match timeout {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => received.recv_timeout(timeout),
        };
        let body = match body {
            Ok(body) => body?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("no message from the other process"),
        };
        let Envelope { message, names } =
            serde_json::from_slice(&body).context("a message of another kind came")?;
        Ok(Some((message, names)))
    }

    /// Lets waits for a message fail after a while; `None` waits for ever.
    ///
    /// # Errors
    /// None on this system.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        *locked(&self.timeout) = timeout;
        Ok(())
    }

    /// Tells the other side that nothing more will come.
    pub fn close(&self) {
        locked(&self.output).take();
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Channel").finish_non_exhaustive()
    }
}

/// The next message's bytes; `None` when the pipe has ended between two messages.
fn read(input: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match input.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => bail!(CUT_OFF),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(None),
            Err(error) => return Err(error).context("no message from the other process"),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        bail!("a message of {length} bytes is longer than {LONGEST}");
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).context(CUT_OFF)?;
    Ok(Some(body))
}

const CUT_OFF: &str = "the other process died in the middle of a message";

/// Seeing a child end, by the end of what it writes to.
#[derive(Debug, Clone, Default)]
pub(in crate::process) struct Watch {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Watch {
    pub(super) fn end(&self) {
        *locked(&self.ended.0) = true;
        self.ended.1.notify_all();
    }

    /// Waits for the child's end until `deadline` (`None`: for ever). Returns whether it has ended.
    pub(in crate::process) fn ended(&self, deadline: Option<Instant>) -> bool {
        let (ended, changed) = &*self.ended;
        let mut ended = locked(ended);
        while !*ended {
            ended = match deadline {
                None => changed.wait(ended).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = changed.wait_timeout(ended, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn message(body: &str) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(body.as_bytes());
        bytes
    }

    fn receiving(bytes: Vec<u8>) -> (Channel, Watch) {
        let watch = Watch::default();
        let ended = watch.clone();
        let channel = Channel::new(Cursor::new(bytes), Vec::new(), move || ended.end());
        (channel.unwrap(), watch)
    }

    #[test]
    fn messages_come_in_order_and_then_the_end() {
        let mut bytes = message(r#"{"message":1,"names":[]}"#);
        bytes.extend(message(r#"{"message":2,"names":["a","b"]}"#));
        let (channel, watch) = receiving(bytes);
        assert_eq!(channel.receive::<u32>().unwrap(), 1);
        let (second, names) = channel.receive_with::<u32>().unwrap();
        assert_eq!((second, names), (2, vec!["a".to_owned(), "b".to_owned()]));
        assert!(channel.next::<u32>().unwrap().is_none());
        assert!(channel.receive::<u32>().unwrap_err().is::<Gone>());
        assert!(watch.ended(None));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_an_error() {
        for bytes in [vec![1, 0], message("{")[..4].to_vec(), vec![0xff; 8]] {
            let (channel, _) = receiving(bytes);
            channel.next::<u32>().unwrap_err();
        }
    }

    #[test]
    fn a_wait_may_have_an_end() {
        let (input, _output) = std::io::pipe().unwrap();
        let channel = Channel::new(input, Vec::new(), || {}).unwrap();
        channel
            .set_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        channel.next::<u32>().unwrap_err();
        let watch = Watch::default();
        assert!(!watch.ended(Some(Instant::now() + Duration::from_millis(10))));
    }

    #[test]
    fn nothing_is_sent_on_a_closed_channel() {
        let (channel, _) = receiving(Vec::new());
        channel.send(&1).unwrap();
        channel.close();
        assert!(channel.send(&1).unwrap_err().is::<Gone>());
    }
}
