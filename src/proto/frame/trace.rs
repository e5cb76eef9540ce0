//! W3C trace context: which trace, and which span of it, a call belongs to.

use std::fmt;
use std::str::FromStr;

/// W3C trace context (`traceparent`) in binary: 26 bytes, padded to 32 on the wire.
///
/// Made from, and shown as, the text of a `traceparent` header:
///
/// ```
/// use nearwire::TraceContext;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context: TraceContext = text.parse()?;
/// assert!(context.is_sampled());
/// assert_eq!(context.to_string(), text);
/// # Ok::<(), nearwire::BadTraceparent>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TraceContext {
    /// Version of the trace context format, 0 today.
    pub version: u8,
    /// The trace this call belongs to.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub parent_id: [u8; 8],
    /// Trace flags; bit 0 is "sampled".
    pub flags: u8,
}

impl TraceContext {
    /// A context of the format's version 0.
    pub const fn new(trace_id: [u8; 16], parent_id: [u8; 8], is_sampled: bool) -> TraceContext {
        TraceContext {
            version: 0,
            trace_id,
            parent_id,
            flags: is_sampled as u8,
        }
    }

    /// Whether it names a trace and a span: ids of nothing but zeros name none, and version 255 is
    /// no version. One that does not is treated as if it were not there, as the standard says.
    pub fn is_valid(&self) -> bool {
        self.version != u8::MAX && self.trace_id != [0; 16] && self.parent_id != [0; 8]
    }

    /// Whether the caller records the trace.
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        hex(f, &[self.version])?;
        f.write_str("-")?;
        hex(f, &self.trace_id)?;
        f.write_str("-")?;
        hex(f, &self.parent_id)?;
        f.write_str("-")?;
        hex(f, &[self.flags])
    }
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no traceparent: it is VERSION-TRACE-PARENT-FLAGS in 2, 32, 16 and 2 lowercase hexadecimal \
     digits, neither id all zeros"
)]
pub struct BadTraceparent;

impl FromStr for TraceContext {
    type Err = BadTraceparent;

    /// # Errors
    /// [`BadTraceparent`]. What follows the flags is ignored if the version is above 0: later
    /// versions may say more.
    fn from_str(text: &str) -> Result<Self, BadTraceparent> {
        let mut rest = text.as_bytes();
        let [version] = field(&mut rest)?;
        dash(&mut rest)?;
        let trace_id = field(&mut rest)?;
        dash(&mut rest)?;
        let parent_id = field(&mut rest)?;
        dash(&mut rest)?;
        let [flags] = field(&mut rest)?;
        let more_is_fine = version > 0 && rest.first() == Some(&b'-');
        let context = TraceContext {
            version,
            trace_id,
            parent_id,
            flags,
        };
        if !(rest.is_empty() || more_is_fine) || !context.is_valid() {
            return Err(BadTraceparent);
        }
        Ok(context)
    }
}

/// Takes two digits per byte.
fn field<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadTraceparent> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(BadTraceparent),
    };
    let (digits, after) = rest.split_at_checked(2 * N).ok_or(BadTraceparent)?;
    *rest = after;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn dash(rest: &mut &[u8]) -> Result<(), BadTraceparent> {
    *rest = rest.strip_prefix(b"-").ok_or(BadTraceparent)?;
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_traceparent_is_refused() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(good.parse::<TraceContext>().is_ok());
        for cut in 0..good.len() {
            assert!(good[..cut].parse::<TraceContext>().is_err(), "{cut}");
        }
        for bad in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e4}-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(BadTraceparent), "{bad}");
        }
        // A later version may say more.
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more";
        assert_eq!(later.parse::<TraceContext>().unwrap().version, 1);
    }

    proptest! {
        #[test]
        fn text_and_bytes_are_the_same(
            version in 0..u8::MAX,
            trace_id: [u8; 16],
            parent_id: [u8; 8],
            flags: u8,
        ) {
            let context = TraceContext { version, trace_id, parent_id, flags };
            prop_assume!(context.is_valid());
            prop_assert_eq!(context.to_string().parse(), Ok(context));
        }

        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = text.parse::<TraceContext>();
        }
    }
}
