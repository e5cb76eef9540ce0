//! Fragments in any order: the message that comes out is what went in, and memory grows only with
//! what arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearwire::proto::frame::decode_header;
use nearwire::proto::reassembly::Reassembly;

const LIMIT: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let mut reassembly = Reassembly::new(LIMIT);
    let mut arrived = 0;
    let mut sent = Vec::new();
    while let Some((&[kind, flags, id, total, len], rest)) = input.split_first_chunk::<5>() {
        let len = usize::from(len).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        input = rest;
        let tag = u32::from_le_bytes([kind % 16, flags, 0, 0]);
        let mut body = Vec::new();
        if kind % 16 < 8 {
            body.extend(u64::from(id % 4).to_le_bytes());
        }
        if flags & 4 != 0 {
            // Small, about the limit, or absurd.
            let total = match total {
                0..200 => u64::from(total) * 3,
                200..240 => LIMIT as u64 + u64::from(total) - 220,
                _ => u64::MAX / u64::from(total - 239),
            };
            body.extend(total.to_le_bytes());
        }
        body.extend(payload);
        let Ok((header, prefix)) = decode_header(tag, &body[..body.len().min(64)], body.len())
        else {
            continue;
        };
        let payload = &body[prefix..];
        arrived += payload.len();
        if reassembly.in_progress().is_none() {
            sent.clear();
        }
        let fragment = !header.fragment.is_whole();
        let pushed = reassembly.push_with(&header, payload.len(), |data| {
            data.extend_from_slice(payload)
        });
        match pushed {
            Ok(Some(message)) if fragment => {
                sent.extend_from_slice(payload);
                assert_eq!(message.payload, sent, "another message came out");
            }
            Ok(Some(message)) => assert_eq!(message.payload, payload),
            Ok(None) => sent.extend_from_slice(payload),
            Err(error) => {
                let _ = error.to_string();
                assert!(reassembly.in_progress().is_none(), "goes on after an error");
            }
        }
        let allowed = 2 * arrived + Reassembly::GROWTH_STEP;
        assert!(
            reassembly.allocated() <= allowed,
            "{} for {arrived} bytes",
            reassembly.allocated()
        );
    }
});
