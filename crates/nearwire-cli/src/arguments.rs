//! Sizes and times on the command line.

use std::time::Duration;

use bytesize::ByteSize;
use nearwire::TransportPolicy;
use serde::{Deserialize, Serialize};

/// What may carry a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
pub enum Transports {
    /// Shared memory, and the socket where there is none.
    #[default]
    Any,
    /// Shared memory or no connection, with a ring for each client.
    #[value(alias = "spsc")]
    SharedMemory,
    /// The socket alone.
    Socket,
    /// One request queue for all clients, where the other side offers it; else as any. A server
    /// takes clients of both kinds at once.
    PreferMpmc,
    /// One request queue for all clients, or no connection.
    Mpmc,
}

impl From<Transports> for TransportPolicy {
    fn from(transports: Transports) -> Self {
        match transports {
            Transports::Any => Self::PreferSharedMemory,
            Transports::SharedMemory => Self::SharedMemoryOnly,
            Transports::Socket => Self::SocketOnly,
            Transports::PreferMpmc => Self::PreferMpmc,
            Transports::Mpmc => Self::MpmcOnly,
        }
    }
}

/// Rates between processes: in the words of the command line.
pub mod rate_limit {
    use nearwire::RateLimit;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(limit: &Option<RateLimit>, to: S) -> Result<S::Ok, S::Error> {
        limit.map(|limit| limit.to_string()).serialize(to)
    }

    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's, and what a rate looks like.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RateLimit>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom))
            .transpose()
    }
}

/// Reads a size: `4096`, `64KiB`, `1.5 MB`.
///
/// # Errors
/// What a size looks like.
pub fn bytes(text: &str) -> Result<usize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "a size is a number with or without a unit: 4096, 64KiB, 16MB".to_owned())?;
    usize::try_from(size.as_u64()).map_err(|_| "more than this machine can address".to_owned())
}

/// Reads a time: `50ms`, `2s`, `1m 30s`.
///
/// # Errors
/// What a time looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("a time above zero, such as 50ms".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("a time is a number with a unit: 500us, 50ms, 2s, 1m".to_owned()),
    }
}

/// A size as people write it: `64 B`, `64 KiB`, `10 MiB`, `1.5 KiB`.
pub fn human_size(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && scaled < 100.0 && scaled.fract() >= 0.05);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_with_and_without_units() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64KiB"), Ok(64 << 10));
        assert_eq!(bytes("64 MB"), Ok(64_000_000));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        for bad in ["", "much", "-1", "1 QiB"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_need_units_and_are_not_zero() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
        for bad in ["", "50", "0s", "-1s", "soon"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_written_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (64, "64 B"),
            (1 << 10, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 10, "64 KiB"),
            (5 << 20, "5 MiB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
