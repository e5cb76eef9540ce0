//! What a connection is really made of.

use crate::error::Identity;
use crate::link::Shared;
use crate::proto::handshake::{
    FEATURE_ASYMMETRIC_FENCES, FEATURE_MPMC_TRANSPORT, FEATURE_SOCKET_TRANSPORT,
    FEATURE_TRACE_CONTEXT,
};
use crate::settings::Transport;
use crate::waiter::Fences;

/// The names of the feature bits of a connection, for people. A bit that this version does not know is
/// shown by its number.
///
/// ```
/// assert_eq!(nearwire::feature_names(1 | 1 << 60), ["asymmetric fences", "bit 60"]);
/// ```
pub fn feature_names(features: u64) -> Vec<String> {
    let bits = (0..64).filter(|bit| features >> bit & 1 == 1);
    let name = |bit: u32| match 1 << bit {
        FEATURE_ASYMMETRIC_FENCES => "asymmetric fences".to_owned(),
        FEATURE_TRACE_CONTEXT => "trace context".to_owned(),
        FEATURE_SOCKET_TRANSPORT => "socket transport".to_owned(),
        FEATURE_MPMC_TRANSPORT => "mpmc transport".to_owned(),
        _ => format!("bit {bit}"),
    };
    bits.map(name).collect()
}

/// What the handshake agreed on and the system granted, as opposed to what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The server's number for the connection, unique within the server's life.
    pub id: u64,
    /// Who the peer is, as the system tells.
    pub peer: Identity,
    /// What the peer calls itself.
    pub peer_label: String,
    /// What carries the frames.
    pub transport: Transport,
    /// Capacity of the ring that this side fills, in bytes.
    pub ring_out: usize,
    /// Capacity of the ring that the peer fills, in bytes.
    pub ring_in: usize,
    /// The largest message that the peer takes, in bytes.
    pub max_message_out: u64,
    /// The largest message that this side takes, in bytes.
    pub max_message_in: u64,
    /// Calls that may be in flight on the connection.
    pub max_in_flight: usize,
    /// Whether this side's ring lies in huge pages.
    pub huge_pages: bool,
    /// Whether the side that goes to sleep fences for both, so that publishing needs no fence.
    pub asymmetric_fences: bool,
}

impl ConnectionInfo {
    pub(crate) fn of(shared: &Shared) -> Self {
        let terms = &shared.terms;
        Self {
            id: terms.connection_id,
            peer: shared.peer,
            peer_label: terms.peer_label.clone(),
            transport: shared.transport(),
            ring_out: terms.ring_out,
            ring_in: terms.ring_in,
            max_message_out: terms.max_message_out,
            max_message_in: terms.max_message_in,
            max_in_flight: terms.max_in_flight,
            huge_pages: shared.huge_pages,
            asymmetric_fences: terms.fences == Fences::Asymmetric,
        }
    }
}
