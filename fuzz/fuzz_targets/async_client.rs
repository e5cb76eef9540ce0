//! The async client against a server that writes whatever the fuzzer says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nearwire::fuzzing::async_client(input));
