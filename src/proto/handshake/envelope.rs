//! The envelope of control messages. It never changes, whatever the protocol version.

use super::error::HandshakeError;

/// First bytes of every control message.
pub const MAGIC: [u8; 8] = *b"NEARWIRE";
/// Bytes before the body: magic, kind (`u16`), flags (`u16`, 0, ignored), body length (`u32`).
pub const ENVELOPE_LEN: usize = 16;
/// Longest body of any control message, in bytes. Most kinds allow less:
/// [`MessageKind::max_body`].
pub const MAX_CONTROL_BODY: usize = 1 << 20;
/// Most descriptors that a control message carries; a Welcome has one more where there is a request
/// queue ([`MessageReader::expecting_queue`]).
pub const MAX_DESCRIPTORS: usize = 2;

/// The kinds of control messages. The number is the one on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum MessageKind {
    /// Client to server: what it speaks and wishes.
    Hello = 1,
    /// Server to client: what it grants, with its segment and doorbell.
    Welcome = 2,
    /// Client to server: its segment and doorbell.
    Accept = 3,
    /// Server to client: the rings may be used.
    Ready = 4,
    /// Server to client: no connection, and why.
    Reject = 5,
    /// Either direction: why the sender closes the connection.
    Close = 6,
    /// Observer to server, in place of Hello: it wants the counters page.
    Observe = 7,
    /// Server to observer: the counters page.
    Counters = 8,
}

impl MessageKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [MessageKind; 8] = [
        MessageKind::Hello,
        MessageKind::Welcome,
        MessageKind::Accept,
        MessageKind::Ready,
        MessageKind::Reject,
        MessageKind::Close,
        MessageKind::Observe,
        MessageKind::Counters,
    ];

    /// The kind with this number, or `None` if there is none.
    pub fn from_u16(number: u16) -> Option<MessageKind> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Longest body that a receiver accepts, in bytes. Only the server's method table is large;
    /// what strangers may send to a server is small.
    pub const fn max_body(self) -> usize {
        match self {
            MessageKind::Welcome => MAX_CONTROL_BODY,
            _ => 8 * 1024,
        }
    }

    /// How many descriptors travel with a message of this kind: so many, or none if the connection
    /// goes over the socket; with a Welcome one more if there is a request queue. Which of these it
    /// must be, the handshake's ends know.
    pub const fn descriptors(self) -> usize {
        match self {
            MessageKind::Welcome | MessageKind::Accept => MAX_DESCRIPTORS,
            MessageKind::Counters => 1,
            _ => 0,
        }
    }
}

/// A complete control message whose body is not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    kind: MessageKind,
    descriptors: usize,
    bytes: Vec<u8>,
}

impl Envelope {
    /// What the message is.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// How many descriptors came with it: [`MessageKind::descriptors`], or none; with a Welcome
    /// perhaps one more.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Its body, at most [`MessageKind::max_body`] bytes.
    pub fn body(&self) -> &[u8] {
        &self.bytes[ENVELOPE_LEN..]
    }
}

/// Cuts a stream of bytes into control messages.
///
/// It holds what has arrived of the messages not yet returned, and nothing when it has returned
/// them all.
#[derive(Debug, Default)]
pub struct MessageReader {
    buffer: Vec<u8>,
    descriptors: usize,
    expects_queue: bool,
}

impl MessageReader {
    /// A reader at the beginning of a stream.
    pub const fn new() -> MessageReader {
        MessageReader {
            buffer: Vec::new(),
            descriptors: 0,
            expects_queue: false,
        }
    }

    /// As [`new`](Self::new), and a Welcome may bring a request queue: for a client that offers to
    /// use one.
    pub const fn expecting_queue() -> MessageReader {
        let mut reader = Self::new();
        reader.expects_queue = true;
        reader
    }

    /// Takes the next bytes, with the number of descriptors that came with them, and returns the
    /// first message that is complete. Call it again, with no bytes, for what else is complete.
    ///
    /// Memory follows the bytes given, not the lengths that they announce; to bound it, call
    /// until `None` before reading more.
    ///
    /// # Errors
    /// [`HandshakeError::NotNearwire`] at the first wrong byte, [`HandshakeError::UnknownMessage`]
    /// and [`HandshakeError::BodyTooLong`] once the envelope is there, and
    /// [`HandshakeError::Descriptors`]. All are final.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        descriptors: usize,
    ) -> Result<Option<Envelope>, HandshakeError> {
        self.buffer.extend_from_slice(bytes);
        self.descriptors = self.descriptors.saturating_add(descriptors);
        let seen = &self.buffer[..self.buffer.len().min(MAGIC.len())];
        if *seen != MAGIC[..seen.len()] {
            return Err(HandshakeError::NotNearwire {
                first: seen.to_vec(),
            });
        }
        let Some((kind, body_len)) = self.head()? else {
            // Which message they belong to is not known yet; none takes more than this.
            return match self.descriptors <= MAX_DESCRIPTORS + usize::from(self.expects_queue) {
                true => Ok(None),
                false => Err(HandshakeError::StrayDescriptors {
                    got: self.descriptors,
                }),
            };
        };
        let expected = kind.descriptors();
        let end = ENVELOPE_LEN + body_len;
        let complete = self.buffer.len() >= end;
        // They come with the message's first byte, but a caller may count them later.
        let got = self.descriptors;
        let queue = usize::from(self.expects_queue && kind == MessageKind::Welcome);
        if got > expected + queue || (complete && got != 0 && got < expected) {
            return Err(HandshakeError::Descriptors {
                message: kind,
                expected,
                got,
            });
        }
        if !complete {
            return Ok(None);
        }
        self.descriptors = 0;
        let rest = self.buffer.split_off(end);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        Ok(Some(Envelope {
            kind,
            descriptors: got,
            bytes,
        }))
    }

    /// What has arrived behind the last message that was returned.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether part of a message has arrived.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty() || self.descriptors > 0
    }

    /// Kind and body length of the message at the front, once its envelope is complete.
    fn head(&self) -> Result<Option<(MessageKind, usize)>, HandshakeError> {
        let Some(envelope) = self.buffer.first_chunk::<ENVELOPE_LEN>() else {
            return Ok(None);
        };
        let [_, _, _, _, _, _, _, _, k0, k1, _, _, l0, l1, l2, l3] = *envelope;
        let number = u16::from_le_bytes([k0, k1]);
        let body_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let Some(kind) = MessageKind::from_u16(number) else {
            return Err(HandshakeError::UnknownMessage { kind: number });
        };
        let max = kind.max_body();
        if body_len > max {
            return Err(HandshakeError::BodyTooLong {
                message: kind,
                body_len,
                max,
            });
        }
        Ok(Some((kind, body_len)))
    }
}
