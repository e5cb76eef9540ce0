//! Typed requests and replies: serde types as postcard.

use crate::error::{Error, Status};
use crate::proto::status::Code;
use serde::{Serialize, de::DeserializeOwned};

/// A request, on the server's side.
pub(crate) fn request<Q: DeserializeOwned>(bytes: &[u8]) -> Result<Q, Status> {
    postcard::from_bytes(bytes).map_err(|error| {
        Status::new(
            Code::INVALID_ARGUMENT,
            format!("the request does not decode: {error}"),
        )
    })
}

/// A reply, on the server's side.
pub(crate) fn append_reply<R: Serialize>(value: &R, to: &mut Vec<u8>) -> Result<(), Status> {
    encode(value, to).map_err(|error| {
        Status::new(
            Code::INTERNAL,
            format!("the reply could not be encoded: {error}"),
        )
    })
}

/// A request, on the client's side.
pub(crate) fn append_request<Q: Serialize>(value: &Q, to: &mut Vec<u8>) -> Result<(), Error> {
    encode(value, to).map_err(|error| Error::Codec {
        what: "the request",
        did: "encoded",
        reason: error.to_string(),
    })
}

/// A reply, on the client's side.
pub(crate) fn reply<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, Error> {
    postcard::from_bytes(bytes).map_err(|error| Error::Codec {
        what: "the reply",
        did: "decoded",
        reason: error.to_string(),
    })
}

fn encode<T: Serialize>(value: &T, to: &mut Vec<u8>) -> postcard::Result<()> {
    let buffer = std::mem::take(to);
    *to = postcard::to_extend(value, buffer)?;
    Ok(())
}
