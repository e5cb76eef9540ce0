//! Round trips between processes that sleep in the kernel: no spinning anywhere.
//!
//! Each of them answers the same question (what does it cost to wake a sleeper and to be woken?)
//! for one way of sleeping. Only the futex cannot also watch a socket for the peer's death.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::memory::{LINE, Word};
use crate::{Arena, Descriptors, take};

/// A round trip over one way of sleeping.
pub trait Sleeping: Sized {
    /// The near side, and what the far side needs.
    ///
    /// # Errors
    /// When memory or descriptors cannot be had.
    fn create() -> io::Result<(Self, Descriptors)>;

    /// The far side.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    fn open(descriptors: Descriptors) -> io::Result<Self>;

    /// Wakes the far side and sleeps until it has answered.
    ///
    /// # Errors
    /// When the kernel refuses, or the far side is gone (a futex would sleep on).
    fn round_trip(&mut self) -> io::Result<()>;

    /// The far side: answers until the near side stops. Returns the number of round trips.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn answer(self) -> io::Result<u64>;

    /// Ends the far side's [`answer`](Self::answer).
    ///
    /// # Errors
    /// When the kernel refuses.
    fn stop(self) -> io::Result<()>;
}

/// Turns that a futex counts; the value above them stops the far side.
const LAST_TURN: u32 = u32::MAX - 1;

/// `FUTEX_WAIT` and `FUTEX_WAKE` on shared words.
pub struct Futex {
    mine: Word<AtomicU32>,
    theirs: Word<AtomicU32>,
    turn: u32,
}

impl Futex {
    fn throw(&self, turn: u32) -> io::Result<()> {
        // SYNC: futex-ping-pong
        self.mine.store(turn, Ordering::Release);
        futex::wake(&self.mine, futex::Flags::empty(), 1)?;
        Ok(())
    }

