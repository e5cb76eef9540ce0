//! What a connection carries, and which frames each side may send in it.

use super::frame::Kind;

/// What a connection is used for; agreed on in the handshake. The number is the byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mode {
    /// Requests, replies and streams.
    Calls = 1,
    /// Messages in both directions, without request ids.
    Messages = 2,
    /// A byte stream in both directions.
    Bytes = 3,
}

impl Mode {
    /// All modes, in the order of their numbers.
    pub const ALL: [Mode; 3] = [Mode::Calls, Mode::Messages, Mode::Bytes];

    /// The mode with this number, or `None` if there is none.
    pub const fn from_u8(number: u8) -> Option<Mode> {
        match number {
            1 => Some(Mode::Calls),
            2 => Some(Mode::Messages),
            3 => Some(Mode::Bytes),
            _ => None,
        }
    }
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected.
    Client,
    /// The end that listened.
    Server,
}

impl Kind {
    /// Whether `sender` may send frames of this kind in `mode`. A frame that it may not send is
    /// a violation: the receiver closes the connection.
    #[inline]
    pub const fn is_allowed(self, mode: Mode, sender: Side) -> bool {
        let client = matches!(sender, Side::Client);
        match self {
            Kind::Ping | Kind::Pong | Kind::Finish => true,
            Kind::GoAway => !client,
            Kind::Message => matches!(mode, Mode::Messages),
            Kind::Bytes => matches!(mode, Mode::Bytes),
            Kind::Request | Kind::Cancel => matches!(mode, Mode::Calls) && client,
            Kind::Reply | Kind::Error => matches!(mode, Mode::Calls) && !client,
            Kind::StreamItem | Kind::StreamEnd | Kind::Credit => matches!(mode, Mode::Calls),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_their_numbers() {
        for number in 0..=255 {
            match Mode::from_u8(number) {
                Some(mode) => assert_eq!(mode as u8, number),
                None => assert!(!(1..=3).contains(&number)),
            }
        }
    }

    #[test]
    fn each_side_may_send_what_the_document_says() {
        let allowed = |mode, side| -> Vec<u8> {
            Kind::ALL
                .iter()
                .filter(|k| k.is_allowed(mode, side))
                .map(|k| *k as u8)
                .collect()
        };
        assert_eq!(
            allowed(Mode::Calls, Side::Client),
            [1, 4, 5, 6, 7, 10, 12, 13]
        );
        assert_eq!(
            allowed(Mode::Calls, Side::Server),
            [2, 3, 5, 6, 7, 10, 11, 12, 13]
        );
        assert_eq!(allowed(Mode::Messages, Side::Client), [8, 10, 12, 13]);
        assert_eq!(allowed(Mode::Messages, Side::Server), [8, 10, 11, 12, 13]);
        assert_eq!(allowed(Mode::Bytes, Side::Client), [9, 10, 12, 13]);
        assert_eq!(allowed(Mode::Bytes, Side::Server), [9, 10, 11, 12, 13]);
    }
}
