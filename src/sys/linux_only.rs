//! What Linux alone can do, and what the other systems say when they are asked for it.

use std::time::Duration;

/// Makes this process a target of other processes' heavy fences: nobody else has them, so each side
/// fences for itself. (macOS has nothing like Linux's `membarrier`; the `FlushProcessWriteBuffers` of
/// Windows reaches the threads of its own process only.)
#[cfg(any(feature = "spsc_transport", feature = "tokio"))]
pub(crate) fn register_for_heavy_fences() -> bool {
    false
}

/// Never takes place, see [`register_for_heavy_fences`].
#[cfg_attr(
    not(any(feature = "spsc_transport", feature = "tokio")),
    allow(dead_code)
)] // nobody to fence for
pub(crate) fn heavy_fence() -> bool {
    false
}

/// How long a thread was kept from running: the others do not tell.
#[derive(Debug, Default)]
pub(crate) struct RunDelay(());

impl RunDelay {
    pub(crate) fn of_this_thread() -> Self {
        Self(())
    }

    pub(crate) fn so_far(&self) -> Option<Duration> {
        None
    }
}

/// Memory that many processes may write and none can shrink.
#[cfg(feature = "mpmc_transport")]
mod common_segment {
    use crate::error::SegmentRefused;
    use crate::sys::{Mapping, SegmentHandle};
    use std::io::{self, ErrorKind};

    pub(crate) fn create_common_segment(_len: usize) -> io::Result<(SegmentHandle, Mapping)> {
        Err(ErrorKind::Unsupported.into())
    }

    pub(crate) fn open_common_segment(
        _handle: &SegmentHandle,
        _len: usize,
    ) -> Result<Mapping, SegmentRefused> {
        Err(SegmentRefused::Unusable(ErrorKind::Unsupported.into()))
    }

    pub(crate) fn identity_of_segment(_handle: &SegmentHandle) -> io::Result<(u64, u64)> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[cfg(feature = "mpmc_transport")]
pub(crate) use common_segment::{create_common_segment, identity_of_segment, open_common_segment};
