//! A server that writes down what it executes.

use crate::ledger::{Pen, What};
use crate::support::child::{Commands, Settings, say};
use crate::support::pattern;
use nearwire::{Code, Error, Server, Status};
use std::sync::Arc;
use std::time::Duration;

/// The name of all servers here, each in its test's directory.
pub const NAME: &str = "chaos";

/// Bytes before a request's payload.
pub const HEAD: usize = 16;

/// A request on the wire: the call's number, how long the reply shall be, and `len` bytes.
pub fn request(call: u64, reply_len: usize, len: usize) -> Vec<u8> {
    let mut bytes = call.to_le_bytes().to_vec();
    bytes.extend_from_slice(&(reply_len as u64).to_le_bytes());
    bytes.extend_from_slice(&pattern(call, len));
    bytes
}

/// What it is answered with.
pub fn reply(call: u64, reply_len: usize) -> Vec<u8> {
    pattern(!call, reply_len)
}

/// Number and reply of a request.
fn parse(bytes: &[u8]) -> Result<(u64, Vec<u8>), Status> {
    let spoilt = || Status::new(Code::DATA_LOSS, "a spoilt request");
    let (head, payload) = bytes.split_at_checked(HEAD).ok_or_else(spoilt)?;
    let word = |n: usize| u64::from_le_bytes(head[n * 8..][..8].try_into().unwrap());
    let call = word(0);
    if pattern(call, payload.len()) != payload {
        return Err(spoilt());
    }
    Ok((call, reply(call, word(1) as usize)))
}

/// A call that a handler has begun. Says so if it does not come to its end.
struct Execution {
    pen: Arc<Pen>,
    call: u64,
    ended: bool,
}

impl Execution {
    fn begin(pen: &Arc<Pen>, bytes: &[u8]) -> Result<(Self, Vec<u8>), Status> {
        let (call, reply) = parse(bytes)?;
        pen.write(call, What::Executed);
        let execution = Self {
            pen: pen.clone(),
            call,
            ended: false,
        };
        Ok((execution, reply))
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        if !self.ended {
            self.pen.write(self.call, What::Dropped);
        }
    }
}

/// Serves until told to shut down. Settings: `ledger`.
pub fn serve(settings: &Settings, commands: Commands) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let pen = Arc::new(Pen::open(settings.text("ledger").unwrap().as_ref()));
    let mut server = loop {
        match bind(&pen) {
            // The one before this has the name for as long as it drains.
            Err(Error::NameInUse { .. }) => std::thread::sleep(Duration::from_millis(1)),
            bound => break Some(bound.unwrap()),
        }
    };
    say("ready");
    loop {
        let command = commands.next();
        match command.split_once(' ').unwrap_or((&command, "")) {
            ("connections", _) => say(server.as_ref().map_or(0, Server::connections)),
            ("shutdown", grace) => {
                let grace = Duration::from_millis(grace.parse().unwrap());
                server.take().unwrap().shutdown(grace);
                say("shut down");
            }
            other => panic!("the server does not know {other:?}"),
        }
    }
}

fn bind(pen: &Arc<Pen>) -> nearwire::Result<Server> {
    let (sync, later, hang) = (pen.clone(), pen.clone(), pen.clone());
    let (stream, upload, chat) = (pen.clone(), pen.clone(), pen.clone());
    Server::builder()
        .method("sync", move |request: &[u8]| {
            let (execution, reply) = Execution::begin(&sync, request)?;
            execution.end();
            Ok(reply)
        })
        // These two write nothing down: how long the request is, and as many zeros as asked for.
        .method("len", |request: &[u8]| {
            Ok((request.len() as u64).to_le_bytes().to_vec())
        })
        .method("zeros", |len: &[u8]| {
            let len = u64::from_le_bytes(len.try_into().unwrap());
            Ok(vec![0; len as usize])
        })
        .method_async("later", move |request| {
            let begun = Execution::begin(&later, &request);
            async move {
                let (execution, reply) = begun?;
                tokio::time::sleep(Duration::from_micros(execution.call % 4 * 400)).await;
                execution.end();
                Ok(reply)
            }
        })
        .method_async("hang", move |request| {
            let begun = Execution::begin(&hang, &request);
            async move {
                let _execution = begun?;
                std::future::pending().await
            }
        })
        // The reply in pieces of a thousand bytes.
        .streaming_bytes("stream", move |request, mut items| {
            let begun = Execution::begin(&stream, &request);
            async move {
                let (execution, reply) = begun?;
                for piece in reply.chunks(1000) {
                    items.send(piece).await?;
                }
                execution.end();
                Ok(())
            }
        })
        // The reply, after so many bytes as it has were sent.
        .client_streaming_bytes("upload", move |request, mut items| {
            let begun = Execution::begin(&upload, &request);
            async move {
                let (execution, reply) = begun?;
                let mut len = 0;
                while let Some(item) = items.next().await {
                    len += item?.len();
                }
                if len != reply.len() {
                    return Err(Status::new(Code::DATA_LOSS, "a spoilt upload"));
                }
                execution.end();
                Ok(reply)
            }
        })
        .bidirectional_bytes("chat", move |request, mut incoming, mut outgoing| {
            let begun = Execution::begin(&chat, &request);
            async move {
                let (execution, _) = begun?;
                while let Some(item) = incoming.next().await {
                    outgoing.send(item?).await?;
                }
                execution.end();
                Ok(())
            }
        })
        .bind(NAME)
}
