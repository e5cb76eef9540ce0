//! tarpc over a Unix socket.

use std::any::Any;
use std::thread;

use ::tarpc::client::Config;
use ::tarpc::context::Context as CallContext;
use ::tarpc::serde_transport::unix;
use ::tarpc::server::{BaseChannel, Channel};
use ::tarpc::tokio_serde::formats::Bincode;
use anyhow::Result;
use futures::StreamExt;
use serde_bytes::ByteBuf;

use crate::drive::runtime;
use crate::drive::tasks::{Caller, Callers};
use crate::peer::{About, Peer, Setup};

/// The service.
#[::tarpc::service]
pub trait Echo {
    /// Answers with the request.
    async fn echo(request: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Answering;

impl Echo for Answering {
    async fn echo(self, _: CallContext, request: ByteBuf) -> ByteBuf {
        request
    }
}

/// tarpc.
pub struct Tarpc;

impl Peer for Tarpc {
    type Clients = Callers<EchoClient>;
    const ABOUT: About = About {
        name: "tarpc",
        title: "tarpc",
        spins: false,
        packages: &["tarpc", "tokio-serde", "bincode"],
        configuration: "Its own Unix transport with bincode; messages are `serde_bytes::ByteBuf`, which \
            serde takes as a whole instead of byte by byte. A Tokio runtime of one thread on either \
            side. Handlers are polled in place instead of being spawned: they never wait.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let runtime = runtime()?;
        let mut listener =
            runtime.block_on(unix::listen(setup.place.join("socket"), Bincode::default))?;
        thread::spawn(move || {
            runtime.block_on(async move {
                while let Some(Ok(transport)) = listener.next().await {
                    let channel = BaseChannel::with_defaults(transport);
                    let handling = channel.execute(Answering.serve());
                    tokio::spawn(handling.for_each(|handler| handler));
                }
            });
        });
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let path = setup.place.join("socket");
        Callers::open(setup.own, || async {
            let transport = unix::connect(&path, Bincode::default).await?;
            Ok(EchoClient::new(Config::default(), transport).spawn())
        })
    }
}

impl Caller for EchoClient {
    type Reply = ByteBuf;

    async fn call(&self, request: &[u8]) -> Result<ByteBuf> {
        let request = ByteBuf::from(request);
        Ok(self.echo(::tarpc::context::current(), request).await?)
    }
}
