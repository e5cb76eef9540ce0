//! A code-search server, and a client that searches as its user types.
//!
//! ```console
//! $ code-search serve code ~/src/linux &
//! $ code-search find code 'fn\s+main'
//! $ code-search type code          # each line on standard input: the pattern as it is by now
//! ```
//!
//! Matches come as a stream: the first is on the screen while the last file is still to be read. A
//! client that has enough drops the stream, and the server stops reading files. A client that is
//! slow slows the search down: nothing piles up.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use clap::{Parser, Subcommand};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::sinks::Lossy;
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignore::{WalkBuilder, WalkState};
use nearwire::{Client, Code, ItemSender, Items, Server, Status};
use nearwire_examples::search::{Counts, Match, Query};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

#[derive(Parser)]
#[command(about = "Search source code in another process, as you type")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve searches in a directory.
    Serve { name: String, directory: PathBuf },
    /// Print all matches.
    Find {
        name: String,
        pattern: String,
        #[arg(short, long)]
        ignore_case: bool,
    },
    /// Search anew with each line of standard input, and give up what was under way.
    Type {
        name: String,
        /// Matches that have room on the screen.
        #[arg(long, default_value_t = 20)]
        screen: usize,
    },
    /// Print what the server has done so far.
    Status { name: String },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Serve { name, directory } => serve(&name, directory).await,
        Command::Find {
            name,
            pattern,
            ignore_case,
        } => {
            find(
                &name,
                Query {
                    pattern,
                    ignore_case,
                },
            )
            .await
        }
        Command::Type { name, screen } => search_as_typed(&name, screen).await,
        Command::Status { name } => {
            let counts: Counts = Client::connect(&name).await?.call("status", &()).await?;
            println!("{counts:?}");
            Ok(())
        }
    }
}

/// Matches that a search may be ahead of its caller, besides the stream's own credits.
const AHEAD: usize = 64;

/// What the handlers share.
#[derive(Default)]
struct Totals {
    running: AtomicU64,
    finished: AtomicU64,
    cancelled: AtomicU64,
    files: AtomicU64,
}

/// One search in the totals. Dropped before its end, it was cancelled.
struct Running {
    totals: Arc<Totals>,
    finished: bool,
}

impl Running {
    fn start(totals: &Arc<Totals>) -> Self {
        totals.running.fetch_add(1, Relaxed);
        Self {
            totals: Arc::clone(totals),
            finished: false,
        }
    }

    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let totals = &self.totals;
        totals.running.fetch_sub(1, Relaxed);
        let end = if self.finished {
            &totals.finished
        } else {
            &totals.cancelled
        };
        end.fetch_add(1, Relaxed);
    }
}

async fn serve(name: &str, directory: PathBuf) -> anyhow::Result<()> {
    let directory: Arc<Path> = directory
        .canonicalize()
        .with_context(|| format!("cannot search {}", directory.display()))?
        .into();
    let totals = Arc::new(Totals::default());
    let server = Server::builder()
        .streaming("search", {
            let (directory, totals) = (Arc::clone(&directory), Arc::clone(&totals));
            move |query: Query, mut out: ItemSender<Match>| {
                let started = start(&query, Arc::clone(&directory), &totals);
                async move {
                    let (mut matches, running) = started?;
                    // When the caller goes away or drops the stream, this future is dropped, and
                    // `matches` with it: that is what the search notices.
                    while let Some(found) = matches.recv().await {
                        out.send(&found).await?;
                    }
                    running.finish();
                    Ok(())
                }
            }
        })
        .typed_async("count", {
            let totals = Arc::clone(&totals);
            move |query: Query| {
                let started = start(&query, Arc::clone(&directory), &totals);
                async move {
                    let (mut matches, running) = started?;
                    let mut lines = 0u64;
                    while matches.recv().await.is_some() {
                        lines += 1;
                    }
                    running.finish();
                    Ok(lines)
                }
            }
        })
        .typed("status", move |()| {
            Ok(Counts {
                running: totals.running.load(Relaxed),
                finished: totals.finished.load(Relaxed),
                cancelled: totals.cancelled.load(Relaxed),
                files: totals.files.load(Relaxed),
            })
        })
        .bind(name)?;
    eprintln!("serving {name}");
    server.serve_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}

