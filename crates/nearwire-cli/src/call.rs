//! `nearwire call`: one call, or the list of what can be called.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearwire::{BlockingClient, ClientBuilder, Error};
use serde::Serialize;

use crate::arguments::{self, Transports};
use crate::output::{print_bytes, print_json, print_json_line, print_text};

/// Call a method of a server and print the reply; without a method, list the methods.
///
/// The request is DATA, or the content of a file, or standard input. A reply that is a stream is
/// printed item by item, as the items come.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire call demo                                # what can be called
  nearwire call demo echo hello
  nearwire call demo hash --hex < Cargo.toml
  nearwire call demo stream 3 --json                # one line for each item
  nearwire call demo sleep 5000 --timeout 50ms")]
pub struct Call {
    /// The server's name, or the path of its socket.
    pub name: String,
    /// The method. Without one, the server's methods are listed.
    method: Option<String>,
    /// The request.
    data: Option<OsString>,
    /// Send this file's content; - for standard input.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "data",
        requires = "method"
    )]
    file: Option<PathBuf>,
    /// Give up after this time, such as 50ms or 2s.
    #[arg(long, value_name = "TIME", value_parser = arguments::duration, requires = "method")]
    timeout: Option<Duration>,
    /// The largest reply to accept.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = arguments::bytes)]
    max_message: usize,
    /// What may carry the connection.
    #[arg(long, value_enum, default_value_t = Transports::Any)]
    transport: Transports,
    /// Print the reply in hexadecimal.
    #[arg(long)]
    hex: bool,
    /// Print a JSON object: the reply's length, its bytes in hexadecimal, and how long it took. For a
    /// stream: one for each item, in a line of its own.
    #[arg(long, conflicts_with = "hex")]
    json: bool,
}

/// A call's outcome as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    method: &'a str,
    /// Length of the reply.
    bytes: usize,
    /// From the request's first byte to the reply's last, or to that of the stream's item, in
    /// microseconds.
    micros: f64,
    /// The reply.
    hex: String,
}

impl<'a> Outcome<'a> {
    fn of(method: &'a str, reply: &[u8], took: Duration) -> Self {
        Self {
            method,
            bytes: reply.len(),
            micros: took.as_nanos() as f64 / 1e3,
            hex: hex(reply),
        }
    }
}

/// What a server offers, as JSON.
#[derive(Serialize)]
struct Offer<'a> {
    methods: Vec<&'a str>,
    max_request: u64,
    /// What carries this connection: shared memory or socket.
    transport: String,
    server: Server,
}

/// Who the server is.
#[derive(Serialize)]
struct Server {
    pid: u32,
    #[cfg(unix)]
    uid: u32,
    #[cfg(windows)]
    sid: String,
}

impl Call {
    /// Calls, or lists.
    ///
    /// # Errors
    /// If there is no such server or method, or the call fails.
    pub fn run(&self) -> Result<()> {
        let mut client = self.settings().connect_blocking(&self.name)?;
        let Some(method) = &self.method else {
            return self.list(&client);
        };
        // Looked up before the request is read, which may take long.
        client.method(method)?;
        let request = self.request(client.info().max_message_out)?;
        let start = Instant::now();
        let reply = match self.timeout {
            Some(timeout) => client.call_bytes_timeout(method, &request, timeout),
            None => client.call_bytes(method, &request),
        };
        match reply {
            Ok(reply) if self.json => print_json(&Outcome::of(method, &reply, start.elapsed())),
            Ok(reply) => self.print(&reply),
            // Nothing was sent: the method answers with a stream, if it can be called from here.
            Err(Error::WrongShape { .. }) => {
                drop(client);
                self.stream(method, &request)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn settings(&self) -> ClientBuilder {
        ClientBuilder::new()
            .max_message(self.max_message)
            .transport(self.transport.into())
            .label("nearwire call")
    }

    /// Prints the items of a stream as they come.
    fn stream(&self, method: &str, request: &[u8]) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = self.settings().connect(&self.name).await?;
            let start = Instant::now();
            let mut items = client.stream_bytes(method, request);
            let print_all = async {
                while let Some(item) = items.next().await {
                    let item = item?;
                    if self.json {
                        print_json_line(&Outcome::of(method, &item, start.elapsed()))?;
                    } else {
                        self.print(&item)?;
                    }
                }
                Ok(())
            };
            match self.timeout {
                Some(timeout) => tokio::time::timeout(timeout, print_all)
                    .await
                    .unwrap_or(Err(Error::DeadlineExceeded.into())),
                None => print_all.await,
            }
        })
    }

