//! Something that can be watched as a control pipe is, without a peer.

use super::Watched;
use super::event::{Event, Reset};
use std::sync::Arc;

/// Stands for a control pipe.
pub(in crate::sys) struct ControlStandIn(Arc<Event>);

impl ControlStandIn {
    pub(in crate::sys) fn new() -> Self {
        Self(Arc::new(Event::new(Reset::Manual).unwrap()))
    }

    /// As if the peer had died.
    pub(in crate::sys) fn end(&mut self) {
        self.0.set();
    }
}

impl Watched for ControlStandIn {
    fn readable(&self) -> &Arc<Event> {
        &self.0
    }
}
