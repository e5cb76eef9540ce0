//! All peers: one module for each system, and the table of them.

mod floor;
mod frames;
mod iceoryx;
mod ipc_channel;
mod nearwire;
mod node;
mod pipes;
mod tarpc;
mod tonic;
mod unix_std;
mod unix_tokio;

#[cfg(feature = "aeron")]
mod aeron;
#[cfg(feature = "shmipc")]
mod shmipc;
#[cfg(feature = "zeromq")]
mod zeromq;

use std::any::Any;

use anyhow::Result;
use nearwire_cli::comparison::Parent;

use crate::peer::{About, Peer, Setup};
use crate::roles;

/// The one that the others are compared with.
pub const REFERENCE: &str = "nearwire";

/// The one that takes no part in a race.
pub const YARDSTICK: &str = "floor";

/// A peer, as the table has it.
pub struct Entry {
    /// What people should know.
    pub about: About,
    /// Its server.
    pub serve: fn(&Setup) -> Result<Box<dyn Any>>,
    /// Its client process.
    pub call: fn(&Parent, &Setup) -> Result<()>,
}

fn entry<P: Peer>() -> Entry {
    Entry {
        about: P::ABOUT,
        serve: P::serve,
        call: roles::call::<P>,
    }
}

/// All peers that were built.
pub fn all() -> Vec<Entry> {
    vec![
        entry::<floor::Floor>(),
        entry::<nearwire::Blocking<nearwire::Spinning>>(),
        entry::<nearwire::Blocking<nearwire::LargeRings>>(),
        entry::<nearwire::Async>(),
        entry::<nearwire::Blocking<nearwire::Sleeping>>(),
        entry::<nearwire::Blocking<nearwire::Socket>>(),
        entry::<unix_std::Singly>(),
        entry::<unix_std::Coalesced>(),
        entry::<unix_tokio::Singly>(),
        entry::<unix_tokio::Coalesced>(),
        entry::<pipes::Pipes>(),
        entry::<iceoryx::Spinning>(),
        entry::<iceoryx::EventDriven>(),
        #[cfg(feature = "aeron")]
        entry::<aeron::AeronIpc>(),
        entry::<tonic::Unary>(),
        entry::<tonic::Streamed>(),
        entry::<tarpc::Tarpc>(),
        entry::<ipc_channel::IpcChannel>(),
        #[cfg(feature = "zeromq")]
        entry::<zeromq::ZeroMq>(),
        #[cfg(feature = "shmipc")]
        entry::<shmipc::ShmIpc>(),
        entry::<node::Node>(),
    ]
}

/// Peers that this executable was built without: name, title, and what would bring them.
pub fn left_out() -> Vec<(&'static str, &'static str, String)> {
    let features = [
        ("aeron", "Aeron IPC", cfg!(feature = "aeron")),
        ("zeromq", "ZeroMQ", cfg!(feature = "zeromq")),
        ("shmipc", "shmipc", cfg!(feature = "shmipc")),
    ];
    let mut left_out = Vec::new();
    for (feature, title, built) in features {
        if !built {
            // `run` says why, if it has tried.
            let why = std::env::var(format!("COMPARISON_WITHOUT_{}", feature.to_uppercase()));
            let why = why.unwrap_or_else(|_| format!("built without the feature {feature}"));
            left_out.push((feature, title, why));
        }
    }
    left_out
}

pub use node::version as node_version;

/// The peer of that name.
pub fn find(name: &str) -> Option<Entry> {
    all().into_iter().find(|entry| entry.about.name == name)
}
