use nearwire::proto::fragment::fragments;
use nearwire::proto::frame::{Fragment, Frame, Header, Kind, decode, encode_header};
use nearwire::proto::reassembly::{Reassembly, ReassemblyError};
use proptest::prelude::*;
use proptest::sample::Index;

/// A frame as it travels: tag and body.
type Record = (u32, Vec<u8>);

/// A message that came through: kind, request id, payload.
type Received = (Kind, u64, Vec<u8>);

fn record(header: &Header, payload: &[u8]) -> Record {
    let encoded = encode_header(header, payload.len()).unwrap();
    (encoded.tag_bits(), [encoded.prefix(), payload].concat())
}

/// What [`Reassembly`] must do, written without regard to memory.
#[derive(Default)]
struct Model {
    partial: Option<(Kind, u64, u64, Vec<u8>)>,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Nothing,
    Message(Kind, u64, Vec<u8>),
    Violation(&'static str),
}

impl Model {
    fn push(&mut self, frame: &Frame<'_>, limit: u64) -> Outcome {
        let Header {
            kind,
            request_id: id,
            fragment,
            ..
        } = frame.header;
        let payload = frame.payload;
        let messages = [Kind::Request, Kind::Reply, Kind::StreamItem, Kind::Message];
        match fragment {
            Fragment::Whole => {
                if messages.contains(&kind) && payload.len() as u64 > limit {
                    return Outcome::Violation("TooLarge");
                }
                if let Some((current, current_id, ..)) = self.partial {
                    let same = (current == Kind::Message) == (kind as u8 >= 8) && current_id == id;
                    match kind {
                        Kind::Finish => return Outcome::Violation("Unfinished"),
                        _ if same && messages.contains(&kind) => {
                            return Outcome::Violation("OutOfOrder");
                        }
                        Kind::Cancel | Kind::Error | Kind::StreamEnd if same => {
                            self.partial = None;
                        }
                        _ => {}
                    }
                }
                return Outcome::Message(kind, id, payload.to_vec());
            }
            Fragment::First { total } => {
                if self.partial.is_some() {
                    return Outcome::Violation("AlreadyInProgress");
                }
                if total > limit {
                    return Outcome::Violation("TooLarge");
                }
                self.partial = Some((kind, id, total, Vec::new()));
            }
            Fragment::Middle | Fragment::Last => {}
        }
        let Some((current, current_id, total, mut data)) = self.partial.take() else {
            return Outcome::Violation("NotInProgress");
        };
        if (current, current_id) != (kind, id) {
            return Outcome::Violation("WrongMessage");
        }
        if payload.is_empty() {
            return Outcome::Violation("Empty");
        }
        data.extend(payload);
        match (fragment == Fragment::Last, (data.len() as u64).cmp(&total)) {
            (_, std::cmp::Ordering::Greater) => Outcome::Violation("TooLong"),
            (false, std::cmp::Ordering::Equal) => Outcome::Violation("TooLong"),
            (true, std::cmp::Ordering::Less) => Outcome::Violation("TooShort"),
            (true, std::cmp::Ordering::Equal) => Outcome::Message(kind, id, data),
            (false, std::cmp::Ordering::Less) => {
                self.partial = Some((kind, id, total, data));
                Outcome::Nothing
            }
        }
    }
}

fn name(error: &ReassemblyError) -> &'static str {
    match error {
        ReassemblyError::TooLarge { .. } => "TooLarge",
        ReassemblyError::AlreadyInProgress { .. } => "AlreadyInProgress",
        ReassemblyError::NotInProgress { .. } => "NotInProgress",
        ReassemblyError::WrongMessage { .. } => "WrongMessage",
        ReassemblyError::OutOfOrder { .. } => "OutOfOrder",
        ReassemblyError::Unfinished { .. } => "Unfinished",
        ReassemblyError::Empty { .. } => "Empty",
        ReassemblyError::TooLong { .. } => "TooLong",
        ReassemblyError::TooShort { .. } => "TooShort",
        _ => "another",
    }
}

/// Frames from a small world, so that they often continue each other.
fn small_frame() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let kinds = prop::sample::select(vec![
        Kind::Request,
        Kind::Request,
        Kind::Request,
        Kind::StreamItem,
        Kind::Message,
        Kind::Error,
        Kind::Cancel,
        Kind::Credit,
        Kind::StreamEnd,
        Kind::Finish,
        Kind::Ping,
        Kind::Bytes,
    ]);
    let fragment = prop_oneof![
        1 => Just(Fragment::Whole),
        2 => (0u64..12).prop_map(|total| Fragment::First { total }),
        2 => Just(Fragment::Middle),
        2 => Just(Fragment::Last),
    ];
    (
        kinds,
        1u64..3,
        fragment,
        prop::collection::vec(any::<u8>(), 0..5),
    )
        .prop_map(|(kind, id, fragment, payload)| {
            let id = if kind.has_request_id() { id } else { 0 };
            let fragment = if kind.may_be_fragmented() {
                fragment
            } else {
                Fragment::Whole
            };
            (
                Header {
                    fragment,
                    ..Header::new(kind, id)
                },
                payload,
            )
        })
}

/// Messages cut into frames, one after the other, with whole frames of other calls between.
fn conversation() -> impl Strategy<Value = (Vec<(u64, Vec<u8>)>, usize)> {
    let message = (1u64..1000, prop::collection::vec(any::<u8>(), 0..300));
    (prop::collection::vec(message, 1..6), 1usize..80)
}

