//! Asking for a server's counters: Observe goes out in place of Hello, Counters comes in, and nothing
//! else is said. The socket stays open, so that its end tells that the server is gone.

use super::bytes::{BodyReader, BodyWriter};
use super::client::check_descriptors;
use super::envelope::{MessageKind, MessageReader};
use super::error::HandshakeError;
use super::message::VersionRange;
use super::refusal::{Close, Reject, RejectCode};

/// An observer wants the counters page. No descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observe {
    /// Protocol versions that it speaks.
    pub versions: VersionRange,
}

impl Observe {
    /// The message's bytes.
    ///
    /// # Errors
    /// [`HandshakeError::BadField`] for a range that is none.
    pub fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        self.versions.check(MessageKind::Observe)?;
        let mut body = BodyWriter::new(MessageKind::Observe);
        body.u16(self.versions.min);
        body.u16(self.versions.max);
        body.finish()
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`] and [`HandshakeError::BadField`].
    pub fn decode(body: &[u8]) -> Result<Observe, HandshakeError> {
        let mut body = BodyReader::new(MessageKind::Observe, body);
        let versions = VersionRange::read(&mut body, MessageKind::Observe)?;
        Ok(Observe { versions })
    }
}

/// The counters page. Descriptors: its segment, for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// The version that both sides speak.
    pub version: u16,
    /// Length of the segment in bytes.
    pub segment_len: u64,
}

impl Counters {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = BodyWriter::new(MessageKind::Counters);
        body.u16(self.version);
        body.put(&[0; 6]);
        body.u64(self.segment_len);
        body.finish()
            .expect("16 bytes are less than a body may have")
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`HandshakeError::Truncated`].
    pub fn decode(body: &[u8]) -> Result<Counters, HandshakeError> {
        let mut body = BodyReader::new(MessageKind::Counters, body);
        let version = body.u16("version")?;
        body.bytes(6, "reserved")?;
        let segment_len = body.u64("segment_len")?;
        Ok(Counters {
            version,
            segment_len,
        })
    }
}

/// The observer's end.
#[derive(Debug)]
pub struct ObserverHandshake {
    versions: VersionRange,
    max_segment_len: u64,
    reader: MessageReader,
}

impl ObserverHandshake {
    /// A conversation about to begin; segments of up to `max_segment_len` bytes are accepted.
    pub fn new(versions: VersionRange, max_segment_len: u64) -> ObserverHandshake {
        ObserverHandshake {
            versions,
            max_segment_len,
            reader: MessageReader::new(),
        }
    }

    /// The first bytes to send, without descriptors.
    ///
    /// # Errors
    /// As [`Observe::encode`].
    pub fn observe(&self) -> Result<Vec<u8>, HandshakeError> {
        let versions = self.versions;
        Observe { versions }.encode()
    }

    /// Takes bytes from the socket, with the number of descriptors that came with them. `None`:
    /// more must come.
    ///
    /// # Errors
    /// Final, whatever they are: the server's refusal, or what is wrong with what it said.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        descriptors: usize,
    ) -> Result<Option<Counters>, HandshakeError> {
        let Some(message) = self.reader.receive(bytes, descriptors)? else {
            return Ok(None);
        };
        match message.kind() {
            MessageKind::Reject => {
                let reject = Reject::decode(message.body())?;
                let (client, server) = (self.versions, reject.versions);
                // Believe the code only if the numbers bear it out.
                if reject.code == RejectCode::Version && client.highest_common(server).is_none() {
                    return Err(HandshakeError::VersionMismatch { client, server });
                }
                Err(HandshakeError::Rejected(reject))
            }
            MessageKind::Close => Err(HandshakeError::Closed(Close::decode(message.body())?)),
            MessageKind::Counters => {
                let counters = Counters::decode(message.body())?;
                self.check(&counters)?;
                check_descriptors(&message, counters.segment_len, false)?;
                Ok(Some(counters))
            }
            got => Err(HandshakeError::OutOfOrder {
                expected: MessageKind::Counters,
                got,
            }),
        }
    }

    fn check(&self, counters: &Counters) -> Result<(), HandshakeError> {
        let unacceptable =
            |field, value, rule| Err(HandshakeError::Unacceptable { field, value, rule });
        if !self.versions.contains(counters.version) {
            let rule = "it must be one that the observer offered";
            return unacceptable("version", counters.version.into(), rule);
        }
        if counters.segment_len == 0 || counters.segment_len > self.max_segment_len {
            let rule = "it must not be empty nor exceed the observer's limit";
            return unacceptable("segment_len", counters.segment_len, rule);
        }
        Ok(())
    }

    /// What the end of the socket means.
    pub fn end_of_file(&self) -> HandshakeError {
        HandshakeError::Disconnected {
            waiting_for: MessageKind::Counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: VersionRange = VersionRange { min: 1, max: 3 };

    fn observer() -> ObserverHandshake {
        ObserverHandshake::new(RANGE, 1 << 20)
    }

    #[test]
    fn what_is_asked_for_comes_in_pieces_of_any_size() {
        let sent = Counters {
            version: 2,
            segment_len: 8192,
        };
        let bytes = sent.encode();
        for cut in 1..bytes.len() {
            let mut observer = observer();
            assert_eq!(observer.receive(&bytes[..cut], 1), Ok(None));
            assert_eq!(observer.receive(&bytes[cut..], 0), Ok(Some(sent)));
        }
        let asked = observer().observe().unwrap();
        let mut reader = MessageReader::new();
        let message = reader.receive(&asked, 0).unwrap().unwrap();
        assert_eq!(message.kind(), MessageKind::Observe);
        let observe = Observe::decode(message.body()).unwrap();
        assert_eq!(observe.versions, RANGE);
    }

    #[test]
    fn a_server_cannot_make_an_observer_map_what_it_likes() {
        for segment_len in [0, (1 << 20) + 1, u64::MAX] {
            let bytes = Counters {
                version: 1,
                segment_len,
            };
            let error = observer().receive(&bytes.encode(), 1).unwrap_err();
            assert!(
                matches!(
                    error,
                    HandshakeError::Unacceptable {
                        field: "segment_len",
                        ..
                    }
                ),
                "{error}"
            );
        }
        let other_version = Counters {
            version: 4,
            segment_len: 4096,
        };
        assert!(observer().receive(&other_version.encode(), 1).is_err());
        // As many descriptors as there must be.
        let good = Counters {
            version: 1,
            segment_len: 4096,
        };
        for descriptors in [0, 2] {
            assert!(observer().receive(&good.encode(), descriptors).is_err());
        }
        let mut cut = good.encode();
        cut.truncate(cut.len() - 1);
        cut[12] -= 1;
        let error = observer().receive(&cut, 1).unwrap_err();
        assert!(matches!(error, HandshakeError::Truncated { .. }), "{error}");
    }

    #[test]
    fn refusals_and_other_messages_are_errors() {
        let reject = Reject {
            code: RejectCode::Mode,
            versions: RANGE,
            text: "no counters here".into(),
        };
        let error = observer().receive(&reject.encode(), 0).unwrap_err();
        assert_eq!(error, HandshakeError::Rejected(reject));
        let ready = super::super::Ready { over_socket: false }.encode();
        let error = observer().receive(&ready, 0).unwrap_err();
        assert!(
            matches!(error, HandshakeError::OutOfOrder { .. }),
            "{error}"
        );
        assert!(observer().receive(b"HTTP/1.1 200 OK\r\n", 0).is_err());
    }
}
