//! A named pipe: Tokio's at the server's end, and at the caller's too or, for a thread that waits, a
//! file.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};
use tokio::runtime::{Builder, Runtime};

use super::{end_of_broken, unless_blocking};
use crate::private;
use crate::process::Descriptor;

/// What reports call it.
pub const NAME: &str = "named pipe";

/// An end for a thread that waits.
pub type Stream = File;

/// An end for Tokio.
pub type AsyncStream = NamedPipeClient;

/// How long a server may take until it has a pipe for the next caller.
const PATIENCE: Duration = Duration::from_secs(10);

/// All pipes of that name have a caller, and the next one is not made yet.
const ERROR_PIPE_BUSY: i32 = 231;

/// Bytes that either direction holds, as many as a Unix socket does by default.
const HELD: u32 = 208 << 10;

fn server_options() -> ServerOptions {
    let mut options = ServerOptions::new();
    options.in_buffer_size(HELD).out_buffer_size(HELD);
    options
}

/// What leads to the ends of a new connection: the caller's, and the server's. The server makes the
/// pipe, and the caller waits for it.
///
/// # Errors
/// None on this system.
pub fn ends() -> Result<(Descriptor, Descriptor)> {
    let name = private::pipe_name();
    Ok((name.clone(), name))
}

/// Waits until `connect` finds a pipe that has no caller.
fn until_there<T>(name: &str, connect: impl Fn() -> io::Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect() {
            Err(error)
                if Instant::now() < deadline
                    && (error.kind() == io::ErrorKind::NotFound
                        || error.raw_os_error() == Some(ERROR_PIPE_BUSY)) =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => {
                return outcome.with_context(|| format!("cannot connect to the server at {name}"));
            }
        }
    }
}

/// The caller's end.
///
/// # Errors
/// If the server makes no pipe within 10 s.
pub fn open(end: Descriptor) -> Result<Stream> {
    connect(&end)
}

/// The caller's end, for the runtime that this runs in.
///
/// # Errors
/// As [`open`].
pub fn open_async(end: Descriptor) -> Result<AsyncStream> {
    connect_async(&end)
}

/// Connects to a [`Listener`].
///
/// # Errors
/// If nobody listens there for 10 s.
pub fn connect(name: &str) -> Result<Stream> {
    until_there(name, || {
        OpenOptions::new().read(true).write(true).open(name)
    })
}

/// As [`connect`], for the runtime that this runs in.
///
/// # Errors
/// As [`connect`].
pub fn connect_async(name: &str) -> Result<AsyncStream> {
    until_there(name, || ClientOptions::new().open(name))
}

/// The server's end, for a thread that waits.
pub struct Served {
    pipe: NamedPipeServer,
    runtime: Runtime,
}

/// The server's end.
///
/// # Errors
/// If the name is taken, or no caller can come.
pub fn accept(end: Descriptor) -> Result<Served> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let pipe = runtime.block_on(accept_async(end))?;
    Ok(Served { pipe, runtime })
}

impl Read for Served {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        end_of_broken(self.runtime.block_on(self.pipe.read(into)))
    }
}

impl Write for Served {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's end, for the runtime that this runs in.
///
/// # Errors
/// If the name is taken, or no caller can come.
pub async fn accept_async(end: Descriptor) -> Result<NamedPipeServer> {
    let cannot = || format!("cannot serve at {end}");
    let mut options = server_options();
    let pipe = options.first_pipe_instance(true).create(&end);
    let pipe = pipe.with_context(cannot)?;
    pipe.connect().await.with_context(cannot)?;
    Ok(pipe)
}

/// A server's name, for the runtime that it is made in.
pub struct Listener {
    name: String,
    /// The one that the next caller gets.
    next: NamedPipeServer,
}

impl Listener {
    /// Listens under the name of a pipe.
    ///
    /// # Errors
    /// If the name is taken, or cannot be had.
    pub fn bind(name: &str) -> Result<Self> {
        let mut options = server_options();
        let next = options.first_pipe_instance(true).create(name);
        Ok(Self {
            name: name.to_owned(),
            next: next.with_context(|| format!("cannot serve at {name}"))?,
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If the system has no pipe left, as a rule.
    pub async fn accept(&mut self) -> io::Result<NamedPipeServer> {
        self.next.connect().await?;
        let next = server_options().create(&self.name)?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

/// What connections that never block have in common: who asks the system for all of them at once
/// what has come.
#[derive(Clone)]
pub struct Driver(Rc<Asking>);

struct Asking {
    runtime: Runtime,
    /// How often it was asked.
    times: Cell<u64>,
}

impl Driver {
    /// For all connections of a thread.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn new() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let times = Cell::new(0);
        Ok(Self(Rc::new(Asking { runtime, times })))
    }

    fn ask<T>(&self, what: impl Future<Output = T>) -> T {
        self.0.times.set(self.0.times.get() + 1);
        self.0.runtime.block_on(what)
    }
}

/// A caller's end that never blocks, but when asked to.
pub struct Polled {
    pipe: NamedPipeClient,
    driver: Driver,
    /// How often the system had been asked when nothing was here the last time.
    asked: u64,
}

impl Polled {
    /// As [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub fn connect(name: &str, driver: &Driver) -> Result<Self> {
        let _context = driver.0.runtime.enter();
        Ok(Self {
            pipe: connect_async(name)?,
            driver: driver.clone(),
            asked: 0,
        })
    }

    /// As [`open`].
    ///
    /// # Errors
    /// As [`open`].
    #[cfg(test)]
    pub fn open(end: Descriptor, driver: &Driver) -> Result<Self> {
        Self::connect(&end, driver)
    }

    /// Reads what is there, 0 bytes at the end; `None` if there is nothing.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let read = unless_blocking(|| end_of_broken(self.pipe.try_read(into)))?;
        if read.is_none() && self.ask_again() {
            return unless_blocking(|| end_of_broken(self.pipe.try_read(into)));
        }
        Ok(read)
    }

    /// Writes what there is room for; `None` if there is none.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        unless_blocking(|| self.pipe.try_write(bytes))
    }

    /// Asks the system what has come, unless that was done since this connection had nothing the last
    /// time: one question for each round of all connections.
    fn ask_again(&mut self) -> bool {
        let asked = self.driver.0.times.get();
        let again = std::mem::replace(&mut self.asked, asked) == asked;
        if again {
            self.driver.ask(tokio::task::yield_now());
            self.asked += 1;
        }
        again
    }

    /// Blocks until there is something to read, or room to write if that is wished for.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn wait(&mut self, for_room: bool) -> io::Result<()> {
        let mut interest = Interest::READABLE;
        if for_room {
            interest |= Interest::WRITABLE;
        }
        self.driver.ask(self.pipe.ready(interest))?;
        Ok(())
    }
}
