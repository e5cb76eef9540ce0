//! Hello, Welcome, Accept, Ready.

use std::fmt;
use std::sync::Arc;

use super::bytes::{BodyReader, BodyWriter, check_name};
use super::envelope::MessageKind;
use super::error::HandshakeError;
use crate::proto::mode::Mode;
use crate::proto::text;

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 64;
/// As much of `label` as the handshake carries: [`MAX_LABEL`] bytes, cut between characters, without
/// control characters.
pub fn fitting_label(label: &str) -> String {
    let label = label.replace(char::is_control, "\u{fffd}");
    text::shorten(&label, MAX_LABEL).to_owned()
}

/// Longest method name, in bytes.
pub const MAX_METHOD_NAME: usize = 255;

/// Protocol versions that a side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionRange {
    /// The oldest; at least 1.
    pub min: u16,
    /// The newest; at least `min`.
    pub max: u16,
}

impl VersionRange {
    /// The newest version that both sides speak.
    pub fn highest_common(self, other: VersionRange) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }

    /// Whether the version is in the range.
    pub fn contains(self, version: u16) -> bool {
        self.min <= version && version <= self.max
    }

    pub(super) fn read(
        body: &mut BodyReader<'_>,
        message: MessageKind,
    ) -> Result<VersionRange, HandshakeError> {
        let range = VersionRange {
            min: body.u16("version_min")?,
            max: body.u16("version_max")?,
        };
        range.check(message)?;
        Ok(range)
    }

    pub(super) fn check(self, message: MessageKind) -> Result<(), HandshakeError> {
        if self.min == 0 || self.min > self.max {
            let (field, rule) = (
                "version range",
                "must begin at 1 or above and not end before",
            );
            return Err(HandshakeError::BadField {
                message,
                field,
                rule,
            });
        }
        Ok(())
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// What a client speaks and wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Protocol versions it speaks. The first field in every version.
    pub versions: VersionRange,
    /// What the connection is for.
    pub mode: Mode,
    /// Features it can use.
    pub features_offered: u64,
    /// Those of them without which it does not want a connection.
    pub features_required: u64,
    /// Hash of the segment layout that it was built with.
    pub layout_hash: u64,
    /// Wished capacity of the ring towards the server, in bytes; a power of two.
    pub ring_to_server: u32,
    /// Wished capacity of the ring towards the client, in bytes; a power of two.
    pub ring_to_client: u32,
    /// Largest message that it accepts, in bytes of payload.
    pub max_message: u64,
    /// Its process id, for people; the kernel says who it really is.
    pub pid: u32,
    /// Credits that it grants in advance for each stream that it reads.
    pub stream_credits: u32,
    /// A name for logs and metrics, at most [`MAX_LABEL`] bytes, no control characters.
    pub label: String,
}

impl Hello {
    const KIND: MessageKind = MessageKind::Hello;

