use std::sync::Arc;

use super::*;
use crate::proto::mode::Mode;

mod hostile;

fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        mode: Mode::Calls,
        features_offered: 0b1110,
        features_required: 0b0010,
        layout_hash: 0xfeed,
        ring_to_server: 1 << 16,
        ring_to_client: 1 << 18,
        max_message: 1 << 20,
        pid: 4711,
        stream_credits: 16,
        label: "client".into(),
    }
}

fn policy() -> ServerPolicy {
    ServerPolicy {
        versions: VERSIONS,
        modes: vec![Mode::Calls, Mode::Bytes],
        features_supported: 0b0111,
        features_required: 0b0100,
        layout_hash: 0xfeed,
        ring_min: 1 << 12,
        ring_max: 1 << 17,
    }
}

fn offer() -> Offer {
    let method = |shape, name: &str| Method {
        shape,
        name: name.into(),
    };
    Offer {
        max_in_flight: 1024,
        server_segment_len: (1 << 17) + 4096,
        client_segment_len: (1 << 16) + 4096,
        max_message: 64 << 20,
        connection_id: 99,
        stream_credits: 8,
        label: "server".into(),
        methods: Arc::new([
            method(CallShape::Unary, "hash"),
            method(CallShape::ServerStream, "tail"),
            method(CallShape::ClientStream, "upload"),
            method(CallShape::Bidirectional, "chat"),
        ]),
    }
}

const LIMITS: ClientLimits = ClientLimits {
    max_ring: 1 << 20,
    max_segment_len: 1 << 22,
};

fn pair(hello: Hello, policy: ServerPolicy) -> (ClientHandshake, ServerHandshake) {
    (
        ClientHandshake::new(hello, LIMITS).unwrap(),
        ServerHandshake::new(Arc::new(policy)),
    )
}

