//! What the parts must do on every system.

mod control;
mod doorbell;
mod multiplexer;
#[cfg(feature = "tokio")]
mod reactor;
