//! The client's end of the handshake.

use super::envelope::{Envelope, MessageKind, MessageReader};
use super::error::HandshakeError;
use super::message::{Accept, Hello, Ready, Welcome};
use super::refusal::{Close, Reject, RejectCode};
use super::{FEATURE_MPMC_TRANSPORT, FEATURE_SOCKET_TRANSPORT};
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
    /// Check the descriptors that came along (the server's segment and doorbell, and with the mpmc
    /// transport its request queue), make one's
    /// own, and send what [`ClientHandshake::accept`] returns with them. If they are not what was
    /// agreed on, send what [`ClientHandshake::close`] returns.
    ///
    /// If there are none, or this side cannot use them and the Welcome's features allow it, accept
    /// a segment of no length without any, and the frames go over the socket.
    Welcome(Welcome),
    /// The connection may be used; [`ClientHandshake::is_over_socket`] says how.
    /// [`ClientHandshake::into_reader`] has the rest of what was read.
    Ready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitWelcome,
    /// The caller's turn.
    Welcomed {
        segment_len: u64,
        may_use_socket: bool,
    },
    AwaitReady {
        may_use_socket: bool,
    },
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
    over_socket: bool,
}

impl ClientHandshake {
    /// A handshake about to begin.
    ///
    /// # Errors
    /// What [`Hello::encode`] says.
    pub fn new(hello: Hello, limits: ClientLimits) -> Result<ClientHandshake, HandshakeError> {
        let hello_bytes = hello.encode()?;
        let reader = match hello.features_offered & FEATURE_MPMC_TRANSPORT {
            0 => MessageReader::new(),
            _ => MessageReader::expecting_queue(),
        };
        Ok(ClientHandshake {
            hello,
            hello_bytes,
            limits,
            reader,
            state: State::AwaitWelcome,
            over_socket: false,
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
            State::AwaitReady { .. } => MessageKind::Ready,
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
                let queue = welcome.features & FEATURE_MPMC_TRANSPORT != 0;
                check_descriptors(&message, welcome.server_segment_len, queue)?;
                self.over_socket = welcome.server_segment_len == 0;
                self.state = State::Welcomed {
                    segment_len: welcome.client_segment_len,
                    may_use_socket: welcome.features & FEATURE_SOCKET_TRANSPORT != 0,
                };
                Ok(ClientStep::Welcome(welcome))
            }
            _ => {
                let Ready { over_socket } = Ready::decode(message.body())?;
                if over_socket
                    && self.state
                        != (State::AwaitReady {
                            may_use_socket: true,
                        })
                {
                    return Err(HandshakeError::Unacceptable {
                        field: "flags",
                        value: 1,
                        rule: "the socket transport was not agreed on",
                    });
                }
                self.over_socket |= over_socket;
                self.state = State::Done;
                Ok(ClientStep::Ready)
            }
        }
    }

    /// The Accept to send, with the client's segment and doorbell. `segment_len` is the length of
    /// the segment in bytes, as the Welcome asked for; or 0, without descriptors, to turn to the
    /// socket.
    ///
    /// # Errors
    /// [`HandshakeError::SegmentLength`] if it is another length, [`HandshakeError::Misuse`] if
    /// no Welcome was received.
    pub fn accept(&mut self, segment_len: u64) -> Result<Vec<u8>, HandshakeError> {
        let State::Welcomed {
            segment_len: expected,
            may_use_socket,
        } = self.state
        else {
            return Err(HandshakeError::Misuse {
                call: "ClientHandshake::accept",
            });
        };
        if segment_len != expected && !(segment_len == 0 && may_use_socket) {
            return Err(HandshakeError::SegmentLength {
                expected,
                got: segment_len,
            });
        }
        self.over_socket |= segment_len == 0;
        self.state = State::AwaitReady { may_use_socket };
        Ok(Accept { segment_len }.encode())
    }

    /// Whether the frames go over the socket, as far as was said up to now.
    pub fn is_over_socket(&self) -> bool {
        self.over_socket
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
        let over_socket = welcome.server_segment_len == 0;
        let holds = |len: u64, ring: u32| {
            if over_socket {
                return len == 0;
            }
            (u64::from(ring)..=limits.max_segment_len).contains(&len)
        };
        let rules: [(&'static str, u64, bool, &'static str); 13] = [
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
                !over_socket || welcome.features & FEATURE_SOCKET_TRANSPORT != 0,
                "the socket transport was not agreed on",
            ),
            (
                "server_segment_len",
                welcome.server_segment_len,
                over_socket || hello.features_required & FEATURE_SOCKET_TRANSPORT == 0,
                "the client takes the socket transport alone",
            ),
            (
                "server_segment_len",
                welcome.server_segment_len,
                holds(welcome.server_segment_len, welcome.ring_to_client),
                "it must hold the ring towards the client and not exceed the client's limit",
            ),
            (
                "client_segment_len",
                welcome.client_segment_len,
                holds(welcome.client_segment_len, welcome.ring_to_server),
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

/// Segments come with two descriptors, a request queue with one more, and a connection over the
/// socket with none.
pub(super) fn check_descriptors(
    message: &Envelope,
    segment_len: u64,
    queue: bool,
) -> Result<(), HandshakeError> {
    let expected = match segment_len {
        0 => 0,
        _ => message.kind().descriptors() + usize::from(queue),
    };
    if message.descriptors() == expected {
        return Ok(());
    }
    Err(HandshakeError::Descriptors {
        message: message.kind(),
        expected,
        got: message.descriptors(),
    })
}
