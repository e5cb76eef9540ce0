//! `nearwire top`: a server, live.

mod history;
mod rows;
#[cfg(unix)]
mod signals;
mod view;

use std::io::{IsTerminal, stdout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearwire::Observer;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::arguments;
use crate::rates::Interval;
use history::History;
use rows::Order;

/// How long keys are waited for at a time, so that a signal is noticed soon.
const KEY_WAIT: Duration = Duration::from_millis(50);

/// Watch a server: rates, handler times, and each connection with its rings.
///
/// It reads the server's counters page, read-only, and costs the server nothing. Keys: q quits, s
/// sorts by another column, the arrows scroll. If the server ends, the next one of its name is
/// waited for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nearwire top demo
  nearwire top demo --interval 2s
  nearwire stat demo --watch    # the same rates as lines, without a terminal")]
pub struct Top {
    /// The server's name, or the path of its socket.
    pub name: String,
    /// How often to look.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = arguments::duration)]
    interval: Duration,
    /// Draw with ASCII characters only, as is done where the locale is not UTF-8.
    #[arg(long)]
    ascii: bool,
}

/// What the screen shows.
#[derive(Debug)]
struct Screen {
    name: String,
    /// The last interval. None right after the server was found.
    interval: Option<Interval>,
    history: History,
    /// Why there is nothing new, if so.
    gone: Option<String>,
    order: Order,
    /// Connections that are scrolled past.
    skipped: usize,
    ascii: bool,
}

impl Top {
    /// Watches until it is told to stop.
    ///
    /// # Errors
    /// If the server cannot be looked at, or there is no terminal.
    pub fn run(&self) -> Result<()> {
        if !stdout().is_terminal() {
            bail!("`nearwire top` needs a terminal: `nearwire stat --watch` prints lines");
        }
        let observer = Observer::connect(&self.name)?;
        // Without a handler of their own they would leave the terminal as it is.
        #[cfg(unix)]
        let signal = signals::watch()?;
        // There Ctrl-C is a key.
        #[cfg(not(unix))]
        let signal = AtomicUsize::new(0);
        // Also sees to it that a panic leaves the terminal clean.
        let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
        let watched = self.watch(&mut terminal, observer, &signal);
        // Its drop would do it, and a signal's default action drops nothing.
        terminal
            .show_cursor()
            .context("cannot give the cursor back")?;
        ratatui::try_restore().context("cannot give the terminal back")?;
        watched?;
        #[cfg(unix)]
        if let number @ 1.. = signal.load(Relaxed) {
            return signals::end_by(number);
        }
        Ok(())
    }

    fn watch(
        &self,
        terminal: &mut DefaultTerminal,
        observer: Observer,
        signal: &AtomicUsize,
    ) -> Result<()> {
        let mut screen = Screen {
            name: self.name.clone(),
            interval: None,
            history: History::default(),
            gone: None,
            order: Order::Rate,
            skipped: 0,
            ascii: self.ascii || !is_utf8(),
        };
        let mut earlier = observer.snapshot();
        let mut observer = Some(observer);
        let mut next = Instant::now() + self.interval.min(Duration::from_millis(200));
        loop {
            terminal.draw(|frame| view::draw(frame, &screen))?;
            loop {
                if signal.load(Relaxed) != 0 {
                    return Ok(());
                }
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                if !event::poll(left.min(KEY_WAIT))? {
                    continue;
                }
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        if !screen.press(key) {
                            return Ok(());
                        }
                        break;
                    }
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
            if Instant::now() < next {
                continue;
            }
            next = Instant::now() + self.interval;
            if observer
                .as_ref()
                .is_none_or(|observer| !observer.is_alive())
            {
                // Another of the same name?
                observer = match Observer::connect(&self.name) {
                    Ok(observer) => {
                        earlier = observer.snapshot();
                        screen.gone = None;
                        Some(observer)
                    }
                    Err(error) => {
                        screen.gone = Some(error.to_string());
                        None
                    }
                };
                continue;
            }
            if let Some(observer) = &observer {
                let now = observer.snapshot();
                let interval = Interval { earlier, now };
                earlier = interval.now.clone();
                screen.history.add(&interval);
                screen.interval = Some(interval);
            }
        }
    }
}

impl Screen {
    /// Does what a key says. False: quit.
    fn press(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return false,
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Down | KeyCode::Char('j') => self.skipped = self.skipped.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.skipped = self.skipped.saturating_sub(1),
            KeyCode::PageDown => self.skipped = self.skipped.saturating_add(10),
            KeyCode::PageUp => self.skipped = self.skipped.saturating_sub(10),
            KeyCode::Home => self.skipped = 0,
            _ => {}
        }
        let connections = self
            .interval
            .as_ref()
            .map_or(0, |i| i.now.connections.len());
        self.skipped = self.skipped.min(connections.saturating_sub(1));
        true
    }
}

/// Whether the terminal is said to show more than ASCII.
fn is_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find(|name| set(name));
    let locale = locale.and_then(|name| std::env::var(name).ok());
    locale.is_some_and(|locale| {
        locale
            .to_ascii_lowercase()
            .replace('-', "")
            .contains("utf8")
    })
}
