//! The blocking client against a server that wrote whatever the fuzzer says.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nearwire::fuzzing::blocking_client(input));
