//! Frames: whatever decodes is encoded to the same header again, and the two ways to decode agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearwire::TraceContext;
use nearwire::proto::frame::{
    MAX_PREFIX_LEN, decode, decode_header, decode_plain, encode_header, split_first_word,
};

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first_chunk::<8>() else {
        return;
    };
    let _ = split_first_word(u64::from_le_bytes(*first));
    let tag = u32::from_le_bytes([first[4], first[5], first[6], first[7]]);
    let _ = decode_plain(tag, body);
    let head = &body[..body.len().min(MAX_PREFIX_LEN)];
    let header = decode_header(tag, head, body.len());
    match decode(tag, body) {
        Ok(frame) => {
            let _ = (frame.credits(), frame.ping_value(), frame.status());
            if let Some(trace) = frame.header.trace.filter(TraceContext::is_valid) {
                // What a program logs of it, and hands on.
                let text = trace.to_string();
                let again: TraceContext = text.parse().expect("what is valid can be parsed");
                assert_eq!(again.to_string(), text);
            }
            if let Ok(text) = std::str::from_utf8(frame.payload) {
                let _ = text.parse::<TraceContext>();
            }
            let (header, prefix) = header.expect("both decode");
            assert_eq!(header, frame.header);
            assert_eq!(&body[prefix..], frame.payload);
            let encoded =
                encode_header(&header, frame.payload.len()).expect("what decodes can be encoded");
            let word = encoded.first_word();
            let (again, len) = split_first_word(word).expect("what is encoded can be split");
            assert_eq!(len, body.len());
            let mut bytes = encoded.prefix().to_vec();
            bytes.extend(frame.payload);
            assert_eq!(
                decode(again, &bytes).expect("it decodes again").header,
                header
            );
        }
        Err(error) => drop(error.to_string()),
    }
});
