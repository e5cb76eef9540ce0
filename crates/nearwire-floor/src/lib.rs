//! What the hardware gives: the yardstick that Nearwire's benchmarks are measured against.
