//! What clients send at scale.

use crate::measure::Payload;

/// Connections of one process that are told apart.
const CONNECTION_SHIFT: u32 = 40;

/// Requests that tell apart connections and calls, so that no reply can be taken for another's.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    payload: Payload,
    /// The first connection's number among those of all processes.
    first: u64,
}

impl Requests {
    /// Requests of `size` bytes of connections from number `first` on.
    pub(super) fn new(size: usize, first: usize) -> Self {
        Self {
            payload: Payload::new(size),
            first: first as u64,
        }
    }

    /// The request of a call of a connection, each counted from 0.
    #[inline]
    pub(super) fn of(&mut self, connection: usize, call: u64) -> &[u8] {
        let connection = self.first + connection as u64;
        self.payload.numbered(connection << CONNECTION_SHIFT | call)
    }
}
