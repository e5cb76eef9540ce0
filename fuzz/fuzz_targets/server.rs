//! A server's worker, its calls and streams, against a client that writes whatever the fuzzer says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nearwire::fuzzing::server(input));
