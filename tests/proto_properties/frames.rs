use nearwire::proto::frame::{
    Fragment, FrameError, Header, Kind, MAX_PREFIX_LEN, TraceContext, decode, decode_header,
    decode_plain, encode_header, first_word, split_first_word,
};
use nearwire::proto::status::{Code, MAX_STATUS_TEXT, Status, encode_status};
use proptest::prelude::*;

const MORE: u8 = 0x01;
const CONTINUATION: u8 = 0x02;
const TOTAL: u8 = 0x04;
const DEADLINE: u8 = 0x08;
const TRACE: u8 = 0x10;
const ONE_WAY: u8 = 0x20;
const CLIENT_STREAM: u8 = 0x40;

/// The document's rules about kinds and flags, written down once more.
fn is_legal(kind: u8, flags: u8) -> bool {
    let once = match kind {
        1 => DEADLINE | TRACE | ONE_WAY | CLIENT_STREAM,
        8 => TRACE,
        2..=7 | 9..=13 => 0,
        _ => return false,
    };
    let fragments = matches!(kind, 1 | 2 | 5 | 8);
    let rest = match flags & (MORE | CONTINUATION | TOTAL) {
        0 => flags,
        3 if fragments => return flags == MORE | CONTINUATION,
        2 if fragments => return flags == CONTINUATION,
        5 if fragments => flags & !(MORE | TOTAL),
        _ => return false,
    };
    rest & !once == 0 && rest & (ONE_WAY | CLIENT_STREAM) != ONE_WAY | CLIENT_STREAM
}

/// Length of the prefix according to the document.
fn prefix_len(kind: u8, flags: u8) -> usize {
    let mut len = if kind <= 7 { 8 } else { 0 };
    for (flag, field) in [(TOTAL, 8), (DEADLINE, 8), (TRACE, 32)] {
        if flags & flag != 0 {
            len += field;
        }
    }
    len
}

/// Payload lengths that the document allows.
fn payload_is_legal(kind: u8, len: usize) -> bool {
    match kind {
        4 | 10 => len == 0,
        7 => len == 4,
        12 | 13 => len == 8,
        3 | 6 | 11 => len >= 4,
        9 => len >= 1,
        _ => true,
    }
}

#[test]
fn every_kind_with_every_flag_set_and_length_is_judged_as_the_document_says() {
    let body: Vec<u8> = (1..=80).collect();
    let mut legal = 0;
    for kind in 0..=255u8 {
        for flags in 0..=255u8 {
            let tag = u32::from(kind) | u32::from(flags) << 8 | 0x7777_0000;
            for len in 0..=body.len() {
                let body = &body[..len];
                let prefix = prefix_len(kind, flags);
                let expected =
                    is_legal(kind, flags) && len >= prefix && payload_is_legal(kind, len - prefix);
                let decoded = decode(tag, body);
                assert_eq!(
                    decoded.is_ok(),
                    expected,
                    "kind {kind} flags {flags:#x} len {len}"
                );
                let Ok(frame) = decoded else { continue };
                legal += 1;
                assert_eq!(frame.payload, &body[prefix..]);
                assert_eq!(frame.header.tag().to_bits(), tag);
                let again = encode_header(&frame.header, frame.payload.len()).unwrap();
                assert_eq!((again.tag_bits(), again.body_len()), (tag, len));
                // The trace context's padding, which ends the prefix, is not kept.
                let kept = if flags & TRACE != 0 {
                    prefix - 6
                } else {
                    prefix
                };
                assert_eq!(again.prefix()[..kept], body[..kept]);
                assert!(again.prefix()[kept..].iter().all(|byte| *byte == 0));
            }
        }
    }
    assert!(legal > 1000, "only {legal} combinations were legal");
}

prop_compose! {
    fn trace()(version: u8, trace_id: [u8; 16], parent_id: [u8; 8], flags: u8) -> TraceContext {
        TraceContext { version, trace_id, parent_id, flags }
    }
}

fn fragment() -> impl Strategy<Value = Fragment> {
    prop_oneof![
        Just(Fragment::Whole),
        any::<u64>().prop_map(|total| Fragment::First { total }),
        Just(Fragment::Middle),
        Just(Fragment::Last),
    ]
}

prop_compose! {
    /// Any header, legal or not.
    fn header()(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        method: u16,
        request_id: u64,
        fragment in fragment(),
        deadline_ns: Option<u64>,
        trace in prop::option::of(trace()),
        one_way: bool,
        client_stream: bool,
    ) -> Header {
        let request_id = if kind.has_request_id() { request_id } else { 0 };
        Header {
            kind, method, request_id, fragment, deadline_ns, trace, one_way, client_stream,
        }
    }
}