/// Brings both ends to the point where the server has greeted.
fn greeted() -> (ClientHandshake, ServerHandshake, Agreed) {
    let (client, mut server) = pair(hello(), policy());
    match server.receive(client.hello(), 0) {
        Ok(ServerStep::Hello(agreed)) => (client, server, agreed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_ends_arrive_with_the_same_terms() {
    let (mut client, mut server, agreed) = greeted();
    assert_eq!(agreed.version, 1);
    assert_eq!(agreed.features, 0b0110);
    assert_eq!(
        (agreed.ring_to_server, agreed.ring_to_client),
        (1 << 16, 1 << 17)
    );
    assert_eq!(
        (agreed.client_max_message, agreed.client_stream_credits),
        (1 << 20, 16)
    );
    assert_eq!(
        (agreed.client_pid, agreed.client_label.as_str()),
        (4711, "client")
    );

    let welcome = server.welcome(&offer()).unwrap();
    let Ok(ClientStep::Welcome(terms)) = client.receive(&welcome, 2) else {
        panic!()
    };
    assert_eq!(terms.version, agreed.version);
    assert_eq!(terms.features, agreed.features);
    assert_eq!(terms.ring_to_server, agreed.ring_to_server);
    assert_eq!(terms.ring_to_client, agreed.ring_to_client);
    assert_eq!(terms.methods, offer().methods);
    assert_eq!((terms.connection_id, terms.label.as_str()), (99, "server"));

    let accept = client.accept(terms.client_segment_len).unwrap();
    let step = server.receive(&accept, 2);
    assert_eq!(
        step,
        Ok(ServerStep::Accepted {
            segment_len: offer().client_segment_len
        })
    );
    let mut last = server.ready().unwrap();
    last.extend(
        Close {
            code: CloseCode::Drained,
            text: "bye".into(),
        }
        .encode(),
    );
    assert_eq!(client.receive(&last, 0), Ok(ClientStep::Ready));

    let mut reader = client.into_reader();
    let message = reader.receive(&[], 0).unwrap().unwrap();
    assert_eq!(message.kind(), MessageKind::Close);
    let close = Close::decode(message.body()).unwrap();
    assert_eq!(
        close,
        Close {
            code: CloseCode::Drained,
            text: "bye".into()
        }
    );
    assert_eq!(reader.receive(&[], 0), Ok(None));
    assert!(!reader.is_mid_message());
}

#[test]
fn a_version_mismatch_names_both_ranges_and_what_to_do_on_both_sides() {
    let newer = VersionRange { min: 2, max: 4 };
    let (mut client, mut server) = pair(
        Hello {
            versions: newer,
            ..hello()
        },
        policy(),
    );
    let error = server.receive(client.hello(), 0).unwrap_err();
    let expected = "client speaks protocol version 2 to 4, server speaks 1: update the server";
    assert_eq!(error.to_string(), expected);
    let refusal = server.refusal(&error).unwrap();
    let heard = client.receive(&refusal, 0).unwrap_err();
    assert_eq!(
        heard,
        HandshakeError::VersionMismatch {
            client: newer,
            server: VERSIONS
        }
    );
    assert_eq!(heard.to_string(), expected);

    let (mut client, mut server) = pair(
        hello(),
        ServerPolicy {
            versions: newer,
            ..policy()
        },
    );
    let error = server.receive(client.hello(), 0).unwrap_err();
    let refusal = server.refusal(&error).unwrap();
    let heard = client.receive(&refusal, 0).unwrap_err();
    let expected = "client speaks protocol version 1, server speaks 2 to 4: update the client";
    assert_eq!(heard.to_string(), expected);
}

#[test]
fn the_versions_are_understood_in_a_hello_of_any_other_version() {
    let mut server = ServerHandshake::new(Arc::new(policy()));
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0, 0xff, 0xff, 5, 0, 0, 0]);
    bytes.extend([7, 0, 9, 0, 0xaa]);
    let error = server.receive(&bytes, 0).unwrap_err();
    let client = VersionRange { min: 7, max: 9 };
    assert_eq!(
        error,
        HandshakeError::VersionMismatch {
            client,
            server: VERSIONS
        }
    );
}

#[test]
fn every_refusal_has_its_code_and_reaches_the_client() {
    let cases = [
        (
            Hello {
                features_required: 0b1000,
                ..hello()
            },
            RejectCode::Features,
            "0x8",
        ),
        (
            Hello {
                features_offered: 0b0010,
                ..hello()
            },
            RejectCode::Features,
            "server requires features 0x4",
        ),
        (
            Hello {
                layout_hash: 0xbeef,
                ..hello()
            },
            RejectCode::Layout,
            "0x000000000000beef",
        ),
        (
            Hello {
                mode: Mode::Messages,
                ..hello()
            },
            RejectCode::Mode,
            "Messages",
        ),
    ];
    for (hello, code, part) in cases {
        let (mut client, mut server) = pair(hello, policy());
        let error = server.receive(client.hello(), 0).unwrap_err();
        let refusal = server.refusal(&error).unwrap();
        let Err(HandshakeError::Rejected(reject)) = client.receive(&refusal, 0) else {
            panic!()
        };
        assert_eq!(reject.code, code);
        assert_eq!(reject.versions, VERSIONS);
        assert!(reject.text.contains(part), "{}", reject.text);
    }
}

#[test]
fn a_server_may_reject_before_the_hello_and_after_the_accept() {
    let (mut client, mut server) = pair(hello(), policy());
    let bytes = server.reject(
        RejectCode::Limits,
        "2000 connections are open; try again later",
    );
    let Err(HandshakeError::Rejected(reject)) = client.receive(&bytes, 0) else {
        panic!()
    };
    assert!(reject.code.is_temporary());

    let (mut client, mut server, _) = greeted();
    client
        .receive(&server.welcome(&offer()).unwrap(), 2)
        .unwrap();
    let accept = client.accept(offer().client_segment_len).unwrap();
    server.receive(&accept, 2).unwrap();
    let bytes = server.reject(RejectCode::Segment, "the segment is not sealed");
    let Err(HandshakeError::Rejected(reject)) = client.receive(&bytes, 0) else {
        panic!()
    };
    assert_eq!(reject.code, RejectCode::Segment);
    assert!(matches!(server.ready(), Err(HandshakeError::Misuse { .. })));
}

#[test]
fn a_segment_of_another_length_is_refused_by_both_ends() {
    let (mut client, mut server, _) = greeted();
    client
        .receive(&server.welcome(&offer()).unwrap(), 2)
        .unwrap();
    let expected = offer().client_segment_len;
    let error = HandshakeError::SegmentLength { expected, got: 1 };
    assert_eq!(client.accept(1), Err(error.clone()));
    assert_eq!(
        server.receive(&Accept { segment_len: 1 }.encode(), 2),
        Err(error.clone())
    );
    let refusal = server.refusal(&error).unwrap();
    assert_eq!(
        Reject::decode(&refusal[ENVELOPE_LEN..]).unwrap().code,
        RejectCode::Segment
    );
}

#[test]
fn calls_out_of_turn_and_after_an_error_are_named() {
    let misuse = |call| HandshakeError::Misuse { call };
    let (mut client, mut server) = pair(hello(), policy());
    assert_eq!(client.accept(0), Err(misuse("ClientHandshake::accept")));
    assert_eq!(
        server.welcome(&offer()),
        Err(misuse("ServerHandshake::welcome"))
    );
    assert_eq!(server.ready(), Err(misuse("ServerHandshake::ready")));
    server.receive(client.hello(), 0).unwrap();
    assert_eq!(
        server.receive(b"", 0),
        Err(misuse("ServerHandshake::receive"))
    );
    assert!(client.receive(b"x", 0).is_err());
    assert_eq!(
        client.receive(b"", 0),
        Err(misuse("ClientHandshake::receive"))
    );
}

#[test]
fn only_calls_have_a_method_table() {
    let bytes_mode = Hello {
        mode: Mode::Bytes,
        ..hello()
    };
    let (mut client, mut server) = pair(bytes_mode.clone(), policy());
    server.receive(client.hello(), 0).unwrap();
    let welcome = server.welcome(&offer()).unwrap();
    let Ok(ClientStep::Welcome(terms)) = client.receive(&welcome, 2) else {
        panic!()
    };
    assert!(terms.methods.is_empty());

    let (_, mut server, _) = greeted();
    let with_methods = server.welcome(&offer()).unwrap();
    let mut client = ClientHandshake::new(bytes_mode, LIMITS).unwrap();
    let error = client.receive(&with_methods, 2).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Unacceptable {
            field: "method count",
            ..
        }
    ));
}

