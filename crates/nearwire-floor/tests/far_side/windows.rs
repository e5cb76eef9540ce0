//! Names go over a pipe, which is the far side's input, one a line, with an empty line behind them.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use nearwire_floor::Descriptors;

/// What ends when the near side does.
pub type Line = ChildStdin;

pub fn start(mut command: Command, descriptors: Descriptors) -> (Child, Line) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut line = child.stdin.take().unwrap();
    for name in descriptors {
        writeln!(line, "{name}").unwrap();
    }
    writeln!(line).unwrap();
    (child, line)
}

pub fn handed_over() -> (Descriptors, impl Read + Send) {
    let names = std::io::stdin().lines().map(Result::unwrap);
    let descriptors = names.take_while(|name| !name.is_empty()).collect();
    (descriptors, std::io::stdin())
}
