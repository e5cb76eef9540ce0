//! A trace that goes through a call from one process into another, with OpenTelemetry.
//!
//! ```console
//! $ traced serve greeter &
//! $ traced call greeter Ada
//! ```
//!
//! Either prints its spans as they end; those of one call have one trace id, and the server's
//! handler is a child of the client's span.

use clap::Parser;
use nearwire::{Client, Server};
use nearwire_examples::traces::{adopt, context_of, record};
use tracing::{Instrument, info_span};

#[derive(Parser)]
enum Command {
    /// Greets whoever calls.
    Serve { name: String },
    /// Has somebody greeted.
    Call { name: String, who: String },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    record()?;
    match Command::parse() {
        Command::Serve { name } => serve(&name).await,
        Command::Call { name, who } => {
            let span = info_span!("visit", otel.kind = "client");
            let greeting = call(&name, &who).instrument(span).await?;
            println!("{greeting}");
            Ok(())
        }
    }
}

async fn serve(name: &str) -> anyhow::Result<()> {
    let server = Server::builder()
        .method_async_with("greet", |context, who| {
            let span = info_span!("greet", otel.kind = "server");
            adopt(&span, context.trace);
            greet(who).instrument(span)
        })
        .bind(name)?;
    eprintln!("serving {name}");
    server.serve_until(std::future::pending::<()>()).await?;
    Ok(())
}

async fn greet(who: Vec<u8>) -> Result<Vec<u8>, nearwire::Status> {
    tokio::task::yield_now().await;
    Ok([b"Hello, ".as_slice(), &who].concat())
}

async fn call(name: &str, who: &str) -> anyhow::Result<String> {
    let client = Client::connect(name).await?;
    let mut call = client.call_bytes("greet", who.as_bytes());
    if let Some(context) = context_of(&tracing::Span::current()) {
        call = call.trace(context);
    }
    Ok(String::from_utf8(call.await?)?)
}
