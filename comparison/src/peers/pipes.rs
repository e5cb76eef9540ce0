//! Two named pipes for each connection.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::frames::{FrameLane, Writing, answer};
use crate::peer::{About, Peer, Setup};

/// Bytes that a pipe holds; the most that the system allows without privilege, as a rule.
const PIPE: usize = 1 << 20;

pub struct Pipes;

impl Peer for Pipes {
    type Clients = Vec<FrameLane<File, File>>;
    const ABOUT: About = About {
        name: "pipes",
        title: "pipes",
        spins: false,
        packages: &[],
        configuration: "Two FIFOs for each connection, one for each direction, each enlarged to 1 MiB \
            where the system allows it; blocking reads and writes, a server thread for each \
            connection, the same frames as over the socket, one write for each message.",
        cannot: &[],
    };

    fn serve(setup: &Setup) -> Result<Box<dyn Any>> {
        let place = setup.place.clone();
        let doors = door(&place);
        make(&doors)?;
        // Open for writing as well, so that it never ends.
        let doors = OpenOptions::new().read(true).write(true).open(doors)?;
        thread::spawn(move || {
            for name in BufReader::new(doors).lines().map_while(Result::ok) {
                let paths = paths(&place, &name);
                thread::spawn(move || {
                    let (input, output) = (File::open(&paths[0])?, write_to(&paths[1])?);
                    answer(input, output, Writing::Singly)
                });
            }
        });
        Ok(Box::new(()))
    }

    fn connect(setup: &Setup) -> Result<Self::Clients> {
        let mut doors = OpenOptions::new().write(true).open(door(&setup.place))?;
        (0..setup.own)
            .map(|number| {
                let name = format!("{}-{number}", std::process::id());
                let [requests, replies] = paths(&setup.place, &name);
                make(&requests)?;
                make(&replies)?;
                doors.write_all(format!("{name}\n").as_bytes())?;
                // Opening waits for the server to open the other end.
                let output = write_to(&requests)?;
                let input = File::open(&replies)?;
                // Both have it open; a later connection may take the name again.
                std::fs::remove_file(requests)?;
                std::fs::remove_file(replies)?;
                Ok(FrameLane::new(input, output, Writing::Singly))
            })
            .collect()
    }
}

fn door(place: &Path) -> PathBuf {
    place.join("door")
}

fn paths(place: &Path, name: &str) -> [PathBuf; 2] {
    ["requests", "replies"].map(|direction| place.join(format!("{name}-{direction}")))
}

fn make(path: &Path) -> Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .with_context(|| format!("cannot make a pipe at {}", path.display()))
}

fn write_to(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).open(path)?;
    // All pipes of a user together have a limit, too: then it keeps its 64 KiB.
    let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE);
    Ok(file)
}
