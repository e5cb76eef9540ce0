//! The client's end of the handshake.

use super::envelope::{MessageKind, MessageReader};
use super::error::HandshakeError;
use super::message::{Accept, Hello, Welcome};
use super::refusal::{Close, Reject, RejectCode};
use crate::proto::mode::Mode;

/// What a client lets a server make it map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Largest capacity of a ring, in bytes.
    pub max_ring: u32,
    /// Longest segment, in bytes.
    pub max_segment_len: u64,
}

/// What the client is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientStep {
    /// Read more from the socket.
    NeedMore,
    /// Check the two descriptors that came along (the server's segment and doorbell), make one's
    /// own, and send what [`ClientHandshake::accept`] returns with them. If they are not what was
    /// agreed on, send what [`ClientHandshake::close`] returns.
    Welcome(Welcome),
    /// The rings may be used. [`ClientHandshake::into_reader`] reads the rest of the socket.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitWelcome,
    /// The caller's turn.
    Welcomed {
        segment_len: u64,
    },
    AwaitReady,
    Done,
    Failed,
}

/// The client's end: Hello goes out, Welcome comes in, Accept goes out, Ready comes in.
#[derive(Debug)]
pub struct ClientHandshake {
    hello: Hello,
    hello_bytes: Vec<u8>,
    limits: ClientLimits,
    reader: MessageReader,
    state: State,
}

impl ClientHandshake {
    /// A handshake about to begin.
    ///
    /// # Errors
    /// What [`Hello::encode`] says.
    pub fn new(hello: Hello, limits: ClientLimits) -> Result<ClientHandshake, HandshakeError> {
        let hello_bytes = hello.encode()?;
        let (reader, state) = (MessageReader::new(), State::AwaitWelcome);
        Ok(ClientHandshake {
            hello,
            hello_bytes,
            limits,
            reader,
            state,
        })
    }

    /// The first bytes to send, without descriptors. If the socket refuses them because the
    /// server has closed it, read nevertheless: a Reject may be waiting.
    pub fn hello(&self) -> &[u8] {
        &self.hello_bytes
    }

