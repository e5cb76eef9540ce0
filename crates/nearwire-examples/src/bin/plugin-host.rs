//! A host of plugins, each a process of its own: started, supervised, and started again when it
//! dies.
//!
//! ```console
//! $ plugin-host serve host --plugin 'text=plugin-text /tmp/log' &
//! $ plugin-host list host
//! $ plugin-host call host text upper hello --idempotent
//! ```
//!
//! A plugin is a Nearwire server with a name that the host gives it. The host calls it through a
//! pool, which connects again to its successor. A call under which the plugin dies is made again
//! only if its caller said that this does no harm; any other ends with an error that says whether
//! it may have been executed.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use nearwire::{Client, Code, Error, Pool, Server, Status};
use nearwire_examples::plugins::{Plugin, Request};
use tokio::process::{Child, Command as Process};

#[derive(Parser)]
#[command(about = "Run plugins as processes, and call them")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start plugins and serve calls to them.
    Serve {
        name: String,
        /// A plugin: NAME=PROGRAM ARGUMENTS, separated by blanks.
        #[arg(long, required = true)]
        plugin: Vec<Program>,
    },
    /// Print each plugin's name, process and number of restarts.
    List { name: String },
    /// Call a method of a plugin.
    Call {
        name: String,
        plugin: String,
        method: String,
        data: String,
        /// The call may be made twice.
        #[arg(long)]
        idempotent: bool,
    },
}

/// What a plugin is started with.
#[derive(Clone)]
struct Program {
    name: String,
    program: String,
    arguments: Vec<String>,
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, line) = text.split_once('=').ok_or("NAME=PROGRAM ARGUMENTS")?;
        let mut words = line.split_whitespace().map(str::to_owned);
        Ok(Self {
            name: name.to_owned(),
            program: words.next().ok_or("the program is missing")?,
            arguments: words.collect(),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Serve { name, plugin } => serve(&name, plugin).await,
        Command::List { name } => {
            let client = Client::connect(&name).await?;
            let plugins: Vec<Plugin> = client.call("list", &()).await?;
            for plugin in plugins {
                let process = plugin.process.unwrap_or(0);
                println!("{} {process} {}", plugin.name, plugin.restarts);
            }
            Ok(())
        }
        Command::Call {
            name,
            plugin,
            method,
            data,
            idempotent,
        } => {
            let client = Client::connect(&name).await?;
            let request = Request {
                plugin,
                method,
                payload: data.into_bytes(),
                idempotent,
            };
            let reply: Vec<u8> = client.call("call", &request).await?;
            println!("{}", String::from_utf8_lossy(&reply));
            Ok(())
        }
    }
}

/// A plugin that is looked after.
struct Supervised {
    pool: Pool,
    /// Its process's id; 0 while there is none.
    process: AtomicU32,
    restarts: AtomicU64,
}

async fn serve(name: &str, programs: Vec<Program>) -> anyhow::Result<()> {
    let mut plugins = BTreeMap::new();
    for program in programs {
        let served_as = format!("{name}.{}", program.name);
        let plugin = Arc::new(Supervised {
            // That it does not serve yet is no error: calls wait for it.
            pool: Pool::builder().max_size(1).build(&served_as)?,
            process: AtomicU32::new(0),
            restarts: AtomicU64::new(0),
        });
        let child = start(&program, &served_as)?;
        let supervised = Arc::clone(&plugin);
        plugins.insert(program.name.clone(), plugin);
        tokio::spawn(supervise(supervised, program, served_as, child));
    }
    let plugins = Arc::new(plugins);
    let listed = Arc::clone(&plugins);
    let server = Server::builder()
        .typed("list", move |()| {
            let plugins = listed.iter().map(|(name, plugin)| Plugin {
                name: name.clone(),
                process: Some(plugin.process.load(Relaxed)).filter(|id| *id != 0),
                restarts: plugin.restarts.load(Relaxed),
            });
            Ok(plugins.collect::<Vec<_>>())
        })
        .typed_async("call", move |request: Request| {
            let plugin = plugins.get(&request.plugin).cloned();
            async move {
                let Some(plugin) = plugin else {
                    let text = format!("there is no plugin {:?}", request.plugin);
                    return Err(Status::new(Code::NOT_FOUND, text));
                };
                let call = plugin.pool.call_bytes(&request.method, &request.payload);
                let reply = match request.idempotent {
                    true => call.idempotent().await,
                    false => call.await,
                };
                reply.map_err(status)
            }
        })
        .bind(name)?;
    eprintln!("serving {name}");
    server.serve_until(tokio::signal::ctrl_c()).await?;
    // Plugins end with this process: their standard input does.
    Ok(())
}

/// What the caller is told about a call that a plugin did not answer.
fn status(error: Error) -> Status {
    match error {
        // The plugin's own words.
        Error::Status(status) => status,
        error if error.may_have_executed() => Status::new(
            Code::ABORTED,
            format!("the plugin died, and may have done it: {error}"),
        ),
        error => Status::new(Code::UNAVAILABLE, format!("it was not done: {error}")),
    }
}

fn start(program: &Program, served_as: &str) -> anyhow::Result<Child> {
    Process::new(&program.program)
        .args(&program.arguments)
        .env("NEARWIRE_PLUGIN", served_as)
        // Held by this process, so that a plugin learns of its end, even by kill -9.
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.program))
}

/// A plugin that dies sooner than this after its start is started again later and later.
const STEADY: Duration = Duration::from_secs(5);

/// The first of these delays, and the longest.
const DELAYS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

async fn supervise(plugin: Arc<Supervised>, program: Program, served_as: String, first: Child) {
    let mut child = Ok(first);
    let mut delay = DELAYS.0;
    loop {
        let started = Instant::now();
        match &mut child {
            Ok(child) => {
                plugin.process.store(child.id().unwrap_or(0), Relaxed);
                // Waiting closes it, unless it is taken out: the plugin would end at once.
                let held = child.stdin.take();
                let ended = child.wait().await;
                drop(held);
                plugin.process.store(0, Relaxed);
                match ended {
                    Ok(status) => eprintln!("plugin {} ended: {status}", program.name),
                    Err(error) => eprintln!("plugin {} is lost: {error}", program.name),
                }
            }
            Err(error) => eprintln!("{error:#}"),
        }
        if started.elapsed() >= STEADY {
            delay = DELAYS.0;
        }
        tokio::time::sleep(delay).await;
        delay = (2 * delay).min(DELAYS.1);
        child = start(&program, &served_as);
        plugin.restarts.fetch_add(1, Relaxed);
    }
}
