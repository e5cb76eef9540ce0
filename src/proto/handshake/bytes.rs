//! Fields of a control message's body.

use std::borrow::Cow;

use super::envelope::{ENVELOPE_LEN, MAGIC, MessageKind};
use super::error::HandshakeError;
use crate::proto::text;

/// Reads the fields of a body in their order. What follows the last field that this version knows
/// was added by a later one, and is left unread.
pub(super) struct BodyReader<'a> {
    message: MessageKind,
    body_len: usize,
    rest: &'a [u8],
}

impl<'a> BodyReader<'a> {
    pub(super) fn new(message: MessageKind, body: &'a [u8]) -> BodyReader<'a> {
        BodyReader {
            message,
            body_len: body.len(),
            rest: body,
        }
    }

    pub(super) fn bytes(
        &mut self,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], HandshakeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            let needed = (self.body_len - self.rest.len()).saturating_add(len);
            let (message, got) = (self.message, self.body_len);
            return Err(HandshakeError::Truncated {
                message,
                field,
                needed,
                got,
            });
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], HandshakeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, field)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, HandshakeError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, HandshakeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, HandshakeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, HandshakeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A name of `len` bytes that others will compare, log and export: strictly checked.
    pub(super) fn name(
        &mut self,
        len: u16,
        max: usize,
        field: &'static str,
    ) -> Result<&'a str, HandshakeError> {
        let message = self.message;
        if usize::from(len) > max {
            let len = usize::from(len);
            return Err(HandshakeError::FieldTooLong {
                message,
                field,
                len,
                max,
            });
        }
        let bytes = self.bytes(usize::from(len), field)?;
        let name = std::str::from_utf8(bytes).map_err(|_| HandshakeError::BadField {
            message,
            field,
            rule: "must be UTF-8",
        })?;
        check_name(name, max, message, field)?;
        Ok(name)
    }

    /// Text of `len` bytes for people: repaired where it is bad, cut after `max` bytes.
    pub(super) fn text(
        &mut self,
        len: u16,
        max: usize,
        field: &'static str,
    ) -> Result<Cow<'a, str>, HandshakeError> {
        Ok(text::clean(self.bytes(usize::from(len), field)?, max))
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }
}

/// The rules for labels and method names, for both directions.
pub(super) fn check_name(
    name: &str,
    max: usize,
    message: MessageKind,
    field: &'static str,
) -> Result<(), HandshakeError> {
    if name.len() > max {
        return Err(HandshakeError::FieldTooLong {
            message,
            field,
            len: name.len(),
            max,
        });
    }
    if name.chars().any(char::is_control) {
        let rule = "must not contain control characters";
        return Err(HandshakeError::BadField {
            message,
            field,
            rule,
        });
    }
    Ok(())
}

/// Writes a control message.
pub(super) struct BodyWriter {
    message: MessageKind,
    bytes: Vec<u8>,
}

impl BodyWriter {
    pub(super) fn new(message: MessageKind) -> BodyWriter {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(MAGIC);
        bytes.extend((message as u16).to_le_bytes());
        // Flags, then the length, which finish() fills in.
        bytes.extend([0; 6]);
        BodyWriter { message, bytes }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, HandshakeError> {
        let body_len = self.bytes.len() - ENVELOPE_LEN;
        let (message, max) = (self.message, self.message.max_body());
        if body_len > max {
            return Err(HandshakeError::BodyTooLong {
                message,
                body_len,
                max,
            });
        }
        self.bytes[12..ENVELOPE_LEN].copy_from_slice(&(body_len as u32).to_le_bytes());
        Ok(self.bytes)
    }
}
