//! The server's end of the handshake.

use std::sync::Arc;

use super::FEATURE_SOCKET_TRANSPORT;
use super::client::check_descriptors;
use super::envelope::{MessageKind, MessageReader};
use super::error::HandshakeError;
use super::message::{Accept, Hello, Method, Ready, Welcome};
use super::negotiate::{Agreed, ServerPolicy, negotiate};
use super::observe::{Counters, Observe};
use super::refusal::{Close, Reject, RejectCode};
use crate::proto::mode::Mode;

/// What the server is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStep {
    /// Read more from the socket.
    NeedMore,
    /// Make the server's segment and doorbell, and send what [`ServerHandshake::welcome`] returns
    /// with them, and with the request queue if the mpmc transport was agreed on; or [`ServerHandshake::reject`].
    Hello(Agreed),
    /// Check the two descriptors that came along (the client's segment and doorbell), and send
    /// what [`ServerHandshake::ready`] returns; or [`ServerHandshake::reject`].
    Accepted {
        /// Length of the client's segment in bytes: the one that was asked for; or 0, without
        /// descriptors, if the frames go over the socket.
        segment_len: u64,
    },
    /// It is no client but wants the counters page: send what [`ServerHandshake::counters`] returns
    /// with it; or [`ServerHandshake::reject`].
    Observe,
}

/// What the server adds to what was negotiated, for a Welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// As [`Welcome::max_in_flight`].
    pub max_in_flight: u32,
    /// As [`Welcome::server_segment_len`]; 0 only if the agreed features allow it.
    pub server_segment_len: u64,
    /// As [`Welcome::client_segment_len`].
    pub client_segment_len: u64,
    /// As [`Welcome::max_message`].
    pub max_message: u64,
    /// As [`Welcome::connection_id`].
    pub connection_id: u64,
    /// As [`Welcome::stream_credits`].
    pub stream_credits: u32,
    /// As [`Welcome::label`].
    pub label: String,
    /// As [`Welcome::methods`]; left out where the mode is not calls.
    pub methods: Arc<[Method]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    AwaitHello,
    /// The caller's turn.
    Greeted(Box<Agreed>),
    AwaitAccept {
        segment_len: u64,
        may_use_socket: bool,
    },
    /// The caller's turn.
    Accepted {
        may_use_socket: bool,
    },
    /// The caller's turn.
    Observed {
        version: u16,
    },
    Done,
    Failed,
}

/// The server's end: Hello comes in, Welcome goes out, Accept comes in, Ready goes out.
#[derive(Debug)]
pub struct ServerHandshake {
    policy: Arc<ServerPolicy>,
    reader: MessageReader,
    state: State,
}

impl ServerHandshake {
    /// A handshake about to begin. The policy is shared by a server's handshakes.
    pub fn new(policy: Arc<ServerPolicy>) -> ServerHandshake {
        ServerHandshake {
            policy,
            reader: MessageReader::new(),
            state: State::AwaitHello,
        }
    }

