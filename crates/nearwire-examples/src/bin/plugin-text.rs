//! A plugin: a process that serves methods for its host. It is told its name by the host, and ends
//! when the host does, however that ends.
//!
//! - `upper`: the request in capital letters. Calling it twice does no harm.
//! - `log`: appends the request to the file given as argument, as a line. Calling it twice does.
//!
//! Both take as long as the second argument says, in milliseconds, so that there is time to kill
//! the plugin meanwhile.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use nearwire::{Code, Server, Status};
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name = std::env::var("NEARWIRE_PLUGIN").context("a plugin is started by its host")?;
    let mut arguments = std::env::args().skip(1);
    let log = arguments.next().context("the log's file is missing")?;
    let takes = match arguments.next() {
        Some(milliseconds) => Duration::from_millis(milliseconds.parse()?),
        None => Duration::ZERO,
    };
    let server = Server::builder()
        .method_async("upper", move |request| async move {
            tokio::time::sleep(takes).await;
            Ok(request.to_ascii_uppercase())
        })
        .method_async("log", move |mut line| {
            line.push(b'\n');
            let written = std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .and_then(|mut file| file.write_all(&line))
                .map_err(|error| Status::new(Code::INTERNAL, error.to_string()));
            async move {
                tokio::time::sleep(takes).await;
                written.map(|()| Vec::new())
            }
        })
        .bind(&name)?;
    // The host holds the other end of standard input, and says nothing.
    let mut host = tokio::io::stdin();
    let mut nothing = [0];
    let gone = async move { while !matches!(host.read(&mut nothing).await, Ok(0) | Err(_)) {} };
    server.serve_until(gone).await?;
    Ok(())
}
