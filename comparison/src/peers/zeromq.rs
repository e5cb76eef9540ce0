//! ZeroMQ over ipc.

use std::any::Any;
use std::thread;

use anyhow::{Context as _, Result};
use zmq::{Context, Message, Socket, SocketType};

use crate::drive::blocking::Lane;
use crate::peer::{About, Peer, Setup};

/// ZeroMQ.
pub struct ZeroMq;

impl Peer for ZeroMq {
    type Clients = Vec<ZeroMqLane>;
    const ABOUT: About = About {
        name: "zeromq",
        title: "ZeroMQ",
        spins: false,
        packages: &["zmq", "zeromq-src"],
        configuration: "libzmq over `ipc://`: one ROUTER socket in the server, a DEALER for each \
            client (REQ and REP are the same with more checks, and allow one call in flight). One \
            context with one I/O thread in each process, no high-water mark, and the server sends \
            the message back that it received, without a copy.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let context = context(setup)?;
        let router = socket(&context, SocketType::ROUTER)?;
        router.bind(&endpoint(setup)?)?;
        thread::spawn(move || {
            // The context ends with the process.
            let _context = context;
            loop {
                let client = router.recv_msg(0)?;
                let message = router.recv_msg(0)?;
                router.send(client, zmq::SNDMORE)?;
                router.send(message, 0)?;
            }
            #[allow(unreachable_code, reason = "gives the closure its type")]
            anyhow::Ok(())
        });
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let context = context(setup)?;
        (0..setup.own)
            .map(|_| {
                let dealer = socket(&context, SocketType::DEALER)?;
                dealer.set_linger(0)?;
                dealer.connect(&endpoint(setup)?)?;
                Ok(ZeroMqLane {
                    dealer,
                    reply: Message::new(),
                    _context: context.clone(),
                })
            })
            .collect()
    }
}

fn context(setup: &Setup) -> Result<Context> {
    let context = Context::new();
    // The limit of sockets is 1023; each client is one in its own process.
    anyhow::ensure!(setup.own < 1000, "too many sockets for one context");
    Ok(context)
}

fn socket(context: &Context, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_sndhwm(0)?;
    socket.set_rcvhwm(0)?;
    Ok(socket)
}

fn endpoint(setup: &Setup) -> Result<String> {
    let path = setup.place.join("socket");
    let path = path.to_str().context("a path that is UTF-8")?;
    Ok(format!("ipc://{path}"))
}

/// A DEALER.
pub struct ZeroMqLane {
    /// Declared first: it goes before its context.
    dealer: Socket,
    reply: Message,
    _context: Context,
}

impl Lane for ZeroMqLane {
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.dealer.send(request, 0)?)
    }

    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.dealer.recv(&mut self.reply, 0)?;
        check(&self.reply)
    }
}