/// Starts a search on threads of its own. It ends early when nobody takes its matches any more.
fn start(
    query: &Query,
    directory: Arc<Path>,
    totals: &Arc<Totals>,
) -> Result<(mpsc::Receiver<Match>, Running), Status> {
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(query.ignore_case)
        .line_terminator(Some(b'\n'))
        .build(&query.pattern)
        .map_err(|error| Status::new(Code::INVALID_ARGUMENT, error.to_string()))?;
    let (found, matches) = mpsc::channel(AHEAD);
    let running = Running::start(totals);
    let totals = Arc::clone(totals);
    tokio::task::spawn_blocking(move || search(&matcher, &directory, &found, &totals));
    Ok((matches, running))
}

fn search(matcher: &RegexMatcher, directory: &Path, found: &mpsc::Sender<Match>, totals: &Totals) {
    WalkBuilder::new(directory).build_parallel().run(|| {
        let mut searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(b'\0'))
            .build();
        Box::new(move |entry| {
            if found.is_closed() {
                return WalkState::Quit;
            }
            // A file that cannot be read is as if it were not there.
            if let Ok(entry) = entry
                && entry.file_type().is_some_and(|kind| kind.is_file())
            {
                totals.files.fetch_add(1, Relaxed);
                search_file(&mut searcher, matcher, directory, entry.path(), found);
            }
            WalkState::Continue
        })
    });
}

fn search_file(
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    directory: &Path,
    path: &Path,
    found: &mpsc::Sender<Match>,
) {
    let name = path.strip_prefix(directory).unwrap_or(path);
    let name = name.to_string_lossy();
    let sink = Lossy(|line, text| {
        // Waits while the caller is behind; fails when it is gone.
        let sent = found.blocking_send(Match {
            path: name.clone().into_owned(),
            line,
            text: text.trim_end_matches(['\r', '\n']).to_owned(),
        });
        Ok(sent.is_ok())
    });
    // What cannot be read to its end has shown what it could.
    let _ = searcher.search_path(matcher, path, sink);
}

async fn find(name: &str, query: Query) -> anyhow::Result<()> {
    let client = Client::connect(name).await?;
    let mut matches = client.stream::<Match>("search", &query);
    while let Some(found) = matches.next().await {
        match print(&found?) {
            // Whoever reads has seen enough (`| head`): dropping the stream ends the search.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            printed => printed?,
        }
    }
    Ok(())
}

fn print(found: &Match) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{}:{}: {}",
        found.path,
        found.line,
        found.text
    )
}

async fn search_as_typed(name: &str, screen: usize) -> anyhow::Result<()> {
    let client = Client::connect(name).await?;
    let mut typed = BufReader::new(tokio::io::stdin()).lines();
    let mut search: Option<Items<Match>> = None;
    let mut shown = 0;
    loop {
        tokio::select! {
            line = typed.next_line() => {
                let Some(pattern) = line? else { break };
                println!("? {pattern}");
                shown = 0;
                let ignore_case = pattern.chars().all(|c| !c.is_uppercase());
                // The search before it is dropped here, and so cancelled.
                search = Some(client.stream("search", &Query { pattern, ignore_case }));
            }
            // A full screen takes no more, and the search waits for what its user does next.
            found = next(&mut search), if search.is_some() && shown < screen => match found {
                Some(Ok(found)) => {
                    print(&found)?;
                    shown += 1;
                }
                // A pattern that is half typed may be no pattern yet.
                Some(Err(nearwire::Error::Status(status))) => println!("! {}", status.message),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    println!(". {shown} shown, that is all");
                    search = None;
                }
            },
        }
    }
    Ok(())
}

async fn next(search: &mut Option<Items<Match>>) -> Option<nearwire::Result<Match>> {
    search.as_mut()?.next().await
}
