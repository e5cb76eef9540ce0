//! What Nearwire asks of the operating system; one folder per system, all with the same surface,
//! and `unix` for what Linux and macOS share.
//!
//! | part | what it gives |
//! |---|---|
//! | `memory` | `create_segment`, `open_segment`: anonymous segments that only their creator can write; [`SegmentHandle`], [`Mapping`], `page_size` |
//! | `doorbell` | [`Doorbell`], [`PeerDoorbell`]: waking a sleeper in another process; [`Sleeper`]: sleeping until then or until the peer dies |
//! | `multiplexer` | [`Multiplexer`]: the same for many connections in one thread |
//! | `reactor` | [`ReactorSleeper`]: the same for a task of Tokio's |
//! | `control` | [`ControlListener`], [`ControlSocket`]: the socket or pipe with a name: handshake, handles, credentials, death of the peer |
//! | `name` | `endpoint_of_name`, `endpoint_of_path`: where a server is found |
//! | `cpu` | the sleeper's heavy fence, affinity, how long others had the processor |
//! | `exclusive` | [`Exclusive`]: what one thread at a time may touch, cheaper by heavy fences for the one that nearly always does |
//! | `clock` | the time that all processes share and nobody sets |
//!
//! A [`Handle`] is what travels with a control message. What may be watched together with a
//! doorbell is the system's own trait (`AsFd` on Unix).
//!
//! Nothing here knows of rings or frames.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as os;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
use macos as os;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as os;

pub(crate) use os::*;

#[cfg(not(target_os = "linux"))]
mod linux_only;
#[cfg(not(target_os = "linux"))]
pub(crate) use linux_only::*;

#[cfg(feature = "tokio")]
mod exclusive;
#[cfg(feature = "tokio")]
pub(crate) use exclusive::{Exclusive, Held};

#[cfg(test)]
mod tests;

/// Where the system lets a thread run, after it was asked for a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placement {
    /// On these processors.
    #[cfg(not(target_os = "macos"))]
    Processors(Vec<usize>),
    /// Wherever it likes, with this class of service.
    #[cfg(target_os = "macos")]
    QosClass(&'static str),
}

impl Placement {
    /// The processors, if the thread is really held to some.
    pub(crate) fn processors(self) -> Option<Vec<usize>> {
        match self {
            #[cfg(not(target_os = "macos"))]
            Self::Processors(processors) => Some(processors),
            #[cfg(target_os = "macos")]
            Self::QosClass(_) => None,
        }
    }
}

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The doorbell rang. It may have been meant for an earlier sleep.
    Rung,
    /// The control socket has something to say: a message, or that the peer is gone.
    Control,
    /// The time is up, or a signal came.
    TimedOut,
}

/// What happened to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The doorbell registered under this key rang.
    Rung(usize),
    /// The socket registered under this key can be read, or is at its end.
    Socket(usize),
    /// Somebody called [`MultiplexerWaker::wake`].
    Woken,
}
