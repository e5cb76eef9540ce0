//! The wire protocol, sans-IO.
//!
//! Nothing here reads a socket, maps memory or looks at a clock: bytes go in, typed values and
//! bytes come out. Every decoder treats its input as hostile: it never panics, never allocates
//! more than the bytes it was given justify, and names what was wrong.
//!
//! * [`frame`]: the records that travel through the rings.
//!
//! The bytes are drawn in `docs/02-BINARY-PROTOCOL-DESIGN.md`.

pub mod frame;