/// A header that may be sent: what its kind or its place in the message forbids is left out.
fn legal_header() -> impl Strategy<Value = Header> {
    header().prop_map(|mut header| {
        let request = header.kind == Kind::Request;
        if !header.kind.may_be_fragmented() {
            header.fragment = Fragment::Whole;
        }
        let begins = matches!(header.fragment, Fragment::Whole | Fragment::First { .. });
        header.deadline_ns = header.deadline_ns.filter(|_| request && begins);
        header.trace = header
            .trace
            .filter(|_| begins && (request || header.kind == Kind::Message));
        header.one_way &= request && begins;
        header.client_stream &= request && begins && !header.one_way;
        header
    })
}

fn payload_for(kind: Kind) -> impl Strategy<Value = Vec<u8>> {
    let len = match kind {
        Kind::Cancel | Kind::Finish => 0..=0,
        Kind::Credit => 4..=4,
        Kind::Ping | Kind::Pong => 8..=8,
        Kind::Error | Kind::StreamEnd | Kind::GoAway => 4..=200,
        Kind::Bytes => 1..=200,
        _ => 0..=200,
    };
    prop::collection::vec(any::<u8>(), len)
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_went(
        (header, payload) in legal_header()
            .prop_flat_map(|header| (Just(header), payload_for(header.kind)))
    ) {
        let encoded = encode_header(&header, payload.len()).unwrap();
        let body = [encoded.prefix(), &payload].concat();
        prop_assert_eq!(encoded.body_len(), body.len());
        let (tag, body_len) = split_first_word(encoded.first_word()).unwrap();
        prop_assert_eq!((tag, body_len), (encoded.tag_bits(), body.len()));
        let frame = decode(tag, &body).unwrap();
        prop_assert_eq!(frame.header, header);
        prop_assert_eq!(frame.payload, payload.as_slice());

        // From the beginning of the body alone, as when the payload stays in the ring.
        let head = &body[..body.len().min(MAX_PREFIX_LEN)];
        let beginning = decode_header(tag, head, body.len());
        prop_assert_eq!(beginning, Ok((header, encoded.prefix().len())));

        match decode_plain(tag, &body) {
            Some(plain) => {
                prop_assert_eq!((plain.kind, plain.method), (header.kind, header.method));
                prop_assert_eq!(plain.request_id, header.request_id);
                prop_assert_eq!(plain.payload, payload.as_slice());
            }
            None => prop_assert!(
                !matches!(header.kind, Kind::Request | Kind::Reply) || header.flags().bits() != 0
            ),
        }
    }

    #[test]
    fn what_may_not_be_sent_is_not_encoded(header in header(), len in 0usize..64) {
        let (kind, flags) = (header.kind as u8, header.flags().bits());
        let expected = is_legal(kind, flags) && payload_is_legal(kind, len);
        prop_assert_eq!(encode_header(&header, len).is_ok(), expected);
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_named(
        tag: u32,
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        match decode(tag, &body) {
            Ok(frame) => {
                let again = encode_header(&frame.header, frame.payload.len()).unwrap();
                prop_assert_eq!((again.tag_bits(), again.body_len()), (tag, body.len()));
                // None of the typed views may panic either.
                let _ = (frame.credits(), frame.ping_value(), frame.status());
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn lying_lengths_are_survived(
        tag: u32,
        head in prop::collection::vec(any::<u8>(), 0..80),
        body_len: usize,
    ) {
        if let Ok((_, prefix_len)) = decode_header(tag, &head, body_len) {
            prop_assert!(prefix_len <= head.len().min(body_len));
        }
    }

    #[test]
    fn first_words_split_as_they_were_packed(tag: u32, body_len in 0usize..1 << 30) {
        prop_assert_eq!(split_first_word(first_word(tag, body_len)), Ok((tag, body_len)));
    }

    #[test]
    fn arbitrary_first_words_are_split_or_refused(word: u64) {
        match split_first_word(word) {
            Ok((tag, body_len)) => prop_assert_eq!(first_word(tag, body_len), word),
            Err(error) => prop_assert_eq!(error, FrameError::NotAFrame { word }),
        }
    }

    #[test]
    fn a_status_comes_back_as_it_went(code: u32, text in "[^\\p{Cc}]{0,600}") {
        let (code_bytes, kept) = encode_status(Code(code), &text);
        prop_assert!(kept.len() <= MAX_STATUS_TEXT && text.as_bytes().starts_with(kept));
        let payload = [&code_bytes, kept].concat();
        let status = Status::from_payload(&payload).unwrap();
        prop_assert_eq!(status.code, Code(code));
        prop_assert_eq!(status.text.as_bytes(), kept);
    }

    #[test]
    fn text_of_a_peer_is_printable(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        match Status::from_payload(&payload) {
            None => prop_assert!(payload.len() < 4),
            Some(status) => {
                let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
                prop_assert!(status.text.chars().all(harmless));
            }
        }
    }
}