    /// Takes bytes from the socket, with the number of descriptors that came with them.
    ///
    /// # Errors
    /// Final, whatever they are. [`HandshakeError::VersionMismatch`] and
    /// [`HandshakeError::Rejected`] are the server's answer, [`HandshakeError::Unacceptable`] is
    /// this client's to the Welcome; the others tell of a broken peer, except
    /// [`HandshakeError::Misuse`] for a call while it is the client's turn or after an error.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        descriptors: usize,
    ) -> Result<ClientStep, HandshakeError> {
        let result = self.step(bytes, descriptors);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn step(&mut self, bytes: &[u8], descriptors: usize) -> Result<ClientStep, HandshakeError> {
        let expected = match self.state {
            State::AwaitWelcome => MessageKind::Welcome,
            State::AwaitReady => MessageKind::Ready,
            State::Welcomed { .. } | State::Done | State::Failed => {
                return Err(HandshakeError::Misuse {
                    call: "ClientHandshake::receive",
                });
            }
        };
        let Some(message) = self.reader.receive(bytes, descriptors)? else {
            return Ok(ClientStep::NeedMore);
        };
        match message.kind() {
            MessageKind::Reject => Err(self.rejected(Reject::decode(message.body())?)),
            MessageKind::Close => Err(HandshakeError::Closed(Close::decode(message.body())?)),
            got if got != expected => Err(HandshakeError::OutOfOrder { expected, got }),
            MessageKind::Welcome => {
                let welcome = Welcome::decode(message.body())?;
                self.check(&welcome)?;
                self.state = State::Welcomed {
                    segment_len: welcome.client_segment_len,
                };
                Ok(ClientStep::Welcome(welcome))
            }
            _ => {
                self.state = State::Done;
                Ok(ClientStep::Ready)
            }
        }
    }

    /// The Accept to send, with the client's segment and doorbell. `segment_len` is the length of
    /// the segment in bytes, as the Welcome asked for.
    ///
    /// # Errors
    /// [`HandshakeError::SegmentLength`] if it is another length, [`HandshakeError::Misuse`] if
    /// no Welcome was received.
    pub fn accept(&mut self, segment_len: u64) -> Result<Vec<u8>, HandshakeError> {
        let State::Welcomed {
            segment_len: expected,
        } = self.state
        else {
            return Err(HandshakeError::Misuse {
                call: "ClientHandshake::accept",
            });
        };
        if segment_len != expected {
            return Err(HandshakeError::SegmentLength {
                expected,
                got: segment_len,
            });
        }
        self.state = State::AwaitReady;
        Ok(Accept { segment_len }.encode())
    }

    /// Gives the handshake up; returns what to send before closing the socket.
    pub fn close(&mut self, close: &Close) -> Vec<u8> {
        self.state = State::Failed;
        close.encode()
    }

    /// What the end of the socket means at this point.
    pub fn end_of_file(&mut self) -> HandshakeError {
        let waiting_for = match self.state {
            State::AwaitWelcome => MessageKind::Welcome,
            _ => MessageKind::Ready,
        };
        self.state = State::Failed;
        HandshakeError::Disconnected { waiting_for }
    }

    /// The reader for what comes after the handshake, with what it has already read.
    pub fn into_reader(self) -> MessageReader {
        self.reader
    }

    fn rejected(&self, reject: Reject) -> HandshakeError {
        let client = self.hello.versions;
        let server = reject.versions;
        // Believe the code only if the numbers bear it out.
        if reject.code == RejectCode::Version && client.highest_common(server).is_none() {
            return HandshakeError::VersionMismatch { client, server };
        }
        HandshakeError::Rejected(reject)
    }

    fn check(&self, welcome: &Welcome) -> Result<(), HandshakeError> {
        let (hello, limits) = (&self.hello, &self.limits);
        let rules: [(&'static str, u64, bool, &'static str); 11] = [
            (
                "version",
                welcome.version.into(),
                hello.versions.contains(welcome.version),
                "it must be one that the client offered",
            ),
            (
                "features",
                welcome.features,
                welcome.features & !hello.features_offered == 0,
                "they must be among those that the client offered",
            ),
            (
                "features",
                welcome.features,
                hello.features_required & !welcome.features == 0,
                "they must include those that the client requires",
            ),
            (
                "ring_to_server",
                welcome.ring_to_server.into(),
                welcome.ring_to_server.is_power_of_two(),
                "it must be a power of two",
            ),
            (
                "ring_to_client",
                welcome.ring_to_client.into(),
                welcome.ring_to_client.is_power_of_two(),
                "it must be a power of two",
            ),
            (
                "ring_to_server",
                welcome.ring_to_server.into(),
                welcome.ring_to_server <= limits.max_ring,
                "it must not exceed the client's limit",
            ),
            (
                "ring_to_client",
                welcome.ring_to_client.into(),
                welcome.ring_to_client <= limits.max_ring,
                "it must not exceed the client's limit",
            ),
            (
                "server_segment_len",
                welcome.server_segment_len,
                (u64::from(welcome.ring_to_client)..=limits.max_segment_len)
                    .contains(&welcome.server_segment_len),
                "it must hold the ring towards the client and not exceed the client's limit",
            ),
            (
                "client_segment_len",
                welcome.client_segment_len,
                (u64::from(welcome.ring_to_server)..=limits.max_segment_len)
                    .contains(&welcome.client_segment_len),
                "it must hold the ring towards the server and not exceed the client's limit",
            ),
            (
                "max_in_flight",
                welcome.max_in_flight.into(),
                welcome.max_in_flight > 0 || hello.mode != Mode::Calls,
                "at least one call must be allowed",
            ),
            (
                "method count",
                welcome.methods.len() as u64,
                welcome.methods.is_empty() || hello.mode == Mode::Calls,
                "only calls have methods",
            ),
        ];
        for (field, value, holds, rule) in rules {
            if !holds {
                return Err(HandshakeError::Unacceptable { field, value, rule });
            }
        }
        Ok(())
    }
}
