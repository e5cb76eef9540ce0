//! A service with tower layers: sends each request through a program, as an editor's formatter is
//! used, and keeps the machine alive while it does.
//!
//! ```console
//! $ filter-service format --at-once 4 --timeout-ms 2000 -- rustfmt --edition 2024 &
//! $ nearwire call format filter < main.rs
//! ```
//!
//! At most so many programs run at once; what comes on top is turned away at once instead of
//! waiting in line; a program that takes too long is killed; and so is one whose caller has gone.

use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use nearwire::service::Request;
use nearwire::{Code, Server, Status};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tower::{ServiceBuilder, service_fn};

#[derive(Parser)]
#[command(about = "Send requests through a program")]
struct Arguments {
    /// The server's name.
    name: String,
    /// Programs that may run at the same time.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Milliseconds that each may take.
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let program = arguments.program;
    let filter = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(arguments.at_once)
        .timeout(Duration::from_millis(arguments.timeout_ms))
        .service(service_fn(move |request: Request| {
            run(program.clone(), request.into_payload())
        }));
    let server = Server::builder()
        .service("filter", filter)
        .bind(&arguments.name)?;
    eprintln!("serving {}", arguments.name);
    server.serve_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}

/// Dropping the future kills the program: that is what the time-out does, and a caller who leaves.
async fn run(program: Vec<String>, input: Vec<u8>) -> Result<Vec<u8>, Status> {
    let failed = |error: std::io::Error| Status::new(Code::INTERNAL, error.to_string());
    let mut child = Command::new(&program[0])
        .args(&program[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take();
    let write = async {
        if let Some(stdin) = &mut stdin {
            // A program may have seen enough before the end.
            let _ = stdin.write_all(&input).await;
        }
        drop(stdin);
    };
    // Both at once: either pipe may be full.
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Status::new(
        Code::INVALID_ARGUMENT,
        format!("{}: {}", output.status, text.trim()),
    ))
}
