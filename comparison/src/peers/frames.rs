//! Frames over anything that can be read and written: a length of four bytes, then the message.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use nearwire_cli::comparison::{FrameReader, HEADER, header, write_frame};

use crate::drive::blocking::Lane;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Each with a system call of its own.
    Singly,
    /// All that there are with one.
    Coalesced,
}

/// A connection.
pub struct FrameLane<R, W> {
    input: R,
    output: W,
    writing: Writing,
    reader: FrameReader,
    /// Frames that are to be written together.
    gathered: Vec<u8>,
}

impl<R: Read, W: Write> FrameLane<R, W> {
    pub fn new(input: R, output: W, writing: Writing) -> Self {
        Self {
            input,
            output,
            writing,
            reader: FrameReader::default(),
            gathered: Vec::new(),
        }
    }
}

impl<R: Read, W: Write> Lane for FrameLane<R, W> {
    fn submit(&mut self, request: &[u8]) -> Result<()> {
        match self.writing {
            Writing::Singly => write_frame(&mut self.output, request),
            Writing::Coalesced => {
                self.gathered.extend(header(request.len())?);
                self.gathered.extend(request);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.gathered.is_empty() {
            self.output.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }

    fn collect(&mut self, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let frame = self.reader.read(&mut self.input)?;
        check(&frame.context("the server is gone")?[HEADER..])
    }
}

/// Answers every frame until the other side closes the connection.
pub fn answer(mut input: impl Read, mut output: impl Write, writing: Writing) -> Result<()> {
    let mut reader = FrameReader::default();
    let mut gathered = Vec::new();
    while let Some(frame) = reader.read(&mut input)? {
        if writing == Writing::Singly {
            // The frame that came is the frame that goes, header and all.
            output.write_all(frame)?;
            continue;
        }
        gathered.extend(frame);
        if !reader.has_more() {
            output.write_all(&gathered)?;
            gathered.clear();
        }
    }
    Ok(())
}
