//! What the parts must do on every system.

mod doorbell;
mod multiplexer;
#[cfg(feature = "tokio")]
mod reactor;
