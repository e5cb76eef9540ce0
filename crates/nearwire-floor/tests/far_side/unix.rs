//! Descriptors go over a socket, which is the far side's input.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use nearwire_floor::Descriptors;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most that one test hands over.
const MOST: usize = 2;

/// What ends when the near side does.
pub type Line = UnixStream;

pub fn start(mut command: Command, descriptors: Descriptors) -> (Child, Line) {
    let (line, far) = UnixStream::pair().unwrap();
    let child = command.stdin(OwnedFd::from(far)).spawn().unwrap();
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let flags = SendFlags::empty();
    sendmsg(&line, &[IoSlice::new(b"!")], &mut ancillary, flags).unwrap();
    (child, line)
}

pub fn handed_over() -> (Descriptors, impl Read + Send) {
    let line = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    recvmsg(&line, &mut into, &mut ancillary, RecvFlags::empty()).unwrap();
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    (descriptors, UnixStream::from(line))
}