fn cut(id: u64, message: &[u8], capacity: usize) -> Vec<Record> {
    fragments(message.len(), capacity)
        .map(|piece| {
            let header = Header {
                fragment: piece.fragment,
                ..Header::request(9, id)
            };
            record(&header, &message[piece.range])
        })
        .collect()
}

/// Pushes records until the first error.
fn receive(
    reassembly: &mut Reassembly,
    records: &[Record],
) -> (Vec<Received>, Option<ReassemblyError>) {
    let mut messages = Vec::new();
    for (tag, body) in records {
        match reassembly.push(decode(*tag, body).unwrap()) {
            Ok(Some(m)) => {
                let Header {
                    kind, request_id, ..
                } = m.header;
                messages.push((kind, request_id, m.payload.into_owned()));
            }
            Ok(None) => {}
            Err(error) => return (messages, Some(error)),
        }
    }
    (messages, None)
}

proptest! {
    #[test]
    fn pieces_cover_the_message_in_order(total in 0usize..5000, capacity in 0usize..700) {
        let pieces = fragments(total, capacity);
        prop_assert_eq!(pieces.len(), total.div_ceil(capacity.max(1)).max(1));
        let pieces: Vec<_> = pieces.collect();
        let mut at = 0;
        for (index, piece) in pieces.iter().enumerate() {
            prop_assert_eq!(piece.range.start, at);
            at = piece.range.end;
            prop_assert!(piece.range.len() <= capacity.max(1));
            let expected = match (index == 0, index + 1 == pieces.len()) {
                (true, true) => Fragment::Whole,
                (true, false) => Fragment::First { total: total as u64 },
                (false, false) => Fragment::Middle,
                (false, true) => Fragment::Last,
            };
            prop_assert_eq!(piece.fragment, expected);
        }
        prop_assert_eq!(at, total);
    }

    #[test]
    fn messages_come_through_with_others_between_their_fragments(
        (messages, capacity) in conversation(),
        between in prop::collection::vec(any::<Index>(), 0..10),
    ) {
        let mut records: Vec<Record> =
            messages.iter().flat_map(|(id, m)| cut(*id, m, capacity)).collect();
        for at in &between {
            // Ids from 1000 on belong to no fragmented message.
            records.insert(at.index(records.len() + 1), record(&Header::request(9, 1000), b"x"));
        }
        let mut reassembly = Reassembly::new(300);
        let (received, error) = receive(&mut reassembly, &records);
        prop_assert_eq!(error, None);
        let (others, received): (Vec<_>, Vec<_>) =
            received.into_iter().partition(|(_, id, _)| *id == 1000);
        let sent: Vec<_> = messages.into_iter().map(|(id, m)| (Kind::Request, id, m)).collect();
        prop_assert_eq!(received, sent);
        prop_assert_eq!(others.len(), between.len());
        prop_assert_eq!(reassembly.in_progress(), None);
    }

    #[test]
    fn a_lost_repeated_or_swapped_fragment_never_yields_another_message(
        id in 1u64..5,
        message in prop::collection::vec(any::<u8>(), 40..300),
        at: Index,
        mischief in 0..3,
    ) {
        let mut records = cut(id, &message, 20);
        let at = at.index(records.len() - 1);
        match mischief {
            0 => drop(records.remove(at)),
            1 => records.insert(at, records[at].clone()),
            _ => records.swap(0, at + 1),
        }
        let (received, error) = receive(&mut Reassembly::new(300), &records);
        prop_assert!(received.is_empty());
        prop_assert!(error.is_some());
    }

    #[test]
    fn arbitrary_frames_are_treated_as_the_model_says(
        frames in prop::collection::vec(small_frame(), 1..40),
    ) {
        let limit = 10;
        let (mut model, mut reassembly) = (Model::default(), Reassembly::new(limit));
        for (header, payload) in &frames {
            let frame = Frame { header: *header, payload };
            let expected = model.push(&frame, limit as u64);
            let got = match reassembly.push(frame) {
                Ok(None) => Outcome::Nothing,
                Ok(Some(m)) => {
                    prop_assert!(m.header.fragment.is_whole());
                    Outcome::Message(m.header.kind, m.header.request_id, m.payload.into_owned())
                }
                Err(error) => Outcome::Violation(name(&error)),
            };
            prop_assert_eq!(&got, &expected, "after {:?}", header);
            if matches!(got, Outcome::Violation(_)) {
                prop_assert_eq!(reassembly.in_progress(), None);
                // The connection would be closed; go on with a new one.
                (model, reassembly) = (Model::default(), Reassembly::new(limit));
            }
            prop_assert!(reassembly.allocated() <= limit);
            prop_assert_eq!(model.partial.is_some(), reassembly.in_progress().is_some());
        }
    }

    #[test]
    fn memory_follows_what_arrived(
        total in 1u64..1 << 40,
        sizes in prop::collection::vec(1usize..100_000, 1..12),
    ) {
        let mut reassembly = Reassembly::new(usize::MAX);
        let mut received = 0;
        for (index, size) in sizes.into_iter().enumerate() {
            let fragment = if index == 0 { Fragment::First { total } } else { Fragment::Middle };
            let header = Header { fragment, ..Header::request(0, 1) };
            let payload = vec![0; size];
            if reassembly.push(Frame { header, payload: &payload }).is_err() {
                prop_assert_eq!(reassembly.allocated(), 0);
                return Ok(());
            }
            received += size;
            let most = (2 * received).max(Reassembly::GROWTH_STEP).min(total as usize);
            prop_assert!(reassembly.allocated() <= most);
        }
    }
}
