//! A service with tower layers and metrics: sends each request through a program, as an editor's
//! formatter is used, and keeps the machine alive while it does.
//!
//! ```console
//! $ filter-service format --at-once 4 --timeout-ms 2000 --metrics 127.0.0.1:9465 -- rustfmt --edition 2024 &
//! $ nearwire call format filter < main.rs
//! $ curl http://127.0.0.1:9465/metrics
//! ```
//!
//! At most so many programs run at once; what comes on top is turned away at once instead of
//! waiting in line; a program that takes too long is killed; and so is one whose caller has gone.
//! How many calls there were and how they ended is counted by the server; how long the programs took,
//! by the service itself. One page has both.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nearwire::service::Request;
use nearwire::{Code, Exporter, Server, Status};
use prometheus::{Histogram, HistogramOpts, Registry, TextEncoder};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
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
    /// Serve metrics for Prometheus here, at /metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let program = arguments.program;
    let times = Histogram::with_opts(HistogramOpts::new(
        "filter_program_seconds",
        "How long the programs took that came to an end by themselves",
    ))?;
    let registry = Registry::new();
    registry.register(Box::new(times.clone()))?;
    let filter = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(arguments.at_once)
        .timeout(Duration::from_millis(arguments.timeout_ms))
        .service(service_fn(move |request: Request| {
            run(program.clone(), request.into_payload(), times.clone())
        }));
    let server = Server::builder()
        .service("filter", filter)
        .bind(&arguments.name)?;
    registry.register(Box::new(Exporter::new(&server)?))?;
    if let Some(address) = arguments.metrics {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics at {address}"))?;
        eprintln!("metrics at http://{}/metrics", listener.local_addr()?);
        tokio::spawn(serve_metrics(listener, registry));
    }
    eprintln!("serving {}", arguments.name);
    server.serve_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}

/// Any HTTP server will do. Here it is hyper, with one scrape at a time.
async fn serve_metrics(listener: TcpListener, registry: Registry) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for instance, as programs have pipes: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = hyper::service::service_fn(async |request: hyper::Request<Incoming>| {
            let mut response = Response::new(Full::<Bytes>::default());
            match TextEncoder::new().encode_to_string(&registry.gather()) {
                Ok(text) if request.uri().path() == "/metrics" => {
                    *response.body_mut() = text.into()
                }
                Ok(_) => *response.status_mut() = StatusCode::NOT_FOUND,
                Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            }
            Ok::<_, Infallible>(response)
        });
        // Whoever keeps its connection without asking anything has five seconds.
        let _ = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(5))
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    }
}

/// Dropping the future kills the program: that is what the time-out does, and a caller who leaves.
async fn run(program: Vec<String>, input: Vec<u8>, times: Histogram) -> Result<Vec<u8>, Status> {
    let failed = |error: std::io::Error| {
        Status::new(
            Code::INTERNAL,
            format!("cannot run {}: {error}", program[0]),
        )
    };
    let began = Instant::now();
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
    times.observe(began.elapsed().as_secs_f64());
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Status::new(
        Code::INVALID_ARGUMENT,
        format!("{}: {}", output.status, text.trim()),
    ))
}
