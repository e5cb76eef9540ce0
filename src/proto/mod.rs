//! The wire protocol, sans-IO.
//!
//! Nothing here reads a socket, maps memory or looks at a clock: bytes go in, typed values and
//! bytes come out. Every decoder treats its input as hostile: it never panics, never allocates
//! more than the bytes it was given justify, and names what was wrong.
//!
//! * [`frame`]: the records that travel through the rings.
//! * [`fragment`], [`reassembly`]: messages larger than one record, cut and put together again.
//! * [`mode`]: what a connection carries, and which frames each side may send in it.
//! * [`credit`]: what stream items cost, and when their sender must wait.
//! * [`status`]: the code and text that end a call.
//! * [`handshake`]: the messages on the control socket, and what the two sides agree on.
//!
//! The bytes are drawn in `docs/02-BINARY-PROTOCOL-DESIGN.md`.

pub mod credit;
pub mod fragment;
pub mod frame;
pub mod handshake;
pub mod mode;
pub mod reassembly;
pub mod status;
mod text;