#[test]
fn the_end_of_the_socket_says_what_was_missing() {
    let (mut client, mut server) = pair(hello(), policy());
    let gone = |waiting_for| HandshakeError::Disconnected { waiting_for };
    assert_eq!(client.end_of_file(), gone(MessageKind::Welcome));
    assert_eq!(server.end_of_file(), gone(MessageKind::Hello));
    let (mut client, mut server, _) = greeted();
    client
        .receive(&server.welcome(&offer()).unwrap(), 2)
        .unwrap();
    assert_eq!(server.end_of_file(), gone(MessageKind::Accept));
    assert_eq!(client.end_of_file(), gone(MessageKind::Ready));
}

#[test]
fn a_client_that_changes_its_mind_is_heard() {
    let (mut client, mut server, _) = greeted();
    client
        .receive(&server.welcome(&offer()).unwrap(), 2)
        .unwrap();
    let close = Close {
        code: CloseCode::Unacceptable,
        text: "the segment is not sealed".into(),
    };
    let error = server.receive(&client.close(&close), 0).unwrap_err();
    assert_eq!(error, HandshakeError::Closed(close));
    assert_eq!(server.refusal(&error), None);
}

#[test]
fn a_request_queue_comes_with_the_welcome_where_it_was_agreed_on() {
    let ends = |offered: u64, required: u64, supported: u64, demanded: u64| {
        let client = Hello {
            features_offered: hello().features_offered | offered,
            features_required: hello().features_required | required,
            ..hello()
        };
        let server = ServerPolicy {
            features_supported: policy().features_supported | supported,
            features_required: policy().features_required | demanded,
            ..policy()
        };
        let (client, mut server) = pair(client, server);
        let step = server.receive(client.hello(), 0);
        (client, server, step)
    };
    const MPMC: u64 = FEATURE_MPMC_TRANSPORT;
    for got in [0, 1, 2, 4] {
        let (mut client, mut server, _) = ends(MPMC, 0, MPMC, 0);
        let welcome = server.welcome(&offer()).unwrap();
        let error = client.receive(&welcome, got).unwrap_err();
        assert!(
            matches!(error, HandshakeError::Descriptors { got: n, .. } if n == got),
            "{error}"
        );
    }
    let (mut client, mut server, _) = ends(MPMC, MPMC, MPMC, 0);
    let welcome = server.welcome(&offer()).unwrap();
    let step = client.receive(&welcome, 3);
    assert!(matches!(step, Ok(ClientStep::Welcome(w)) if w.features & MPMC != 0));
    let accept = client.accept(offer().client_segment_len).unwrap();
    assert!(server.receive(&accept, 2).is_ok());

    // A client that offers it may get none.
    let (mut client, mut server, _) = ends(MPMC, 0, 0, 0);
    let welcome = server.welcome(&offer()).unwrap();
    assert!(
        matches!(client.receive(&welcome, 2), Ok(ClientStep::Welcome(w)) if w.features & MPMC == 0)
    );

    for (offered, required, supported, demanded, who) in [
        (
            MPMC,
            MPMC,
            0,
            0,
            "the client takes the mpmc transport alone",
        ),
        (
            0,
            0,
            MPMC,
            MPMC,
            "the server takes the mpmc transport alone",
        ),
    ] {
        let (_, _, step) = ends(offered, required, supported, demanded);
        let error = step.unwrap_err();
        assert!(error.to_string().contains(who), "{error}");
    }
}
