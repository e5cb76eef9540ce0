//! The server: checks what comes, counts what it must not see.

use crate::heap;
use crate::payload::{Request, is_item};
use crate::support::child::{Commands, Settings, open_descriptors, say};
use nearwire::{
    ByteItemReceiver, ByteItemSender, Code, Limits, Listener, ListenerBuilder, Server, Status,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const CALLS: &str = "calls";
pub const MESSAGES: &str = "messages";
pub const BYTES: &str = "bytes";

/// How long shaking hands may take, on either side.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What one session's calls were.
#[derive(Debug, Default)]
struct Session {
    /// All numbers below have been seen.
    next: u64,
    /// Those seen above.
    ahead: BTreeSet<u64>,
}

/// What was seen of all sessions.
#[derive(Debug, Default)]
struct Register {
    sessions: Mutex<HashMap<u64, Session>>,
    empty: AtomicU64,
    duplicated: AtomicU64,
    lost: AtomicU64,
    spoilt: AtomicU64,
}

impl Register {
    /// A request, checked and written down.
    fn take(&self, bytes: &[u8]) -> Result<Request, Status> {
        let request = self.check(bytes)?;
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.entry(request.session).or_default();
        if request.number < session.next || !session.ahead.insert(request.number) {
            self.duplicated.fetch_add(1, Relaxed);
        }
        while session.ahead.remove(&session.next) {
            session.next += 1;
        }
        Ok(request)
    }

    /// A request, checked.
    fn check(&self, bytes: &[u8]) -> Result<Request, Status> {
        Request::decode(bytes).ok_or_else(|| self.spoilt("a request"))
    }

    fn spoilt(&self, what: &str) -> Status {
        self.spoilt.fetch_add(1, Relaxed);
        Status::new(Code::DATA_LOSS, format!("spoilt: {what}"))
    }

    /// The end of a session of so many calls.
    fn leave(&self, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        let last = self.check(bytes)?;
        let session = self.sessions.lock().unwrap().remove(&last.session);
        let session = session.unwrap_or_default();
        let seen = session.next + session.ahead.len() as u64;
        self.lost.fetch_add(last.number.abs_diff(seen), Relaxed);
        Ok(seen.to_le_bytes().to_vec())
    }
}

/// Serves until the parent is gone.
pub fn serve(_: &Settings, commands: Commands) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let register = Arc::new(Register::default());
    let server = bind(&register);
    let messages = listener().bind(MESSAGES).unwrap();
    runtime.spawn(async move {
        loop {
            let mut connection = messages.accept_async().await.unwrap();
            tokio::spawn(async move {
                let mut message = Vec::new();
                while connection.recv(&mut message).await.unwrap() {
                    connection.send(&message).await.unwrap();
                }
                connection.finish().await.unwrap();
            });
        }
    });
    let bytes = listener().bind_bytes(BYTES).unwrap();
    runtime.spawn(async move {
        loop {
            let mut stream = bytes.accept_async().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 50_000];
                loop {
                    let count = stream.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    stream.write_all(&buffer[..count]).await.unwrap();
                    stream.flush().await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
        }
    });
    say("ready");
    loop {
        match &*commands.next() {
            "trim" => {
                heap::trim();
                say("trimmed");
                continue;
            }
            other => assert_eq!(other, "report"),
        }
        say(format!(
            "empty={} duplicated={} lost={} spoilt={} sessions={} connections={} descriptors={} segments={} blocks={} bytes={}",
            register.empty.load(Relaxed),
            register.duplicated.load(Relaxed),
            register.lost.load(Relaxed),
            register.spoilt.load(Relaxed),
            register.sessions.lock().unwrap().len(),
            server.connections(),
            open_descriptors(),
            crate::support::os::mapped_segments(std::process::id()),
            heap::blocks(),
            heap::bytes(),
        ));
    }
}

fn listener() -> ListenerBuilder {
    Listener::builder().handshake_timeout(PATIENCE)
}

fn bind(register: &Arc<Register>) -> Server {
    let (sync, into, later, note) = (
        register.clone(),
        register.clone(),
        register.clone(),
        register.clone(),
    );
    let (empty, given_up, leave) = (register.clone(), register.clone(), register.clone());
    let (stream, upload, chat) = (register.clone(), register.clone(), register.clone());
    Server::builder()
        .handshake_timeout(PATIENCE)
        .limits(Limits {
            max_connections: 1000,
            ..Limits::default()
        })
        .method("sync", move |request: &[u8]| {
            Ok(sync.take(request)?.reply())
        })
        .method_into("into", move |_, request, reply| {
            reply.extend_from_slice(&into.take(request)?.reply());
            Ok(())
        })
        .method_async("later", move |request: Vec<u8>| {
            let taken = later.take(&request);
            async move {
                let taken = taken?;
                match taken.number % 3 {
                    0 => {}
                    1 => tokio::task::yield_now().await,
                    _ => tokio::time::sleep(Duration::from_micros(500)).await,
                }
                Ok(taken.reply())
            }
        })
        .method("note", move |request: &[u8]| {
            note.take(request)?;
            Ok(vec![])
        })
        .method("empty", move |request: &[u8]| {
            if !request.is_empty() {
                return Err(empty.spoilt("an empty request"));
            }
            empty.empty.fetch_add(1, Relaxed);
            Ok(vec![])
        })
        // Nobody waits for these, and they belong to no session.
        .method_async("given_up", move |request: Vec<u8>| {
            let checked = given_up.check(&request);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(checked?.reply())
            }
        })
        .method("leave", move |request: &[u8]| leave.leave(request))
        // As many items as the number says, each as long as the reply would be.
        .streaming_bytes("stream", move |request, mut items: ByteItemSender| {
            let checked = stream.check(&request);
            async move {
                let Request {
                    session,
                    number,
                    reply_len,
                } = checked?;
                for n in 0..number {
                    let item = crate::payload::item(session, n, reply_len as usize);
                    items.send(item).await?;
                }
                Ok(())
            }
        })
        .client_streaming_bytes("upload", move |request, mut items: ByteItemReceiver| {
            let (checked, register) = (upload.check(&request), upload.clone());
            async move {
                let session = checked?.session;
                let mut count = 0u64;
                while let Some(item) = items.next().await {
                    if !is_item(&item?, session, count) {
                        return Err(register.spoilt("an item"));
                    }
                    count += 1;
                }
                Ok(count.to_le_bytes().to_vec())
            }
        })
        .bidirectional_bytes(
            "chat",
            move |request, mut incoming: ByteItemReceiver, mut outgoing: ByteItemSender| {
                let (checked, register) = (chat.check(&request), chat.clone());
                async move {
                    let session = checked?.session;
                    let mut count = 0u64;
                    while let Some(item) = incoming.next().await {
                        let item = item?;
                        if !is_item(&item, session, count) {
                            return Err(register.spoilt("an item"));
                        }
                        count += 1;
                        outgoing.send(item).await?;
                    }
                    Ok(())
                }
            },
        )
        .bind(CALLS)
        .unwrap()
}
