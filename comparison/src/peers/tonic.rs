//! tonic: gRPC over a Unix socket.

use std::any::Any;
use std::pin::Pin;
use std::thread;

use ::tonic::transport::{Channel, Endpoint, Server};
use ::tonic::{Request, Response, Status, Streaming};
use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};

use crate::drive::awaited::{Lane, Lanes};
use crate::drive::runtime;
use crate::drive::tasks::{Caller, Callers};
use crate::message::Expected;
use crate::peer::{About, Peer, Setup};

/// HTTP/2 windows: never what a call waits for.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// The largest frame of HTTP/2: 16 KiB, the default, cuts large messages into many.
const FRAME: u32 = (1 << 24) - 1;

/// What is sent either way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Not copied when it is sent on.
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

mod generated {
    #![allow(missing_docs, clippy::all)]
    use super::Message;
    ::tonic::include_proto!("comparison.Echo");
}
use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

/// A call for each message.
pub struct Unary;

/// One stream of messages either way.
pub struct Streamed;

impl Peer for Unary {
    type Clients = Callers<EchoClient<Channel>>;
    const ABOUT: About = About {
        name: "tonic",
        title: "tonic, unary",
        spins: false,
        packages: &["tonic", "prost", "hyper", "h2"],
        configuration: "gRPC over a Unix socket: one channel for each client, a protobuf message with \
            one field of `bytes` that is not copied on the way back. Windows of 8 and 32 MiB and \
            frames of up to 16 MiB, so that flow control never waits; a Tokio runtime of one thread \
            on either side; with calls in flight, a task for each.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        Callers::open(setup.own, || client(setup))
    }
}

impl Peer for Streamed {
    type Clients = Lanes<StreamLane>;
    const ABOUT: About = About {
        name: "tonic-stream",
        title: "tonic, stream",
        spins: false,
        packages: &["tonic", "prost", "hyper", "h2"],
        configuration: "The same with one bidirectional stream for each client, over which requests go \
            and replies come: no headers for each call, but also no deadlines, statuses or \
            cancellation of each.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        serve(setup)
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        Lanes::open(setup.own, |_| async {
            let mut client = client(setup).await?;
            let (requests, outgoing) = mpsc::channel(setup.window);
            let outgoing = ReceiverStream::new(outgoing);
            let replies = client.stream(outgoing).await?.into_inner();
            Ok(StreamLane { requests, replies })
        })
    }
}

fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
    let runtime = runtime()?;
    let listener = {
        let _context = runtime.enter();
        UnixListener::bind(setup.place.join("socket"))?
    };
    thread::spawn(move || {
        runtime.block_on(
            Server::builder()
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .add_service(EchoServer::new(Answering))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        )
    });
    Ok(Box::new(()))
}

async fn client(setup: &Setup) -> Result<EchoClient<Channel>> {
    let path = setup.place.join("socket");
    let path = path.to_str().context("a path that is UTF-8")?;
    let channel = Endpoint::from_shared(format!("unix:{path}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .connect()
        .await?;
    Ok(EchoClient::new(channel))
}

struct Answering;

#[::tonic::async_trait]
impl Echo for Answering {
    async fn call(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn stream(
        &self,
        requests: Request<Streaming<Message>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        // What comes is what goes.
        Ok(Response::new(Box::pin(requests.into_inner())))
    }
}

impl Caller for EchoClient<Channel> {
    type Reply = Bytes;

    async fn call(&self, request: &[u8]) -> Result<Bytes> {
        let body = Bytes::copy_from_slice(request);
        let reply = EchoClient::call(&mut self.clone(), Message { body }).await?;
        Ok(reply.into_inner().body)
    }
}

/// A stream each way.
pub struct StreamLane {
    requests: mpsc::Sender<Message>,
    replies: Streaming<Message>,
}

impl Lane for StreamLane {
    async fn submit(&mut self, request: &[u8]) -> Result<()> {
        let body = Bytes::copy_from_slice(request);
        let sent = self.requests.send(Message { body }).await;
        sent.ok().context("the server is gone")
    }

    async fn collect(&mut self, expected: &mut Expected) -> Result<()> {
        let reply = self.replies.message().await?;
        expected.check(&reply.context("the server is gone")?.body)
    }
}