    /// Sleeps until the other side's word differs from `seen`, and returns it.
    fn catch(&self, seen: u32) -> io::Result<u32> {
        loop {
            // SYNC: futex-ping-pong
            let turn = self.theirs.load(Ordering::Acquire);
            if turn != seen {
                return Ok(turn);
            }
            match futex::wait(&self.theirs, futex::Flags::empty(), seen, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Sleeping for Futex {
    fn create() -> io::Result<(Self, Descriptors)> {
        let arena = Arena::create(2 * LINE)?;
        let near = Self {
            mine: arena.half_word(0),
            theirs: arena.half_word(LINE),
            turn: 0,
        };
        Ok((near, vec![arena.descriptor()?]))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("a futex", descriptors)?;
        let arena = Arena::open(memory)?;
        Ok(Self {
            mine: arena.half_word(LINE),
            theirs: arena.half_word(0),
            turn: 0,
        })
    }

    fn round_trip(&mut self) -> io::Result<()> {
        let seen = self.turn;
        self.turn = (seen + 1) % LAST_TURN;
        self.throw(self.turn)?;
        self.catch(seen).map(drop)
    }

    fn answer(mut self) -> io::Result<u64> {
        let mut answered = 0;
        loop {
            self.turn = self.catch(self.turn)?;
            if self.turn > LAST_TURN {
                return Ok(answered);
            }
            self.throw(self.turn)?;
            answered += 1;
        }
    }

    fn stop(self) -> io::Result<()> {
        self.throw(LAST_TURN + 1)
    }
}

/// What the two ways of sleeping on an eventfd share.
struct Doorbells {
    mine: OwnedFd,
    theirs: OwnedFd,
    /// Carries nothing; its end-of-file says that the peer is gone.
    control: UnixStream,
}

impl Doorbells {
    fn create() -> io::Result<(Self, Descriptors)> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (mine, theirs) = (eventfd(0, flags)?, eventfd(0, flags)?);
        let (control, far) = UnixStream::pair()?;
        let descriptors = vec![mine.try_clone()?, theirs.try_clone()?, far.into()];
        Ok((
            Self {
                mine,
                theirs,
                control,
            },
            descriptors,
        ))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [theirs, mine, control] = take("a pair of eventfds", descriptors)?;
        Ok(Self {
            mine,
            theirs,
            control: control.into(),
        })
    }

    fn ring(&self) -> io::Result<()> {
        rustix::io::write(&self.mine, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

fn peer_is_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the far side is gone")
}

/// `poll` on an eventfd and a socket; the eventfd is read each time.
pub struct EventfdPoll(Doorbells);

impl EventfdPoll {
    /// Sleeps until the other side rings; false when it is gone.
    fn sleep(&self) -> io::Result<bool> {
        let mut watched = [
            PollFd::new(&self.0.theirs, PollFlags::IN),
            PollFd::new(&self.0.control, PollFlags::IN),
        ];
        loop {
            match poll(&mut watched, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !watched[0].revents().is_empty() {
                rustix::io::read(&self.0.theirs, &mut [0; 8])?;
                return Ok(true);
            }
            if !watched[1].revents().is_empty() {
                return Ok(false);
            }
        }
    }
}

impl Sleeping for EventfdPoll {
    fn create() -> io::Result<(Self, Descriptors)> {
        let (doorbells, descriptors) = Doorbells::create()?;
        Ok((Self(doorbells), descriptors))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        Ok(Self(Doorbells::open(descriptors)?))
    }

    fn round_trip(&mut self) -> io::Result<()> {
        self.0.ring()?;
        if self.sleep()? {
            Ok(())
        } else {
            Err(peer_is_gone())
        }
    }

    fn answer(self) -> io::Result<u64> {
        let mut answered = 0;
        while self.sleep()? {
            self.0.ring()?;
            answered += 1;
        }
        Ok(answered)
    }

    fn stop(self) -> io::Result<()> {
        Ok(())
    }
}

/// `epoll` on an eventfd, edge-triggered, and a socket; the eventfd is never read.
pub struct EventfdEdge {
    doorbells: Doorbells,
    poller: OwnedFd,
}

const RUNG: u64 = 0;
const GONE: u64 = 1;

impl EventfdEdge {
    fn new(doorbells: Doorbells) -> io::Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(
            &poller,
            &doorbells.theirs,
            epoll::EventData::new_u64(RUNG),
            edge,
        )?;
        let level = epoll::EventFlags::IN;
        epoll::add(
            &poller,
            &doorbells.control,
            epoll::EventData::new_u64(GONE),
            level,
        )?;
        Ok(Self { doorbells, poller })
    }

    /// Sleeps until the other side rings; false when it is gone.
    fn sleep(&self) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); 2];
        loop {
            let (events, _) = match epoll::wait(&self.poller, &mut space, None) {
                Ok(events) => events,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if events.iter().any(|event| event.data.u64() == RUNG) {
                return Ok(true);
            }
            if !events.is_empty() {
                return Ok(false);
            }
        }
    }
}

impl Sleeping for EventfdEdge {
    fn create() -> io::Result<(Self, Descriptors)> {
        let (doorbells, descriptors) = Doorbells::create()?;
        Ok((Self::new(doorbells)?, descriptors))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        Self::new(Doorbells::open(descriptors)?)
    }

    fn round_trip(&mut self) -> io::Result<()> {
        self.doorbells.ring()?;
        if self.sleep()? {
            Ok(())
        } else {
            Err(peer_is_gone())
        }
    }

    fn answer(self) -> io::Result<u64> {
        let mut answered = 0;
        while self.sleep()? {
            self.doorbells.ring()?;
            answered += 1;
        }
        Ok(answered)
    }

    fn stop(self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that a socket ping-pong carries each way.
pub const SOCKET_BYTES: usize = 64;

/// Blocking reads and writes of 64 bytes on a Unix stream socket.
pub struct Socket(UnixStream);

impl Sleeping for Socket {
    fn create() -> io::Result<(Self, Descriptors)> {
        let (near, far) = UnixStream::pair()?;
        Ok((Self(near), vec![far.into()]))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [socket] = take("a socket pair", descriptors)?;
        Ok(Self(socket.into()))
    }

    fn round_trip(&mut self) -> io::Result<()> {
        let mut bytes = [0x5a; SOCKET_BYTES];
        self.0.write_all(&bytes)?;
        self.0.read_exact(&mut bytes)
    }

    fn answer(mut self) -> io::Result<u64> {
        let mut answered = 0;
        let mut bytes = [0; SOCKET_BYTES];
        loop {
            match self.0.read_exact(&mut bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(answered),
                Err(error) => return Err(error),
            }
            self.0.write_all(&bytes)?;
            answered += 1;
        }
    }

    fn stop(self) -> io::Result<()> {
        Ok(())
    }
}
