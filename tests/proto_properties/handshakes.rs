use std::sync::Arc;

use nearwire::proto::handshake::*;
use nearwire::proto::mode::Mode;
use proptest::prelude::*;
use proptest::sample::Index;

/// Names as peers may give them: no control characters.
fn name(max: usize) -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{0,64}".prop_map(move |mut name| {
        while name.len() > max {
            name.pop();
        }
        name
    })
}

fn versions() -> impl Strategy<Value = VersionRange> {
    (1u16..9, 0u16..4).prop_map(|(min, more)| VersionRange {
        min,
        max: min + more,
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(Mode::ALL.to_vec())
}

prop_compose! {
    fn hello()(
        versions in versions(),
        mode in mode(),
        features_offered in 0u64..16,
        required in 0u64..16,
        layout_hash in 0u64..2,
        ring_to_server in 0u32..32,
        ring_to_client in 0u32..32,
        max_message: u64,
        pid: u32,
        stream_credits: u32,
        label in name(MAX_LABEL),
    ) -> Hello {
        Hello {
            versions,
            mode,
            features_offered,
            // Often nothing, so that many negotiations succeed.
            features_required: features_offered & required & (required << 1),
            layout_hash,
            ring_to_server: 1 << ring_to_server,
            ring_to_client: 1 << ring_to_client,
            max_message,
            pid,
            stream_credits,
            label,
        }
    }
}

prop_compose! {
    fn policy()(
        versions in versions(),
        modes in prop::collection::vec(mode(), 1..4),
        features_supported in 0u64..16,
        required in 0u64..16,
        layout_hash in 0u64..2,
        ring_min: u32,
        ring_max: u32,
    ) -> ServerPolicy {
        ServerPolicy {
            versions,
            modes,
            features_supported,
            features_required: features_supported & required & (required << 1),
            layout_hash,
            ring_min,
            ring_max,
        }
    }
}

prop_compose! {
    fn method()(shape in 0u8..4, name in name(MAX_METHOD_NAME)) -> Method {
        let name = if name.is_empty() { "m".into() } else { name.into_boxed_str() };
        Method { shape: CallShape::from_u8(shape).unwrap(), name }
    }
}

prop_compose! {
    fn welcome()(
        version: u16,
        max_in_flight: u32,
        features: u64,
        ring_to_server: u32,
        ring_to_client: u32,
        (server_segment_len, client_segment_len) in any::<(u64, u64)>(),
        (max_message, connection_id) in any::<(u64, u64)>(),
        stream_credits: u32,
        label in name(MAX_LABEL),
        methods in prop::collection::vec(method(), 0..6),
    ) -> Welcome {
        Welcome {
            version,
            max_in_flight,
            features,
            ring_to_server,
            ring_to_client,
            server_segment_len,
            client_segment_len,
            max_message,
            connection_id,
            stream_credits,
            label,
            methods: methods.into(),
        }
    }
}

fn offer() -> Offer {
    Offer {
        max_in_flight: 1,
        server_segment_len: 1 << 40,
        client_segment_len: 1 << 40,
        max_message: 1,
        connection_id: 7,
        stream_credits: 3,
        label: "server".into(),
        methods: Arc::new([Method {
            shape: CallShape::Unary,
            name: "hash".into(),
        }]),
    }
}

const LIMITS: ClientLimits = ClientLimits {
    max_ring: 1 << 31,
    max_segment_len: 1 << 40,
};

fn body(message: &[u8]) -> &[u8] {
    &message[ENVELOPE_LEN..]
}

/// Checks that a body decodes to what was encoded, also with bytes of a later version after it,
/// and that none of its beginnings decodes.
fn check_body<T: PartialEq + std::fmt::Debug>(
    value: &T,
    message: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, HandshakeError>,
) -> Result<(), TestCaseError> {
    let body = body(message);
    prop_assert_eq!(&decode(body)?, value);
    let longer = [body, b"\0later fields\xff"].concat();
    prop_assert_eq!(&decode(&longer)?, value);
    for len in 0..body.len() {
        match decode(&body[..len]) {
            Err(HandshakeError::Truncated { got, needed, .. }) => {
                prop_assert!(got == len && needed > len && needed <= body.len());
            }
            // A text cut within a character cannot be: its length is checked first.
            other => prop_assert!(false, "{} of {} bytes: {:?}", len, body.len(), other),
        }
    }
    Ok(())
}

/// Cuts bytes at arbitrary points.
fn chunks<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

proptest! {
    #[test]
    fn hellos_come_back_as_they_went(hello in hello()) {
        check_body(&hello, &hello.encode().unwrap(), Hello::decode)?;
        let versions = Hello::decode_versions(body(&hello.encode().unwrap()));
        prop_assert_eq!(versions, Ok(hello.versions));
    }

    #[test]
    fn welcomes_come_back_as_they_went(welcome in welcome()) {
        check_body(&welcome, &welcome.encode().unwrap(), Welcome::decode)?;
    }

    #[test]
    fn accepts_come_back_as_they_went(segment_len: u64) {
        let accept = Accept { segment_len };
        check_body(&accept, &accept.encode(), Accept::decode)?;
    }

    #[test]
    fn rejects_and_closes_come_back_as_they_went(
        code: u16,
        versions in versions(),
        text in "[^\\p{Cc}]{0,100}",
    ) {
        let reject = Reject { code: RejectCode::from_u16(code), versions, text: text.clone() };
        prop_assert_eq!(reject.code.to_u16(), code);
        check_body(&reject, &reject.encode(), Reject::decode)?;
        let close = Close { code: CloseCode::from_u16(code), text };
        prop_assert_eq!(close.code.to_u16(), code);
        check_body(&close, &close.encode(), Close::decode)?;
    }

    #[test]
    fn messages_are_found_however_the_stream_is_cut(
        hello in hello(),
        welcome in welcome(),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let hello = hello.encode().unwrap();
        let welcome = welcome.encode().unwrap();
        let ready = Ready { over_socket: false }.encode();
        let close = Close { code: CloseCode::Idle, text: "idle".into() }.encode();
        let all = [hello.as_slice(), &ready, &close].concat();
        let mut reader = MessageReader::new();
        let mut found = Vec::new();
        for chunk in chunks(&all, &cuts) {
            let mut next = reader.receive(chunk, 0).unwrap();
            while let Some(message) = next {
                found.push((message.kind(), message.body().to_vec()));
                next = reader.receive(&[], 0).unwrap();
            }
        }
        let sent = [
            (MessageKind::Hello, body(&hello).to_vec()),
            (MessageKind::Ready, vec![]),
            (MessageKind::Close, body(&close).to_vec()),
        ];
        prop_assert_eq!(found, sent);
        prop_assert!(!reader.is_mid_message());

        // Descriptors come with the first byte of their message.
        let mut found = 0;
        for (index, chunk) in chunks(&welcome, &cuts).into_iter().enumerate() {
            let descriptors = if index == 0 { 2 } else { 0 };
            found += usize::from(reader.receive(chunk, descriptors).unwrap().is_some());
        }
        prop_assert_eq!(found, 1);
    }

    #[test]
    fn whole_handshakes_survive_any_cutting(
        hello in hello(),
        cuts in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let policy = ServerPolicy {
            versions: hello.versions,
            modes: Mode::ALL.to_vec(),
            features_supported: hello.features_offered,
            features_required: hello.features_required,
            layout_hash: hello.layout_hash,
            ring_min: 1,
            ring_max: u32::MAX,
        };
        let mut client = ClientHandshake::new(hello.clone(), LIMITS).unwrap();
        let mut server = ServerHandshake::new(Arc::new(policy));

        let first = client.hello().to_vec();
        let steps = deliver(&first, &cuts, 0, |bytes, n| server.receive(bytes, n));
        let [ServerStep::Hello(agreed)] = &steps[..] else { panic!("{steps:?}") };
        prop_assert_eq!(agreed.version, hello.versions.max);
        prop_assert_eq!(agreed.ring_to_server, hello.ring_to_server);
        prop_assert_eq!(agreed.ring_to_client, hello.ring_to_client);

        let welcome = server.welcome(&offer()).unwrap();
        let steps = deliver(&welcome, &cuts, 2, |bytes, n| client.receive(bytes, n));
        let [ClientStep::Welcome(terms)] = &steps[..] else { panic!("{steps:?}") };
        prop_assert_eq!(terms.methods.is_empty(), hello.mode != Mode::Calls);

        let accept = client.accept(1 << 40).unwrap();
        let steps = deliver(&accept, &cuts, 2, |bytes, n| server.receive(bytes, n));
        prop_assert_eq!(steps, [ServerStep::Accepted { segment_len: 1 << 40 }]);
        let ready = server.ready().unwrap();
        let steps = deliver(&ready, &cuts, 0, |bytes, n| client.receive(bytes, n));
        prop_assert_eq!(steps, [ClientStep::Ready]);
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_are_survived(
        kind in 0u16..9,
        flags: u16,
        len in prop_oneof![0u32..200, any::<u32>()],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        descriptors in 0usize..4,
    ) {
        let envelope = [
            MAGIC.as_slice(),
            &kind.to_le_bytes(),
            &flags.to_le_bytes(),
            &len.to_le_bytes(),
            &bytes,
        ]
        .concat();
        feed_everyone(&envelope, descriptors)?;
    }

    #[test]
    fn arbitrary_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        descriptors in 0usize..4,
    ) {
        feed_everyone(&bytes, descriptors)?;
    }

    #[test]
    fn spoilt_messages_are_survived(
        hello in hello(),
        welcome in welcome(),
        spoilt in prop::collection::vec((any::<Index>(), any::<u8>()), 1..5),
    ) {
        for (message, descriptors) in [(hello.encode().unwrap(), 0), (welcome.encode().unwrap(), 2)] {
            let mut message = message;
            for (at, byte) in &spoilt {
                let at = at.index(message.len());
                message[at] = *byte;
            }
            feed_everyone(&message, descriptors)?;
        }
    }

    #[test]
    fn a_negotiation_grants_what_both_sides_want(hello in hello(), policy in policy()) {
        let (theirs, ours) = (hello.versions, policy.versions);
        let common = (1..=20).rev().find(|v| theirs.contains(*v) && ours.contains(*v));
        let features = hello.features_offered & policy.features_supported;
        let met = |required| required & features == required;
        let features_met = met(hello.features_required) && met(policy.features_required);
        let expected = if common.is_none() {
            Err(RejectCode::Version)
        } else if !features_met {
            Err(RejectCode::Features)
        } else if hello.layout_hash != policy.layout_hash {
            Err(RejectCode::Layout)
        } else if !policy.modes.contains(&hello.mode) {
            Err(RejectCode::Mode)
        } else {
            Ok(())
        };
        let result = negotiate(&hello, &policy);
        prop_assert_eq!(result.as_ref().map(|_| ()).map_err(|reject| reject.code), expected);
        match result {
            Ok(agreed) => {
                prop_assert_eq!(Some(agreed.version), common);
                prop_assert_eq!(agreed.features, features);
                prop_assert_eq!(agreed.mode, hello.mode);
            }
            Err(reject) => {
                prop_assert_eq!(reject.versions, ours);
                prop_assert!(!reject.text.is_empty() && reject.text.len() <= MAX_REASON);
                if reject.code == RejectCode::Version {
                    prop_assert!(reject.text.contains(&theirs.to_string()));
                    prop_assert!(reject.text.contains(&ours.to_string()));
                }
            }
        }
    }

    #[test]
    fn granted_rings_are_powers_of_two_within_the_policy(
        wish in 0u32..32,
        min in 0u32..32,
        more in 0u32..32,
        crooked in 0u32..3,
    ) {
        let (low, high) = (1u32 << min, 1u32 << (min + more).min(31));
        let hello = Hello { ring_to_server: 1 << wish, ..plain_hello() };
        let policy = ServerPolicy {
            // Limits that are no powers of two are drawn inwards.
            ring_min: if min >= 2 { low - crooked.min(1) } else { low },
            ring_max: if high > 2 { high.saturating_add(crooked) } else { high },
            ..open_policy()
        };
        let granted = negotiate(&hello, &policy).unwrap().ring_to_server;
        prop_assert_eq!(granted, (1u32 << wish).clamp(low, high));
    }

    #[test]
    fn absurd_limits_still_grant_a_power_of_two(wish in 0u32..32, ring_min: u32, ring_max: u32) {
        let hello = Hello { ring_to_client: 1 << wish, ..plain_hello() };
        let policy = ServerPolicy { ring_min, ring_max, ..open_policy() };
        let granted = negotiate(&hello, &policy).unwrap().ring_to_client;
        prop_assert!(granted.is_power_of_two());
        prop_assert!(granted <= ring_max.max(1), "the upper limit is never exceeded");
    }

    #[test]
    fn a_client_accepts_what_the_server_grants_or_hears_why_not(
        hello in hello(),
        policy in policy(),
    ) {
        let mut client = ClientHandshake::new(hello, LIMITS).unwrap();
        let mut server = ServerHandshake::new(Arc::new(policy));
        match server.receive(client.hello(), 0) {
            Ok(_) => {
                let welcome = server.welcome(&offer()).unwrap();
                let step = client.receive(&welcome, 2);
                prop_assert!(matches!(step, Ok(ClientStep::Welcome(_))), "{:?}", step);
            }
            Err(error) => {
                let refusal = server.refusal(&error).unwrap();
                let heard = client.receive(&refusal, 0).unwrap_err();
                let understood = matches!(
                    heard,
                    HandshakeError::Rejected(_) | HandshakeError::VersionMismatch { .. }
                );
                prop_assert!(understood, "{:?}", heard);
            }
        }
    }
}

fn plain_hello() -> Hello {
    Hello {
        versions: VERSIONS,
        mode: Mode::Calls,
        features_offered: 0,
        features_required: 0,
        layout_hash: 0,
        ring_to_server: 1,
        ring_to_client: 1,
        max_message: 0,
        pid: 0,
        stream_credits: 0,
        label: String::new(),
    }
}

fn open_policy() -> ServerPolicy {
    ServerPolicy {
        versions: VERSIONS,
        modes: Mode::ALL.to_vec(),
        features_supported: 0,
        features_required: 0,
        layout_hash: 0,
        ring_min: 1,
        ring_max: u32::MAX,
    }
}

/// Delivers a message in pieces; returns the steps other than "need more". Panics on errors.
fn deliver<S: PartialEq + std::fmt::Debug + NeedsMore>(
    message: &[u8],
    cuts: &[Index],
    descriptors: usize,
    mut receive: impl FnMut(&[u8], usize) -> Result<S, HandshakeError>,
) -> Vec<S> {
    let mut steps = Vec::new();
    let pieces = chunks(message, cuts)
        .into_iter()
        .filter(|piece| !piece.is_empty());
    for (index, piece) in pieces.enumerate() {
        let step = receive(piece, if index == 0 { descriptors } else { 0 }).unwrap();
        if !step.needs_more() {
            steps.push(step);
        }
    }
    steps
}

trait NeedsMore {
    fn needs_more(&self) -> bool;
}

impl NeedsMore for ClientStep {
    fn needs_more(&self) -> bool {
        *self == ClientStep::NeedMore
    }
}

impl NeedsMore for ServerStep {
    fn needs_more(&self) -> bool {
        *self == ServerStep::NeedMore
    }
}

/// Gives the bytes to every machine in every state that reads. None may panic; errors must have a
/// text, and a refusal that the other side can decode.
fn feed_everyone(bytes: &[u8], descriptors: usize) -> Result<(), TestCaseError> {
    let policy = Arc::new(open_policy());
    let mut reader = MessageReader::new();
    if let Ok(Some(message)) = reader.receive(bytes, descriptors) {
        prop_assert!(message.body().len() <= message.kind().max_body());
        prop_assert_eq!(message.descriptors(), descriptors);
        prop_assert!(descriptors == 0 || descriptors == message.kind().descriptors());
        let body = message.body();
        let _ = (
            Hello::decode(body),
            Welcome::decode(body),
            Accept::decode(body),
        );
        let _ = (Reject::decode(body), Close::decode(body));
    }

    let mut server = ServerHandshake::new(Arc::clone(&policy));
    let mut client = ClientHandshake::new(plain_hello(), LIMITS).unwrap();
    let greeting = client.hello().to_vec();
    if let Err(error) = client.receive(bytes, descriptors) {
        prop_assert!(!error.to_string().is_empty());
    }
    for greeted in [false, true] {
        if greeted {
            server = ServerHandshake::new(Arc::clone(&policy));
            server.receive(&greeting, 0).unwrap();
            let welcome = server.welcome(&offer()).unwrap();
            client = ClientHandshake::new(plain_hello(), LIMITS).unwrap();
            client.receive(&welcome, 2).unwrap();
            client.accept(offer().client_segment_len).unwrap();
            if let Err(error) = client.receive(bytes, descriptors) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
        if let Err(error) = server.receive(bytes, descriptors) {
            prop_assert!(!error.to_string().is_empty());
            if let Some(refusal) = server.refusal(&error) {
                prop_assert!(Reject::decode(body(&refusal)).is_ok());
            }
        }
    }
    Ok(())
}