    fn list(&self, client: &BlockingClient) -> Result<()> {
        let methods: Vec<&str> = client.methods().collect();
        if !self.json {
            return print_text(&methods.join("\n"));
        }
        let info = client.info();
        print_json(&Offer {
            methods,
            max_request: info.max_message_out,
            transport: info.transport.to_string(),
            server: Server {
                pid: info.peer.pid,
                #[cfg(unix)]
                uid: info.peer.uid,
                #[cfg(windows)]
                sid: info.peer.sid.to_string(),
            },
        })
    }

    fn request(&self, limit: u64) -> Result<Vec<u8>> {
        if let Some(data) = &self.data {
            return bytes_of(data);
        }
        match &self.file {
            Some(path) if path != Path::new("-") => {
                let file = || -> io::Result<_> {
                    let file = File::open(path)?;
                    let metadata = file.metadata()?;
                    // What else there is has a length that says nothing.
                    let length = if metadata.is_file() {
                        metadata.len()
                    } else {
                        0
                    };
                    Ok((file, length))
                };
                let (file, length) =
                    file().with_context(|| format!("cannot open {}", path.display()))?;
                read(file, length, limit)?
                    .with_context(|| format!("cannot read {}", path.display()))
            }
            _ => {
                let input = io::stdin();
                if input.is_terminal() {
                    eprintln!("the request comes from the terminal; Ctrl-D ends it");
                }
                read(input.lock(), 0, limit)?.context("cannot read the standard input")
            }
        }
    }

    fn print(&self, reply: &[u8]) -> Result<()> {
        if self.hex {
            return print_text(&hex(reply));
        }
        if !io::stdout().is_terminal() {
            return print_bytes(reply);
        }
        // A terminal obeys control characters.
        match std::str::from_utf8(reply) {
            Ok("") => Ok(()),
            Ok(text) if text.chars().all(is_harmless) => print_text(text),
            _ => {
                eprintln!("{} bytes that are no text, in hexadecimal:", reply.len());
                print_text(&hex(reply))
            }
        }
    }
}

/// The request as it stands on the command line.
#[cfg(unix)]
fn bytes_of(data: &OsStr) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    Ok(data.as_bytes().to_vec())
}

/// The request as it stands on the command line, in UTF-8.
#[cfg(windows)]
fn bytes_of(data: &OsStr) -> Result<Vec<u8>> {
    let text = data
        .to_str()
        .context("the request is no valid Unicode: send it with --file")?;
    Ok(text.as_bytes().to_vec())
}

/// Reads all of `input`, which is believed to have `length` bytes, unless it is beyond the limit.
fn read(input: impl Read, length: u64, limit: u64) -> Result<io::Result<Vec<u8>>> {
    if length > limit {
        let len = length;
        return Err(Error::TooLarge { len, limit }.into());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    if let Err(error) = input.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
        return Ok(Err(error));
    }
    if bytes.len() as u64 > limit {
        bail!("the input has more than {limit} bytes, the most that the server accepts: send less");
    }
    Ok(Ok(bytes))
}

fn is_harmless(character: char) -> bool {
    !character.is_control() || matches!(character, '\n' | '\t')
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_has_two_digits_per_byte() {
        assert_eq!(hex(&[]), "");
        assert_eq!(hex(&[0x00, 0x0f, 0xf0, 0xab]), "000ff0ab");
    }

    #[test]
    fn input_beyond_the_limit_is_not_read() {
        assert_eq!(read(&[1, 2, 3][..], 3, 3).unwrap().unwrap(), [1, 2, 3]);
        assert!(read(&[1, 2, 3][..], 3, 2).is_err());
        // A file that grows, or an input of unknown length.
        assert!(read(&[1, 2, 3][..], 0, 2).is_err());
    }
}
