//! The `nearwire` command.
fn main() {}
