//! What to do about an error, in terms of this command. What the library says itself is not
//! repeated.

use nearwire::{Code, Error};

/// What to do about a call that took too long.
const LONGER: &str = "`nearwire call` waits longer with --timeout TIME";

/// What the user may do, if there is more to say than the error does. `server` is the name as it
/// was given.
pub fn advice(error: &anyhow::Error, server: Option<&str>) -> Option<String> {
    Some(match error.downcast_ref::<Error>()? {
        Error::NoServer { .. } => {
            format!(
                "`nearwire serve {}` starts one with built-in services",
                server?
            )
        }
        Error::DeadlineExceeded => LONGER.into(),
        Error::Status(status) if status.code == Code::DEADLINE_EXCEEDED => LONGER.into(),
        Error::TooLarge { .. } => {
            "a server of `nearwire serve` takes more with --max-message SIZE".into()
        }
        Error::Status(status) if status.code == Code::REPLY_TOO_LARGE => {
            "`nearwire call` accepts more with --max-message SIZE".into()
        }
        _ => return None,
    })
}
