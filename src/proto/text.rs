//! Text that the peer wrote.

use std::borrow::Cow;

/// At most `max` bytes of `bytes` as text that is safe to log and print: what is not UTF-8, and
/// control characters other than tab and line feed, become U+FFFD. Allocates only for those.
pub(super) fn clean(bytes: &[u8], max: usize) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]);
    if text.chars().any(is_unprintable) {
        return Cow::Owned(text.replace(is_unprintable, "\u{fffd}"));
    }
    text
}

/// The longest beginning of `text` that has at most `max` bytes and ends between characters.
pub(super) fn shorten(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A control character that could move a terminal's cursor or break a log line apart.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_text_is_borrowed_and_bad_text_is_defused() {
        assert!(matches!(
            clean("plain\n\ttext é".as_bytes(), 100),
            Cow::Borrowed(_)
        ));
        assert_eq!(clean(b"a\x1b[2Jb\xffc", 100), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(clean(b"abcdef", 3), "abc");
    }

    #[test]
    fn shortening_never_splits_a_character() {
        assert_eq!(shorten("aé", 2), "a");
        assert_eq!(shorten("aé", 3), "aé");
        assert_eq!(shorten("aé", 9), "aé");
        assert_eq!(shorten("é", 0), "");
    }
}
