//! Settings that several layers share.

use crate::error::{Error, Identity};
use crate::sys::ControlSocket;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Which pages a segment is made of. A wish: what cannot be had is logged and replaced by
/// ordinary pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HugePages {
    /// Ordinary pages. Right for rings below a few MiB.
    #[default]
    Never,
    /// Ask for transparent huge pages (Linux: `madvise`; needs `shmem_enabled` set to `advise`).
    Transparent,
    /// Take pages from the reserved pool (Linux: hugetlb, `nr_hugepages`). Each segment then takes
    /// at least one huge page, 2 MiB.
    Reserved,
}

/// How a segment's memory is obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Which pages to ask for.
    pub huge_pages: HugePages,
    /// Touch every page at creation, so that no page fault comes later. Costs resident memory for
    /// connections that stay idle.
    pub pre_touch: bool,
}

/// What carries a connection's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Rings in memory that both processes have mapped.
    SharedMemory,
    /// The control socket (on Windows the named pipe): every batch is copied through the kernel.
    Socket,
    /// Requests by one queue that all clients of the server write, replies by a ring.
    Mpmc,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::SharedMemory => "shared memory",
            Transport::Socket => "socket",
            Transport::Mpmc => "mpmc",
        })
    }
}

/// Which transports a side takes. The two sides of a connection must have one in common, else the
/// server refuses and says so. A server and a client may choose independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TransportPolicy {
    /// Shared memory; the socket where the other side takes nothing else, or where the system
    /// refuses the memory on either side (no mapping, no descriptor, a limit). Why is logged as a
    /// warning.
    #[default]
    PreferSharedMemory,
    /// Shared memory or no connection. Without the cargo feature `spsc_transport`: no connection.
    SharedMemoryOnly,
    /// The socket alone. What the other side sends never lies in memory that it can change later.
    SocketOnly,
    /// The request queue that all clients of a server share, where the other side offers it; else as
    /// [`PreferSharedMemory`](Self::PreferSharedMemory). A server of this policy serves clients of
    /// either kind at the same time.
    ///
    /// All clients of the queue can read, change and block each other's requests: for programs that
    /// trust one another, on their way from such a transport. Needs the cargo feature
    /// `mpmc_transport`, and Linux; for calls only.
    PreferMpmc,
    /// That queue or no connection.
    MpmcOnly,
}

impl FromStr for TransportPolicy {
    type Err = Error;

    /// Reads what a configuration says: `any`, `spsc` (or `shared-memory`), `socket`, `prefer-mpmc`,
    /// `mpmc`.
    ///
    /// # Errors
    /// [`Error::Setting`] with these names.
    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "any" => Self::PreferSharedMemory,
            "spsc" | "shared-memory" => Self::SharedMemoryOnly,
            "socket" => Self::SocketOnly,
            "prefer-mpmc" => Self::PreferMpmc,
            "mpmc" => Self::MpmcOnly,
            _ => {
                return Err(Error::Setting {
                    setting: "transport",
                    rule: "any, spsc (or shared-memory), socket, prefer-mpmc or mpmc",
                });
            }
        })
    }
}

impl TransportPolicy {
    /// What carries calls, if nobody `said`: what `NEARWIRE_TRANSPORT` says, in builds that can be on
    /// their way from one transport to another; else the default.
    ///
    /// # Errors
    /// [`Error::Setting`] if the variable says something else than [`from_str`](Self::from_str) reads.
    pub(crate) fn of_calls(said: Option<Self>) -> Result<Self, Error> {
        #[cfg(feature = "mpmc_transport")]
        if said.is_none()
            && let Some(text) = std::env::var_os("NEARWIRE_TRANSPORT")
        {
            return text.to_string_lossy().parse().map_err(|error| match error {
                Error::Setting { rule, .. } => Error::Setting {
                    setting: "NEARWIRE_TRANSPORT",
                    rule,
                },
                error => error,
            });
        }
        Ok(said.unwrap_or_default())
    }

    /// What this build can do of it.
    pub(crate) fn offers_shared_memory(self) -> bool {
        cfg!(feature = "spsc_transport") && self != Self::SocketOnly
    }

    pub(crate) fn offers_socket(self) -> bool {
        !matches!(self, Self::SharedMemoryOnly | Self::MpmcOnly)
    }

    pub(crate) fn offers_mpmc(self) -> bool {
        matches!(self, Self::PreferMpmc | Self::MpmcOnly)
    }
}

/// How long a waiting side looks at the ring before it sleeps in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spin {
    /// The longest that one wait may spin. Zero means never. The real spin adapts below this
    /// bound: it grows when spinning found something and shrinks when it did not.
    pub budget: Duration,
    /// Learn from whether spinning paid. If not set, every wait spins for the whole budget.
    ///
    /// A thread that learns does not spin at all while so many of this process's threads, more than
    /// 12 for each processor, sleep for answers within 10 ms that those that spin would only keep the
    /// others from the processors.
    pub adaptive: bool,
}

impl Spin {
    /// Never spin: every wait goes to the kernel at once.
    pub const NEVER: Self = Self {
        budget: Duration::ZERO,
        adaptive: false,
    };
}

impl Default for Spin {
    /// Adaptive, at most 50 µs: about what waking a sleeping core costs (docs: tuning).
    fn default() -> Self {
        Self {
            budget: Duration::from_micros(50),
            adaptive: true,
        }
    }
}

/// Which processes this side deals with, judged by what the system says about them.
#[derive(Clone, Default)]
pub struct PeerPolicy(Option<Arc<PeerCheck>>);

type PeerCheck = dyn Fn(&Identity) -> Result<(), String> + Send + Sync;

impl PeerPolicy {
    /// Processes of the same effective user only. The default.
    pub fn same_user() -> Self {
        Self(None)
    }

    /// Whatever `check` lets pass; its error is the reason that the other side is told.
    ///
    /// The socket's own permissions come first: a process of another user needs a directory that
    /// it may enter and a socket that it may write.
    pub fn custom(check: impl Fn(&Identity) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(check)))
    }

    pub(crate) fn check(&self, peer: &Identity) -> Result<(), String> {
        if let Some(check) = &self.0 {
            // It runs on the thread that every client of the server goes through.
            return catch_unwind(AssertUnwindSafe(|| check(peer)))
                .unwrap_or_else(|_| Err("the policy panicked".into()));
        }
        let own = ControlSocket::own_identity();
        if peer.is_same_user(&own) {
            return Ok(());
        }
        Err(format!(
            "only processes of user {} are, unless the policy says otherwise",
            own.user()
        ))
    }
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "PeerPolicy(custom)"
        } else {
            "PeerPolicy(same user)"
        })
    }
}
