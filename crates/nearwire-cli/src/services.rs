//! The services that `nearwire serve` offers, to try things with.

use std::time::Duration;

use nearwire::{ByteItemSender, Code, ServerBuilder, Status};

/// The longest that `sleep` sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Adds those that answer at once: `echo` and `hash`.
pub fn add_immediate(server: ServerBuilder) -> ServerBuilder {
    server
        .method_into("echo", |_, request, reply| {
            reply.extend_from_slice(request);
            Ok(())
        })
        .method_into("hash", |_, request, reply| {
            reply.extend_from_slice(blake3::hash(request).as_bytes());
            Ok(())
        })
}

/// Adds all: those that answer at once, and `sleep`, `stream`, `fail`
/// and `panic`. Needs a Tokio runtime.
pub fn add_all(server: ServerBuilder) -> ServerBuilder {
    add_immediate(server)
        .method_async("sleep", sleep)
        .streaming_bytes("stream", count_up)
        .method("fail", |request: &[u8]| {
            Err(Status::new(
                Code::FAILED_PRECONDITION,
                String::from_utf8_lossy(request),
            ))
        })
        .method("panic", |request: &[u8]| {
            panic!("asked to: {}", String::from_utf8_lossy(request))
        })
}

/// Replies after a while with the milliseconds that were asked for, as decimal text.
async fn sleep(request: Vec<u8>) -> Result<Vec<u8>, Status> {
    let millis = milliseconds(&request)?;
    tokio::time::sleep(Duration::from_millis(millis)).await;
    Ok(millis.to_string().into_bytes())
}

/// A number of milliseconds as decimal text, or as a little-endian `u64`. Eight digits are text.
fn milliseconds(request: &[u8]) -> Result<u64, Status> {
    let text = std::str::from_utf8(request).map(str::trim);
    let millis = match text.map(str::parse) {
        Ok(Ok(millis)) => Some(millis),
        _ => request.try_into().ok().map(u64::from_le_bytes),
    };
    match millis {
        Some(millis) if Duration::from_millis(millis) <= LONGEST_SLEEP => Ok(millis),
        _ => Err(Status::new(
            Code::INVALID_ARGUMENT,
            format!(
                "send the milliseconds to sleep, 0 to {}, as decimal text or as a little-endian u64",
                LONGEST_SLEEP.as_millis()
            ),
        )),
    }
}

/// Sends the numbers from 1 to the one that was asked for, as decimal text, a line each.
async fn count_up(request: Vec<u8>, mut items: ByteItemSender) -> Result<(), Status> {
    let text = std::str::from_utf8(&request).map(str::trim);
    let Ok(Ok(count)) = text.map(str::parse::<u64>) else {
        let text = "send the number of items, as decimal text";
        return Err(Status::new(Code::INVALID_ARGUMENT, text));
    };
    for number in 1..=count {
        items.send(format!("{number}\n")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn milliseconds_are_text_or_eight_bytes() {
        assert_eq!(milliseconds(b"20"), Ok(20));
        assert_eq!(milliseconds(b" 20\n"), Ok(20));
        assert_eq!(milliseconds(b"00000020"), Ok(20));
        assert_eq!(milliseconds(&20u64.to_le_bytes()), Ok(20));
        for bad in [&b""[..], b"-1", b"soon", b"3600001", &[0xff; 8], &[0; 9]] {
            assert!(milliseconds(bad).is_err(), "{bad:?}");
        }
    }
}
