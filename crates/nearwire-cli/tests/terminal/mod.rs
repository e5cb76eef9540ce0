//! A terminal for the command: a pty, and what it shows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::command::eventually;

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// A command in a terminal. Killed when dropped.
pub struct Terminal {
    process: Child,
    keyboard: File,
    /// Kept, so that the terminal's settings can be looked at after the command's end.
    line: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || {
            let path = name.to_str().unwrap();
            File::options().read(true).write(true).open(path).unwrap()
        };
        let line = open();
        let size = Winsize {
            ws_row: ROWS,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&line, size).unwrap();
        let process = command
            .env("TERM", "xterm")
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap();
        // The command's own copies.
        drop(command);
        let keyboard = File::from(controller);
        let mut output = keyboard.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let shown = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with an error when nobody has the terminal open any more.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..count]);
            }
        });
        Self {
            process,
            keyboard,
            line: line.into(),
            screen,
            reader: Some(reader),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen shows this.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        self.expect_so(text, |contents| contents.contains(text));
    }

    #[track_caller]
    pub fn expect_so(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || is_so(&self.contents()));
        }));
        assert!(shown.is_ok(), "no {what:?} on\n{}", self.contents());
    }

    /// Waits for the command's end, and checks that it leaves the terminal as it was.
    #[track_caller]
    pub fn wait_and_expect_clean(mut self) -> ExitStatus {
        let mut status = None;
        eventually("the command ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        let settings = tcgetattr(&self.line).unwrap();
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(settings.local_modes.contains(usual), "the terminal is raw");
        eventually("the screen is given back", || {
            let parser = self.screen.lock().unwrap();
            let screen = parser.screen();
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        status.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The reader ends when the last end of the line is closed: this is it, by and by.
        drop(self.reader.take());
    }
}