    /// The message's bytes.
    ///
    /// # Errors
    /// [`HandshakeError::FieldTooLong`] and [`HandshakeError::BadField`].
    pub fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        self.check()?;
        check_name(&self.label, MAX_LABEL, Self::KIND, "label")?;
        let mut body = BodyWriter::new(Self::KIND);
        body.u16(self.versions.min);
        body.u16(self.versions.max);
        body.put(&[self.mode as u8, 0, 0, 0]);
        body.u64(self.features_offered);
        body.u64(self.features_required);
        body.u64(self.layout_hash);
        body.u32(self.ring_to_server);
        body.u32(self.ring_to_client);
        body.u64(self.max_message);
        body.u32(self.pid);
        body.u32(self.stream_credits);
        body.u16(self.label.len() as u16);
        body.put(self.label.as_bytes());
        body.finish()
    }

    /// The version range alone, which every version's Hello begins with.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`] and [`HandshakeError::BadField`].
    pub fn decode_versions(body: &[u8]) -> Result<VersionRange, HandshakeError> {
        VersionRange::read(&mut BodyReader::new(Self::KIND, body), Self::KIND)
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`], [`HandshakeError::FieldTooLong`],
    /// [`HandshakeError::BadField`] and [`HandshakeError::UnknownMode`].
    pub fn decode(body: &[u8]) -> Result<Hello, HandshakeError> {
        let mut body = BodyReader::new(Self::KIND, body);
        let versions = VersionRange::read(&mut body, Self::KIND)?;
        let mode = body.u8("mode")?;
        body.bytes(3, "reserved")?;
        let hello = Hello {
            versions,
            mode: Mode::from_u8(mode).ok_or(HandshakeError::UnknownMode { mode })?,
            features_offered: body.u64("features_offered")?,
            features_required: body.u64("features_required")?,
            layout_hash: body.u64("layout_hash")?,
            ring_to_server: body.u32("ring_to_server")?,
            ring_to_client: body.u32("ring_to_client")?,
            max_message: body.u64("max_message")?,
            pid: body.u32("pid")?,
            stream_credits: body.u32("stream_credits")?,
            label: {
                let len = body.u16("label length")?;
                body.name(len, MAX_LABEL, "label")?.to_owned()
            },
        };
        hello.check()?;
        Ok(hello)
    }

    /// The rules that both ends check.
    fn check(&self) -> Result<(), HandshakeError> {
        self.versions.check(Self::KIND)?;
        let bad = |field, rule| {
            Err(HandshakeError::BadField {
                message: Self::KIND,
                field,
                rule,
            })
        };
        if self.features_required & !self.features_offered != 0 {
            return bad("features_required", "must be among features_offered");
        }
        if !self.ring_to_server.is_power_of_two() {
            return bad("ring_to_server", "must be a power of two");
        }
        if !self.ring_to_client.is_power_of_two() {
            return bad("ring_to_client", "must be a power of two");
        }
        Ok(())
    }
}

/// What a method takes and gives. The number is the byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum CallShape {
    /// One request, one reply.
    Unary = 0,
    /// One request, a stream of replies.
    ServerStream = 1,
    /// A stream of requests, one reply.
    ClientStream = 2,
    /// A stream in both directions.
    Bidirectional = 3,
}

impl CallShape {
    /// The shape with this number, or `None` if there is none.
    pub const fn from_u8(number: u8) -> Option<CallShape> {
        match number {
            0 => Some(CallShape::Unary),
            1 => Some(CallShape::ServerStream),
            2 => Some(CallShape::ClientStream),
            3 => Some(CallShape::Bidirectional),
            _ => None,
        }
    }

    /// Whether the caller sends stream items, and its requests the CLIENT_STREAM flag.
    pub const fn has_client_stream(self) -> bool {
        matches!(self, CallShape::ClientStream | CallShape::Bidirectional)
    }

    /// Whether the server answers with stream items and a stream end, and not with a reply.
    pub const fn has_server_stream(self) -> bool {
        matches!(self, CallShape::ServerStream | CallShape::Bidirectional)
    }
}

/// One entry of the server's method table; requests name it by its index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method {
    /// What it takes and gives.
    pub shape: CallShape,
    /// Its name: 1 to [`MAX_METHOD_NAME`] bytes, no control characters.
    pub name: Box<str>,
}

/// What the server grants. Descriptors: its segment, its doorbell; with the mpmc transport its
/// request queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both sides speak from here on.
    pub version: u16,
    /// Calls that may be in flight on the connection.
    pub max_in_flight: u32,
    /// The features in use.
    pub features: u64,
    /// Granted capacity of the ring towards the server, in bytes; a power of two.
    pub ring_to_server: u32,
    /// Granted capacity of the ring towards the client, in bytes; a power of two.
    pub ring_to_client: u32,
    /// Length of the server's segment, in bytes. 0: there is none, the frames go over the socket;
    /// then there are no descriptors either.
    pub server_segment_len: u64,
    /// Length that the client's segment must have, in bytes. 0 together with the server's.
    pub client_segment_len: u64,
    /// Largest message that the server accepts, in bytes of payload.
    pub max_message: u64,
    /// A number for logs and metrics, unique in the server's life.
    pub connection_id: u64,
    /// Credits that the server grants in advance for each stream that it reads.
    pub stream_credits: u32,
    /// The server's name for logs and metrics, at most [`MAX_LABEL`] bytes.
    pub label: String,
    /// The method table, shared by the connections of a server. Empty unless in calls mode.
    pub methods: Arc<[Method]>,
}

impl Welcome {
    const KIND: MessageKind = MessageKind::Welcome;

    /// The message's bytes.
    ///
    /// # Errors
    /// [`HandshakeError::FieldTooLong`], [`HandshakeError::BadField`] and
    /// [`HandshakeError::BodyTooLong`]: the method table is too large.
    pub fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        check_name(&self.label, MAX_LABEL, Self::KIND, "label")?;
        let Ok(method_count) = u16::try_from(self.methods.len()) else {
            return Err(HandshakeError::FieldTooLong {
                message: Self::KIND,
                field: "method table",
                len: self.methods.len(),
                max: usize::from(u16::MAX),
            });
        };
        let mut body = BodyWriter::new(Self::KIND);
        body.u16(self.version);
        body.u16(method_count);
        body.u32(self.max_in_flight);
        body.u64(self.features);
        body.u32(self.ring_to_server);
        body.u32(self.ring_to_client);
        body.u64(self.server_segment_len);
        body.u64(self.client_segment_len);
        body.u64(self.max_message);
        body.u64(self.connection_id);
        body.u32(self.stream_credits);
        body.u16(self.label.len() as u16);
        body.u16(0);
        body.put(self.label.as_bytes());
        for method in self.methods.iter() {
            check_method_name(&method.name)?;
            body.put(&[method.shape as u8]);
            body.u16(method.name.len() as u16);
            body.put(method.name.as_bytes());
        }
        body.finish()
    }

    /// Decodes a body. Whether the values are acceptable is [`super::ClientHandshake`]'s part.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`], [`HandshakeError::FieldTooLong`] and
    /// [`HandshakeError::BadField`].
    pub fn decode(body: &[u8]) -> Result<Welcome, HandshakeError> {
        let mut body = BodyReader::new(Self::KIND, body);
        let version = body.u16("version")?;
        let method_count = body.u16("method count")?;
        let max_in_flight = body.u32("max_in_flight")?;
        let features = body.u64("features")?;
        let ring_to_server = body.u32("ring_to_server")?;
        let ring_to_client = body.u32("ring_to_client")?;
        let server_segment_len = body.u64("server_segment_len")?;
        let client_segment_len = body.u64("client_segment_len")?;
        let max_message = body.u64("max_message")?;
        let connection_id = body.u64("connection_id")?;
        let stream_credits = body.u32("stream_credits")?;
        let label_len = body.u16("label length")?;
        body.bytes(2, "reserved")?;
        let label = body.name(label_len, MAX_LABEL, "label")?.to_owned();
        Ok(Welcome {
            version,
            max_in_flight,
            features,
            ring_to_server,
            ring_to_client,
            server_segment_len,
            client_segment_len,
            max_message,
            connection_id,
            stream_credits,
            label,
            methods: read_methods(&mut body, method_count)?,
        })
    }
}

