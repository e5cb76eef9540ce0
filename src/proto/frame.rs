//! Frames: the records that travel through a ring.
//!
//! A frame is an 8-byte first word and a body. The first word, a little-endian `u64`, is also the
//! ring's commit word, so a frame costs no header of its own:
//!
//! ```text
//!  63            48 47      40 39      32 31 30 29                            0
//! +----------------+----------+----------+--+--+------------------------------+
//! |     method     |  flags   |   kind   |C |P |     body length in bytes     |
//! +----------------+----------+----------+--+--+------------------------------+
//!  `------------- tag (u32) ------------'  |  `- PAD: ring filler, no frame
//!                                          `- COMMITTED: always set
//! ```
//!
//! The body is a *prefix* (request id and the extension fields whose flags are set, at most
//! [`MAX_PREFIX_LEN`] bytes) followed by the payload. Rings carry the tag as an opaque `u32`;
//! only this module gives it a meaning.
//!
//! Requests and replies without extensions, nearly all traffic, have a fast path:
//! [`decode_plain`] and [`Tag::request`] / [`Tag::reply`], with the request id as the whole prefix.
//! No function here allocates.

mod codec;
mod error;
mod header;
mod tag;
mod trace;

pub use codec::{EncodedHeader, PlainCall, decode, decode_header, decode_plain, encode_header};
pub use error::FrameError;
pub use header::{Fragment, Frame, Header};
pub use tag::{
    COMMITTED_BIT, FIRST_WORD_LEN, Flags, Kind, MAX_BODY_LEN, MAX_PREFIX_LEN, PAD_BIT, Tag,
    first_word, split_first_word,
};
pub use trace::{BadTraceparent, TraceContext};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_numbers_and_zero_is_none() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index + 1);
            assert_eq!(Kind::from_u8(*kind as u8), Some(*kind));
        }
        assert_eq!(Kind::from_u8(0), None);
        assert_eq!(Kind::from_u8(14), None);
        assert_eq!(Kind::from_u8(255), None);
    }

    #[test]
    fn first_word_puts_every_field_where_the_document_says() {
        let tag = Tag {
            kind: Kind::Message,
            flags: Flags::TRACE,
            method: 0xabcd,
        };
        let word = first_word(tag.to_bits(), 0x1234_5678);
        assert_eq!(word, 0xabcd_1008_9234_5678);
        assert_eq!(split_first_word(word), Ok((tag.to_bits(), 0x1234_5678)));
        let uncommitted = word & !COMMITTED_BIT;
        assert_eq!(
            split_first_word(uncommitted),
            Err(FrameError::NotAFrame { word: uncommitted })
        );
        assert!(split_first_word(word | PAD_BIT).is_err());
        assert!(split_first_word(0).is_err());
    }

    #[test]
    fn plain_path_takes_requests_and_replies_and_leaves_the_rest() {
        let body = [7, 0, 0, 0, 0, 0, 0, 0, b'h', b'i'];
        for kind in Kind::ALL {
            for flags in 0..=255 {
                let tag = Tag {
                    kind,
                    flags: Flags::from_bits(flags),
                    method: 3,
                };
                let plain = decode_plain(tag.to_bits(), &body);
                if flags == 0 && matches!(kind, Kind::Request | Kind::Reply) {
                    let call = PlainCall {
                        kind,
                        method: 3,
                        request_id: 7,
                        payload: b"hi",
                    };
                    assert_eq!(plain, Some(call));
                } else {
                    assert_eq!(plain, None);
                }
            }
        }
        assert_eq!(decode_plain(Tag::request(3).to_bits(), &body[..7]), None);
        assert_eq!(
            decode(Tag::request(3).to_bits(), &body[..7]),
            Err(FrameError::Truncated {
                kind: Kind::Request,
                needed: 8,
                got: 7
            })
        );
    }

    #[test]
    fn extensions_stand_in_their_fixed_order() {
        let header = Header {
            fragment: Fragment::First { total: 0x22 },
            deadline_ns: Some(0x33),
            trace: Some(TraceContext {
                version: 0x44,
                trace_id: [0x55; 16],
                parent_id: [0x66; 8],
                flags: 0x77,
            }),
            one_way: true,
            ..Header::request(9, 0x11)
        };
        let encoded = encode_header(&header, 5).unwrap();
        let mut expected = vec![0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0x33, 0, 0, 0, 0, 0, 0, 0, 0x44]);
        expected.extend([0x55; 16]);
        expected.extend([0x66; 8]);
        expected.extend([0x77, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encoded.prefix(), expected);
        assert_eq!(encoded.prefix().len(), MAX_PREFIX_LEN);
        assert_eq!(encoded.body_len(), MAX_PREFIX_LEN + 5);
        assert_eq!(encoded.tag_bits(), 0x0009_3d01);
    }

    #[test]
    fn payloads_of_the_wrong_size_are_named_with_numbers() {
        let credit = Tag::of(Kind::Credit).to_bits();
        assert_eq!(
            decode(credit, &[0; 11]),
            Err(FrameError::Truncated {
                kind: Kind::Credit,
                needed: 12,
                got: 11
            })
        );
        assert_eq!(
            decode(credit, &[0; 13]),
            Err(FrameError::Trailing {
                kind: Kind::Credit,
                expected: 12,
                got: 13
            })
        );
        let finish = Tag::of(Kind::Finish).to_bits();
        assert!(decode(finish, &[]).is_ok());
        assert_eq!(
            decode(finish, &[1]),
            Err(FrameError::Trailing {
                kind: Kind::Finish,
                expected: 0,
                got: 1
            })
        );
        let bytes = Tag::of(Kind::Bytes).to_bits();
        assert_eq!(
            decode(bytes, &[]),
            Err(FrameError::Truncated {
                kind: Kind::Bytes,
                needed: 1,
                got: 0
            })
        );
        assert_eq!(
            encode_header(&Header::reply(1), MAX_BODY_LEN).unwrap_err(),
            FrameError::BodyTooLong {
                body_len: MAX_BODY_LEN + 8,
                max: MAX_BODY_LEN
            }
        );
        assert!(encode_header(&Header::reply(1), usize::MAX).is_err());
    }

    #[test]
    fn contradicting_flags_are_refused_by_both_ends() {
        let one_way_stream = Header {
            one_way: true,
            client_stream: true,
            ..Header::request(0, 1)
        };
        assert_eq!(
            encode_header(&one_way_stream, 0).unwrap_err(),
            FrameError::FlagsContradict {
                kind: Kind::Request,
                flags: 0x60
            }
        );
        assert_eq!(
            decode(one_way_stream.tag().to_bits(), &[0; 64]),
            Err(FrameError::FlagsContradict {
                kind: Kind::Request,
                flags: 0x60
            })
        );
        let late_deadline = Header {
            deadline_ns: Some(1),
            fragment: Fragment::Last,
            ..Header::request(0, 1)
        };
        assert_eq!(
            encode_header(&late_deadline, 1).unwrap_err(),
            FrameError::FlagsContradict {
                kind: Kind::Request,
                flags: 0x0a
            }
        );
        let reply = Header {
            deadline_ns: Some(1),
            ..Header::reply(1)
        };
        assert_eq!(
            encode_header(&reply, 1).unwrap_err(),
            FrameError::FlagNotAllowed {
                kind: Kind::Reply,
                flags: 0x08,
                allowed: 0x07
            }
        );
    }

    #[test]
    fn values_of_small_frames_are_read_from_their_own_kind_only() {
        let credit = decode(
            Tag::of(Kind::Credit).to_bits(),
            &[1, 0, 0, 0, 0, 0, 0, 0, 5, 1, 0, 0],
        );
        assert_eq!(credit.unwrap().credits(), Some(261));
        assert_eq!(credit.unwrap().ping_value(), None);
        let ping = decode(Tag::of(Kind::Ping).to_bits(), &[2, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(ping.ping_value(), Some(0x0100_0000_0000_0002));
        assert_eq!(ping.credits(), None);
    }
}
