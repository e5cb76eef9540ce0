//! Properties of the wire protocol: what goes in comes out, whatever comes in is survived, and
//! the document's example is what the encoder writes.

#[path = "proto_properties/frames.rs"]
mod frames;
#[path = "proto_properties/handshakes.rs"]
mod handshakes;
#[path = "proto_properties/messages.rs"]
mod messages;

use nearwire::proto::frame::{self, Header};

/// The bytes of the document's block that follows the line `<!-- bytes: name -->`: hexadecimal
/// pairs after the offset and before the `|` of each line.
fn bytes_of_the_document(name: &str) -> Vec<u8> {
    let document = include_str!("../docs/02-BINARY-PROTOCOL-DESIGN.md");
    let marker = format!("<!-- bytes: {name} -->\n```text\n");
    let (_, after) = document
        .split_once(&marker)
        .expect("the document has the block");
    let (block, _) = after.split_once("```").expect("the block has an end");
    let pairs = block.lines().flat_map(|line| {
        let bytes = line.split('|').next().unwrap_or_default();
        bytes.split_whitespace().skip(1).collect::<Vec<_>>()
    });
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("a hexadecimal pair"))
        .collect()
}

fn record(header: &Header, payload: &[u8]) -> Vec<u8> {
    let encoded = frame::encode_header(header, payload.len()).unwrap();
    let mut bytes = encoded.first_word().to_le_bytes().to_vec();
    bytes.extend(encoded.prefix());
    bytes.extend(payload);
    bytes
}

#[test]
fn the_documents_64_byte_call_is_what_the_encoder_writes() {
    let payload: Vec<u8> = (0..64).collect();
    let request = bytes_of_the_document("request");
    assert_eq!(request, record(&Header::request(3, 42), &payload));
    let reply = bytes_of_the_document("reply");
    assert_eq!(reply, record(&Header::reply(42), b"OK"));
    let with_deadline = Header {
        deadline_ns: Some(50_000_000),
        ..Header::request(3, 43)
    };
    assert_eq!(
        bytes_of_the_document("request with a deadline"),
        record(&with_deadline, b"hi")
    );

    let word = u64::from_le_bytes(request[..8].try_into().unwrap());
    let (tag, body_len) = frame::split_first_word(word).unwrap();
    assert_eq!(body_len, 72);
    let call = frame::decode_plain(tag, &request[8..]).unwrap();
    assert_eq!(
        (call.method, call.request_id, call.payload),
        (3, 42, payload.as_slice())
    );
}

#[test]
fn the_documents_hello_is_what_the_encoder_writes() {
    use nearwire::proto::handshake::{Hello, VersionRange};
    let hello = Hello {
        versions: VersionRange { min: 1, max: 1 },
        mode: nearwire::proto::mode::Mode::Calls,
        features_offered: 0,
        features_required: 0,
        layout_hash: 0x1122_3344_5566_7788,
        ring_to_server: 65_536,
        ring_to_client: 65_536,
        max_message: 64 << 20,
        pid: 4711,
        stream_credits: 16,
        label: "cli".into(),
    };
    assert_eq!(bytes_of_the_document("hello"), hello.encode().unwrap());
}