fn read_methods(body: &mut BodyReader<'_>, count: u16) -> Result<Arc<[Method]>, HandshakeError> {
    // Shape, length and one byte of name are the least that an entry takes.
    let mut methods = Vec::with_capacity(usize::from(count).min(body.left() / 4));
    for _ in 0..count {
        let shape = CallShape::from_u8(body.u8("method shape")?).ok_or({
            let (field, rule) = ("method shape", "must be 0 to 3");
            HandshakeError::BadField {
                message: MessageKind::Welcome,
                field,
                rule,
            }
        })?;
        let len = body.u16("method name length")?;
        let name = body.name(len, MAX_METHOD_NAME, "method name")?;
        check_method_name(name)?;
        methods.push(Method {
            shape,
            name: name.into(),
        });
    }
    Ok(methods.into())
}

fn check_method_name(name: &str) -> Result<(), HandshakeError> {
    let (message, field) = (MessageKind::Welcome, "method name");
    if name.is_empty() {
        return Err(HandshakeError::BadField {
            message,
            field,
            rule: "must not be empty",
        });
    }
    check_name(name, MAX_METHOD_NAME, message, field)
}

/// The client takes what was granted. Descriptors: its segment, its doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// Length of the client's segment, in bytes. 0: there is none, the frames go over the socket;
    /// then there are no descriptors either.
    pub segment_len: u64,
}

impl Accept {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = BodyWriter::new(MessageKind::Accept);
        body.u64(self.segment_len);
        body.finish()
            .expect("8 bytes are less than a body may have")
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`].
    pub fn decode(body: &[u8]) -> Result<Accept, HandshakeError> {
        let mut body = BodyReader::new(MessageKind::Accept, body);
        Ok(Accept {
            segment_len: body.u64("segment_len")?,
        })
    }
}

/// The connection may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The frames go over the socket, although both sides have made segments: the server could not
    /// use the client's.
    pub over_socket: bool,
}

impl Ready {
    /// The message's bytes. The body is empty unless there is something to say.
    pub fn encode(self) -> Vec<u8> {
        let mut body = BodyWriter::new(MessageKind::Ready);
        if self.over_socket {
            body.u32(1);
        }
        body.finish()
            .expect("4 bytes are less than a body may have")
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`].
    pub fn decode(body: &[u8]) -> Result<Ready, HandshakeError> {
        let flags = match body {
            [] => 0,
            body => BodyReader::new(MessageKind::Ready, body).u32("flags")?,
        };
        Ok(Ready {
            over_socket: flags & 1 != 0,
        })
    }
}