    /// Takes bytes from the socket, with the number of descriptors that came with them.
    ///
    /// # Errors
    /// Final, whatever they are: send what [`ServerHandshake::refusal`] makes of the error, and
    /// close. [`HandshakeError::Misuse`] for a call while it is the server's turn or after an
    /// error.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        descriptors: usize,
    ) -> Result<ServerStep, HandshakeError> {
        let result = self.step(bytes, descriptors);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn step(&mut self, bytes: &[u8], descriptors: usize) -> Result<ServerStep, HandshakeError> {
        let expected = match self.state {
            State::AwaitHello => MessageKind::Hello,
            State::AwaitAccept { .. } => MessageKind::Accept,
            State::Greeted(_)
            | State::Accepted { .. }
            | State::Observed { .. }
            | State::Done
            | State::Failed => {
                return Err(HandshakeError::Misuse {
                    call: "ServerHandshake::receive",
                });
            }
        };
        let Some(message) = self.reader.receive(bytes, descriptors)? else {
            return Ok(ServerStep::NeedMore);
        };
        match (message.kind(), &self.state) {
            (MessageKind::Close, _) => Err(HandshakeError::Closed(Close::decode(message.body())?)),
            (MessageKind::Observe, State::AwaitHello) => {
                let client = Observe::decode(message.body())?.versions;
                let server = self.policy.versions;
                let Some(version) = server.highest_common(client) else {
                    return Err(HandshakeError::VersionMismatch { client, server });
                };
                self.state = State::Observed { version };
                Ok(ServerStep::Observe)
            }
            (MessageKind::Hello, State::AwaitHello) => self.greet(message.body()),
            (
                MessageKind::Accept,
                State::AwaitAccept {
                    segment_len,
                    may_use_socket,
                },
            ) => {
                let (expected, may_use_socket) = (*segment_len, *may_use_socket);
                let Accept { segment_len: got } = Accept::decode(message.body())?;
                check_descriptors(&message, got, false)?;
                if got != expected && !(got == 0 && may_use_socket) {
                    return Err(HandshakeError::SegmentLength { expected, got });
                }
                self.state = State::Accepted { may_use_socket };
                Ok(ServerStep::Accepted { segment_len: got })
            }
            (got, _) => Err(HandshakeError::OutOfOrder { expected, got }),
        }
    }

    fn greet(&mut self, body: &[u8]) -> Result<ServerStep, HandshakeError> {
        // The versions first: the rest of another version's Hello may look different.
        let (client, server) = (Hello::decode_versions(body)?, self.policy.versions);
        if server.highest_common(client).is_none() {
            return Err(HandshakeError::VersionMismatch { client, server });
        }
        let agreed =
            negotiate(&Hello::decode(body)?, &self.policy).map_err(HandshakeError::Refused)?;
        self.state = State::Greeted(Box::new(agreed.clone()));
        Ok(ServerStep::Hello(agreed))
    }

    /// The Welcome to send, with the server's segment and doorbell.
    ///
    /// # Errors
    /// What [`Welcome::encode`] says, and [`HandshakeError::Misuse`] if no Hello was received.
    pub fn welcome(&mut self, offer: &Offer) -> Result<Vec<u8>, HandshakeError> {
        let State::Greeted(agreed) = &self.state else {
            return Err(HandshakeError::Misuse {
                call: "ServerHandshake::welcome",
            });
        };
        let bytes = Welcome {
            version: agreed.version,
            max_in_flight: offer.max_in_flight,
            features: agreed.features,
            ring_to_server: agreed.ring_to_server,
            ring_to_client: agreed.ring_to_client,
            server_segment_len: offer.server_segment_len,
            client_segment_len: offer.client_segment_len,
            max_message: offer.max_message,
            connection_id: offer.connection_id,
            stream_credits: offer.stream_credits,
            label: offer.label.clone(),
            methods: match agreed.mode {
                Mode::Calls => Arc::clone(&offer.methods),
                _ => Arc::new([]),
            },
        }
        .encode()?;
        self.state = State::AwaitAccept {
            segment_len: offer.client_segment_len,
            may_use_socket: agreed.features & FEATURE_SOCKET_TRANSPORT != 0,
        };
        Ok(bytes)
    }

    /// The Ready to send, without descriptors.
    ///
    /// # Errors
    /// [`HandshakeError::Misuse`] if no Accept was received.
    pub fn ready(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let State::Accepted { .. } = self.state else {
            return Err(HandshakeError::Misuse {
                call: "ServerHandshake::ready",
            });
        };
        self.state = State::Done;
        Ok(Ready { over_socket: false }.encode())
    }

    /// As [`ready`](Self::ready), and turns to the socket because this side cannot use the client's
    /// segment.
    ///
    /// # Errors
    /// [`HandshakeError::Misuse`] if no Accept was received, or the socket was not agreed on.
    pub fn ready_over_socket(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let turns = State::Accepted {
            may_use_socket: true,
        };
        if self.state != turns {
            return Err(HandshakeError::Misuse {
                call: "ServerHandshake::ready_over_socket",
            });
        }
        self.state = State::Done;
        Ok(Ready { over_socket: true }.encode())
    }

    /// The Counters to send, with the counters page, which is `segment_len` bytes long.
    ///
    /// # Errors
    /// [`HandshakeError::Misuse`] if nobody asked for it.
    pub fn counters(&mut self, segment_len: u64) -> Result<Vec<u8>, HandshakeError> {
        let State::Observed { version } = self.state else {
            return Err(HandshakeError::Misuse {
                call: "ServerHandshake::counters",
            });
        };
        self.state = State::Done;
        Ok(Counters {
            version,
            segment_len,
        }
        .encode())
    }

    /// Gives the handshake up, at any point before Ready; returns what to send before closing the
    /// socket. The text should say what to do.
    pub fn reject(&mut self, code: RejectCode, text: impl Into<String>) -> Vec<u8> {
        self.state = State::Failed;
        self.reject_with(code, text).encode()
    }

    /// A refusal for this reason, to be sent by [`ServerHandshake::refusal`].
    pub fn reject_with(&self, code: RejectCode, text: impl Into<String>) -> Reject {
        Reject {
            code,
            versions: self.policy.versions,
            text: text.into(),
        }
    }

    /// What to send because of an error of [`ServerHandshake::receive`]. `None` if the client is
    /// gone, or speaks something else.
    pub fn refusal(&mut self, error: &HandshakeError) -> Option<Vec<u8>> {
        let code = error.reject_code()?;
        let text = match error {
            HandshakeError::Refused(reject) => reject.text.clone(),
            other => other.to_string(),
        };
        Some(self.reject(code, text))
    }

    /// What the end of the socket means at this point.
    pub fn end_of_file(&mut self) -> HandshakeError {
        let waiting_for = match self.state {
            State::AwaitHello => MessageKind::Hello,
            _ => MessageKind::Accept,
        };
        self.state = State::Failed;
        HandshakeError::Disconnected { waiting_for }
    }

    /// The reader for what comes after the handshake, with what it has already read.
    pub fn into_reader(self) -> MessageReader {
        self.reader
    }
}
