//! A server's worker, or an async client, over the socket, against a peer that sends whatever the fuzzer says,
//! in pieces.
#![no_main]

use nearwire::fuzzing::{async_client_over_socket, server_over_socket};

libfuzzer_sys::fuzz_target!(|input: &[u8]| match input {
    [] => {}
    [which, input @ ..] if which % 2 == 0 => server_over_socket(input),
    [_, input @ ..] => async_client_over_socket(input),
});
