use super::*;

fn header(kind: Kind, request_id: u64, fragment: Fragment) -> Header {
    Header {
        fragment,
        ..Header::new(kind, request_id)
    }
}

fn request(request_id: u64, fragment: Fragment) -> Header {
    header(Kind::Request, request_id, fragment)
}

fn push<'a>(
    reassembly: &mut Reassembly,
    header: Header,
    payload: &'a [u8],
) -> Result<Option<Message<'a>>, ReassemblyError> {
    reassembly.push(Frame { header, payload })
}

#[test]
fn a_message_comes_together_while_others_pass() {
    let mut reassembly = Reassembly::new(100);
    let first = Header {
        method: 5,
        ..request(1, Fragment::First { total: 6 })
    };
    assert_eq!(push(&mut reassembly, first, b"ab"), Ok(None));
    assert_eq!(reassembly.in_progress().map(|h| h.request_id), Some(1));
    for (kind, id) in [
        (Kind::Request, 2),
        (Kind::Credit, 1),
        (Kind::Cancel, 2),
        (Kind::Ping, 0),
    ] {
        let passed = push(&mut reassembly, Header::new(kind, id), b"xy")
            .unwrap()
            .unwrap();
        assert!(matches!(passed.payload, Cow::Borrowed(b"xy")));
    }
    assert_eq!(
        push(&mut reassembly, request(1, Fragment::Middle), b"cd"),
        Ok(None)
    );
    let message = push(&mut reassembly, request(1, Fragment::Last), b"ef")
        .unwrap()
        .unwrap();
    assert_eq!(message.header, Header::request(5, 1));
    assert_eq!(message.payload, b"abcdef".as_slice());
    assert_eq!(reassembly.in_progress(), None);
}

#[test]
fn the_end_of_its_call_abandons_a_message() {
    let ends = [
        (Kind::Request, Kind::Cancel),
        (Kind::Reply, Kind::Error),
        (Kind::StreamItem, Kind::StreamEnd),
    ];
    for (kind, end) in ends {
        let mut reassembly = Reassembly::new(100);
        push(
            &mut reassembly,
            header(kind, 1, Fragment::First { total: 9 }),
            b"ab",
        )
        .unwrap();
        push(&mut reassembly, Header::new(end, 2), b"").unwrap();
        assert!(reassembly.in_progress().is_some());
        push(&mut reassembly, Header::new(end, 1), b"").unwrap();
        assert_eq!(reassembly.in_progress(), None);
        assert_eq!(reassembly.allocated(), 0);
    }
}

#[test]
fn every_broken_rule_has_its_name() {
    let begun = || {
        let mut reassembly = Reassembly::new(10);
        push(
            &mut reassembly,
            request(1, Fragment::First { total: 4 }),
            b"ab",
        )
        .unwrap();
        reassembly
    };
    let fresh = || Reassembly::new(10);
    let first = |total| Fragment::First { total };
    use ReassemblyError::*;
    let cases = [
        (
            fresh(),
            request(1, first(11)),
            "a",
            TooLarge {
                total: 11,
                limit: 10,
            },
        ),
        (
            fresh(),
            request(1, first(u64::MAX)),
            "a",
            TooLarge {
                total: u64::MAX,
                limit: 10,
            },
        ),
        (
            fresh(),
            request(1, Fragment::Whole),
            "01234567890",
            TooLarge {
                total: 11,
                limit: 10,
            },
        ),
        (
            fresh(),
            request(1, Fragment::Middle),
            "a",
            NotInProgress {
                kind: Kind::Request,
                request_id: 1,
            },
        ),
        (fresh(), request(1, first(1)), "", Empty { request_id: 1 }),
        (
            fresh(),
            request(1, first(1)),
            "a",
            TooLong {
                total: 1,
                received: 1,
            },
        ),
        (
            fresh(),
            request(1, first(0)),
            "a",
            TooLong {
                total: 0,
                received: 1,
            },
        ),
        (
            begun(),
            request(2, first(4)),
            "a",
            AlreadyInProgress { current: 1, new: 2 },
        ),
        (
            begun(),
            request(2, Fragment::Last),
            "cd",
            WrongMessage {
                expected_kind: Kind::Request,
                expected_id: 1,
                kind: Kind::Request,
                request_id: 2,
            },
        ),
        (
            begun(),
            header(Kind::StreamItem, 1, Fragment::Last),
            "cd",
            WrongMessage {
                expected_kind: Kind::Request,
                expected_id: 1,
                kind: Kind::StreamItem,
                request_id: 1,
            },
        ),
        (
            begun(),
            request(1, Fragment::Middle),
            "",
            Empty { request_id: 1 },
        ),
        (
            begun(),
            request(1, Fragment::Middle),
            "cd",
            TooLong {
                total: 4,
                received: 4,
            },
        ),
        (
            begun(),
            request(1, Fragment::Last),
            "cde",
            TooLong {
                total: 4,
                received: 5,
            },
        ),
        (
            begun(),
            request(1, Fragment::Last),
            "c",
            TooShort {
                total: 4,
                received: 3,
            },
        ),
        (
            begun(),
            header(Kind::StreamItem, 1, Fragment::Whole),
            "x",
            OutOfOrder {
                kind: Kind::StreamItem,
                request_id: 1,
            },
        ),
        (
            begun(),
            Header::new(Kind::Finish, 0),
            "",
            Unfinished {
                total: 4,
                received: 2,
            },
        ),
    ];
    for (mut reassembly, header, payload, error) in cases {
        assert_eq!(
            push(&mut reassembly, header, payload.as_bytes()),
            Err(error)
        );
        assert_eq!(
            reassembly.in_progress(),
            None,
            "an error frees what was gathered"
        );
    }
    let mut messages = Reassembly::new(10);
    push(&mut messages, header(Kind::Message, 0, first(4)), b"ab").unwrap();
    assert_eq!(
        push(&mut messages, Header::new(Kind::Message, 0), b"x"),
        Err(OutOfOrder {
            kind: Kind::Message,
            request_id: 0
        })
    );
}

