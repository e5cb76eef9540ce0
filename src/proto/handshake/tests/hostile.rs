//! What a peer may get wrong, by mistake or on purpose.

use super::*;

#[test]
fn descriptors_are_counted_exactly() {
    let count = |message, expected, got| HandshakeError::Descriptors {
        message,
        expected,
        got,
    };
    let (client, mut server) = pair(hello(), policy());
    assert_eq!(
        server.receive(client.hello(), 1),
        Err(count(MessageKind::Hello, 0, 1))
    );

    for got in [0, 1, 3, usize::MAX] {
        let (mut client, mut server, _) = greeted();
        let welcome = server.welcome(&offer()).unwrap();
        assert_eq!(
            client.receive(&welcome, got),
            Err(count(MessageKind::Welcome, 2, got))
        );

        let (mut client, mut server, _) = greeted();
        client
            .receive(&server.welcome(&offer()).unwrap(), 2)
            .unwrap();
        let accept = client.accept(offer().client_segment_len).unwrap();
        let error = server.receive(&accept, got).unwrap_err();
        assert_eq!(error, count(MessageKind::Accept, 2, got));
        assert!(server.refusal(&error).is_some());
    }
    let mut server = ServerHandshake::new(Arc::new(policy()));
    assert_eq!(
        server.receive(b"NEAR", 3),
        Err(HandshakeError::StrayDescriptors { got: 3 }),
        "known before the message is"
    );
}

#[test]
fn a_stranger_is_recognised_at_its_first_byte_and_gets_no_answer() {
    let mut server = ServerHandshake::new(Arc::new(policy()));
    assert_eq!(server.receive(b"", 0), Ok(ServerStep::NeedMore));
    assert_eq!(server.receive(b"NE", 0), Ok(ServerStep::NeedMore));
    let error = server.receive(b"T / HTTP/1.1\r\n", 0).unwrap_err();
    assert_eq!(
        error,
        HandshakeError::NotNearwire {
            first: b"NET / HT".to_vec()
        }
    );
    assert_eq!(server.refusal(&error), None);
}

#[test]
fn announced_lengths_and_kinds_are_refused_before_the_body_comes() {
    let envelope = |kind: u16, len: u32| {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(len.to_le_bytes());
        bytes
    };
    let mut server = ServerHandshake::new(Arc::new(policy()));
    assert_eq!(
        server.receive(&envelope(1, 8193), 0),
        Err(HandshakeError::BodyTooLong {
            message: MessageKind::Hello,
            body_len: 8193,
            max: 8192
        })
    );
    let mut client = ClientHandshake::new(hello(), LIMITS).unwrap();
    let error = client.receive(&envelope(2, (1 << 20) + 1), 2).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::BodyTooLong {
            max: MAX_CONTROL_BODY,
            ..
        }
    ));
    let mut server = ServerHandshake::new(Arc::new(policy()));
    let error = server.receive(&envelope(9, 0), 0).unwrap_err();
    assert_eq!(error, HandshakeError::UnknownMessage { kind: 9 });
    let mut server = ServerHandshake::new(Arc::new(policy()));
    let error = server.receive(&envelope(4, 0), 0).unwrap_err();
    let (expected, got) = (MessageKind::Hello, MessageKind::Ready);
    assert_eq!(error, HandshakeError::OutOfOrder { expected, got });
}

#[test]
fn an_unknown_mode_is_refused_as_a_mode() {
    let (mut client, mut server) = pair(hello(), policy());
    let mut bytes = client.hello().to_vec();
    bytes[ENVELOPE_LEN + 4] = 77;
    let error = server.receive(&bytes, 0).unwrap_err();
    assert_eq!(error, HandshakeError::UnknownMode { mode: 77 });
    let refusal = server.refusal(&error).unwrap();
    let Err(HandshakeError::Rejected(reject)) = client.receive(&refusal, 0) else {
        panic!()
    };
    assert_eq!(reject.code, RejectCode::Mode);
}

