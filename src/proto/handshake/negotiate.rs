//! What comes of a client's wishes and a server's policy.

use super::error::HandshakeError;
use super::message::{Hello, VersionRange};
use super::refusal::{Reject, RejectCode};
use super::{FEATURE_MPMC_TRANSPORT, FEATURE_SOCKET_TRANSPORT};
use crate::proto::mode::Mode;

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPolicy {
    /// Protocol versions it speaks, normally [`super::VERSIONS`].
    pub versions: VersionRange,
    /// Modes it serves.
    pub modes: Vec<Mode>,
    /// Features it can use.
    pub features_supported: u64,
    /// Those of them that every client must offer.
    pub features_required: u64,
    /// Hash of the segment layout that it was built with.
    pub layout_hash: u64,
    /// Smallest capacity of a ring, in bytes; rounded up to a power of two.
    pub ring_min: u32,
    /// Largest capacity of a ring, in bytes; rounded down to a power of two.
    pub ring_max: u32,
}

/// What the two sides agreed on, and what the server knows about its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The version that both speak from here on.
    pub version: u16,
    /// What the connection is for.
    pub mode: Mode,
    /// The features in use.
    pub features: u64,
    /// Whether shared memory is out of the question because one side requires the socket.
    pub socket_required: bool,
    /// Capacity of the ring towards the server, in bytes; a power of two.
    pub ring_to_server: u32,
    /// Capacity of the ring towards the client, in bytes; a power of two.
    pub ring_to_client: u32,
    /// Largest message that the client accepts, in bytes of payload.
    pub client_max_message: u64,
    /// Credits that the client grants in advance for each stream that it reads.
    pub client_stream_credits: u32,
    /// The process id that the client claims.
    pub client_pid: u32,
    /// The client's label.
    pub client_label: String,
}

/// Matches a client's Hello with a server's policy.
///
/// # Errors
/// The [`Reject`] to send: no common version, a required feature that is missing, another
/// layout, or a mode that is not served, checked in this order.
pub fn negotiate(hello: &Hello, policy: &ServerPolicy) -> Result<Agreed, Reject> {
    let reject = |code, text| {
        Err(Reject {
            code,
            versions: policy.versions,
            text,
        })
    };
    let Some(version) = policy.versions.highest_common(hello.versions) else {
        let mismatch = HandshakeError::VersionMismatch {
            client: hello.versions,
            server: policy.versions,
        };
        return reject(RejectCode::Version, mismatch.to_string());
    };
    let features = hello.features_offered & policy.features_supported;
    let client_misses = hello.features_required & !features;
    let server_misses = policy.features_required & !features;
    if client_misses & FEATURE_SOCKET_TRANSPORT != 0 {
        let text = "the client takes the socket transport alone and the server shared memory \
                    alone; change the transport setting of either";
        return reject(RejectCode::Features, text.into());
    }
    if server_misses & FEATURE_SOCKET_TRANSPORT != 0 {
        let text = "the server takes the socket transport alone and the client shared memory \
                    alone; change the transport setting of either";
        return reject(RejectCode::Features, text.into());
    }
    if client_misses & FEATURE_MPMC_TRANSPORT != 0 {
        let text = "the client takes the mpmc transport alone, which the server does not offer; \
                    change the transport setting of either";
        return reject(RejectCode::Features, text.into());
    }
    if server_misses & FEATURE_MPMC_TRANSPORT != 0 {
        let text = "the server takes the mpmc transport alone, which the client does not offer; \
                    change the transport setting of either";
        return reject(RejectCode::Features, text.into());
    }
    if client_misses != 0 {
        let text = format!(
            "the client requires features {client_misses:#x}, which the server lacks; \
             update the server or do not require them"
        );
        return reject(RejectCode::Features, text);
    }
    if server_misses != 0 {
        let text = format!(
            "the server requires features {server_misses:#x}, which the client does not offer; \
             update the client"
        );
        return reject(RejectCode::Features, text);
    }
    if hello.layout_hash != policy.layout_hash {
        let text = format!(
            "client and server lay shared memory out differently (hash {:#018x} and {:#018x}); \
             build both with the same version of nearwire",
            hello.layout_hash, policy.layout_hash
        );
        return reject(RejectCode::Layout, text);
    }
    if !policy.modes.contains(&hello.mode) {
        let text = format!(
            "the server does not serve {:?} connections, only {:?}; \
             connect to another server or change the mode",
            hello.mode, policy.modes
        );
        return reject(RejectCode::Mode, text);
    }
    Ok(Agreed {
        version,
        mode: hello.mode,
        features,
        socket_required: (hello.features_required | policy.features_required)
            & FEATURE_SOCKET_TRANSPORT
            != 0,
        ring_to_server: policy.grant(hello.ring_to_server),
        ring_to_client: policy.grant(hello.ring_to_client),
        client_max_message: hello.max_message,
        client_stream_credits: hello.stream_credits,
        client_pid: hello.pid,
        client_label: hello.label.clone(),
    })
}

impl ServerPolicy {
    /// The power of two within the policy that is nearest to the wish, the larger one if it lies
    /// between two.
    fn grant(&self, wish: u32) -> u32 {
        const LARGEST: u32 = 1 << 31;
        let max = 1 << self.ring_max.max(1).ilog2();
        let min = self
            .ring_min
            .checked_next_power_of_two()
            .unwrap_or(LARGEST)
            .min(max);
        // No overflow: `max` is itself a power of two.
        wish.clamp(min, max).next_power_of_two()
    }
}