#[test]
fn memory_follows_the_bytes_that_came_not_the_announcement() {
    let total = 64 << 20;
    let mut reassembly = Reassembly::new(total);
    let first = request(
        1,
        Fragment::First {
            total: total as u64,
        },
    );
    push(&mut reassembly, first, b"x").unwrap();
    assert_eq!(reassembly.allocated(), Reassembly::GROWTH_STEP);
    let chunk = vec![7; 50_000];
    let mut received = 1;
    for _ in 0..40 {
        push(&mut reassembly, request(1, Fragment::Middle), &chunk).unwrap();
        received += chunk.len();
        assert!(reassembly.allocated() <= (2 * received).max(Reassembly::GROWTH_STEP));
    }
    let mut small = Reassembly::new(total);
    push(&mut small, request(1, Fragment::First { total: 9 }), b"x").unwrap();
    assert_eq!(small.allocated(), 9, "never more than the whole message");
}

#[test]
fn payloads_can_be_appended_from_elsewhere_and_buffers_used_again() {
    let mut reassembly = Reassembly::new(100);
    reassembly.recycle(Vec::with_capacity(80));
    reassembly.recycle(Vec::with_capacity(10));
    assert!(reassembly.allocated() >= 80);
    let first = request(1, Fragment::First { total: 4 });
    let mut address = std::ptr::null();
    let got = reassembly.push_with(&first, 2, |data| {
        address = data.as_ptr();
        data.extend_from_slice(b"ab");
    });
    assert_eq!(got, Ok(None));
    let last = request(1, Fragment::Last);
    let got = reassembly.push_with(&last, 2, |data| data.extend_from_slice(b"cd"));
    let payload = got.unwrap().unwrap().payload.into_owned();
    assert_eq!(payload, b"abcd");
    assert_eq!(
        payload.as_ptr(),
        address,
        "the recycled buffer was used and never moved"
    );
    let whole = reassembly.push_with(&Header::reply(1), 2, |data| data.extend_from_slice(b"ef"));
    assert_eq!(whole.unwrap().unwrap().payload, b"ef".as_slice());
    let too_large = reassembly.push_with(&Header::reply(1), 101, |_| unreachable!());
    assert!(too_large.is_err());
}

#[test]
fn a_small_message_gets_no_much_larger_buffer_and_leaves_it_there() {
    let mut reassembly = Reassembly::new(100);
    assert_eq!(reassembly.take_spare(), None);
    reassembly.recycle(Vec::with_capacity(80));
    for (total, is_used) in [(39, false), (40, true)] {
        let whole = reassembly.push_with(&Header::reply(1), total, |data| data.resize(total, 7));
        let payload = whole.unwrap().unwrap().payload.into_owned();
        assert_eq!(payload.capacity() >= 80, is_used, "{total} bytes");
        let spare = reassembly.take_spare();
        assert_eq!(spare.is_some(), !is_used, "{total} bytes");
        reassembly.recycle(spare.unwrap_or_default());
    }
}

#[test]
fn a_fragment_gets_a_large_buffer_from_a_peer_that_has_filled_one() {
    let mut reassembly = Reassembly::new(100);
    let first = request(1, Fragment::First { total: 90 });
    let last = request(1, Fragment::Last);
    for has_completed in [false, true] {
        reassembly.recycle(Vec::with_capacity(95));
        let got = reassembly.push_with(&first, 1, |data| data.push(7));
        assert_eq!(got, Ok(None));
        let is_used = reassembly.take_spare().is_none();
        assert_eq!(is_used, has_completed);
        let whole = reassembly.push_with(&last, 89, |data| data.resize(90, 7));
        assert_eq!(whole.unwrap().unwrap().payload.len(), 90);
    }
}