#[test]
fn a_client_checks_what_it_is_granted() {
    let granted = Welcome {
        version: 1,
        max_in_flight: 1,
        features: 0b0110,
        ring_to_server: 1 << 16,
        ring_to_client: 1 << 17,
        server_segment_len: 1 << 18,
        client_segment_len: 1 << 17,
        max_message: 0,
        connection_id: 0,
        stream_credits: 0,
        label: String::new(),
        methods: Arc::new([]),
    };
    let answer = |welcome: &Welcome| {
        let mut client = ClientHandshake::new(hello(), LIMITS).unwrap();
        client.receive(&welcome.encode().unwrap(), 2)
    };
    assert_eq!(answer(&granted), Ok(ClientStep::Welcome(granted.clone())));
    let bad = [
        (
            "version",
            Welcome {
                version: 2,
                ..granted.clone()
            },
        ),
        (
            "features",
            Welcome {
                features: 0b0011,
                ..granted.clone()
            },
        ),
        (
            "features",
            Welcome {
                features: 0b0100,
                ..granted.clone()
            },
        ),
        (
            "ring_to_server",
            Welcome {
                ring_to_server: 0,
                ..granted.clone()
            },
        ),
        (
            "ring_to_client",
            Welcome {
                ring_to_client: 12345,
                ..granted.clone()
            },
        ),
        (
            "ring_to_server",
            Welcome {
                ring_to_server: 1 << 21,
                ..granted.clone()
            },
        ),
        (
            "ring_to_client",
            Welcome {
                ring_to_client: 1 << 21,
                ..granted.clone()
            },
        ),
        (
            "server_segment_len",
            Welcome {
                server_segment_len: 1 << 16,
                ..granted.clone()
            },
        ),
        (
            "server_segment_len",
            Welcome {
                server_segment_len: u64::MAX,
                ..granted.clone()
            },
        ),
        (
            "client_segment_len",
            Welcome {
                client_segment_len: 1 << 15,
                ..granted.clone()
            },
        ),
        (
            "client_segment_len",
            Welcome {
                client_segment_len: 1 << 23,
                ..granted.clone()
            },
        ),
        (
            "max_in_flight",
            Welcome {
                max_in_flight: 0,
                ..granted.clone()
            },
        ),
    ];
    for (expected, welcome) in bad {
        match answer(&welcome) {
            Err(HandshakeError::Unacceptable { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn names_that_would_spoil_logs_are_refused_by_both_ends() {
    let label = |label: &str| {
        Hello {
            label: label.into(),
            ..hello()
        }
        .encode()
    };
    assert!(label(&"é".repeat(32)).is_ok());
    assert!(matches!(
        label(&"é".repeat(33)),
        Err(HandshakeError::FieldTooLong { len: 66, .. })
    ));
    assert!(matches!(
        label("a\nb"),
        Err(HandshakeError::BadField { field: "label", .. })
    ));
    let mut body = hello().encode().unwrap().split_off(ENVELOPE_LEN);
    *body.last_mut().unwrap() = 0x1b;
    assert!(matches!(
        Hello::decode(&body),
        Err(HandshakeError::BadField { .. })
    ));
    *body.last_mut().unwrap() = 0xff;
    assert!(matches!(
        Hello::decode(&body),
        Err(HandshakeError::BadField {
            rule: "must be UTF-8",
            ..
        })
    ));

    let methods = |names: &[&str]| {
        let (_, mut server, _) = greeted();
        let entry = |name: &&str| Method {
            shape: CallShape::Unary,
            name: (*name).into(),
        };
        server.welcome(&Offer {
            methods: names.iter().map(entry).collect(),
            ..offer()
        })
    };
    assert!(methods(&[&"m".repeat(255)]).is_ok());
    assert!(methods(&[&"m".repeat(256)]).is_err());
    assert!(methods(&[""]).is_err());
    let long = "m".repeat(255);
    assert!(matches!(
        methods(&vec![long.as_str(); 5000]),
        Err(HandshakeError::BodyTooLong {
            message: MessageKind::Welcome,
            ..
        })
    ));
    assert!(methods(&vec!["m"; 65_536]).is_err());
}

#[test]
fn refusal_texts_are_cut_and_defused() {
    let text = "x".repeat(5000);
    let bytes = Reject {
        code: RejectCode::Other(77),
        versions: VERSIONS,
        text,
    }
    .encode();
    let reject = Reject::decode(&bytes[ENVELOPE_LEN..]).unwrap();
    assert_eq!(
        (reject.code, reject.text.len()),
        (RejectCode::Other(77), MAX_REASON)
    );
    let bytes = Close {
        code: CloseCode::Other(300),
        text: "a\x1b[2J".into(),
    }
    .encode();
    let close = Close::decode(&bytes[ENVELOPE_LEN..]).unwrap();
    assert_eq!(
        (close.code, close.text.as_str()),
        (CloseCode::Other(300), "a\u{fffd}[2J")
    );
    for code in RejectCode::ALL {
        assert_eq!(RejectCode::from_u16(code.to_u16()), code);
    }
    for code in CloseCode::ALL {
        assert_eq!(CloseCode::from_u16(code.to_u16()), code);
    }
}
