//! Round trips between processes that sleep in the kernel: no spinning anywhere.
//!
//! Each of them answers the same question (what does it cost to wake a sleeper and to be woken?)
//! for one way of sleeping. Only the futex cannot also watch a socket for the peer's death.

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, epoll, eventfd};
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

/// The highest turn; a value above stops the far side.
const LAST_TURN: u32 = u32::MAX - 1;

/// A word for each side, in which it counts its turns: what a sleeper waits to see changed.
struct Turns {
    mine: Word<AtomicU32>,
    theirs: Word<AtomicU32>,
    turn: u32,
}

impl Turns {
    fn create() -> io::Result<(Self, OwnedFd)> {
        let arena = Arena::create(2 * LINE)?;
        let near = Self {
            mine: arena.half_word(0),
            theirs: arena.half_word(LINE),
            turn: 0,
        };
        Ok((near, arena.descriptor()?))
    }

    fn open(memory: OwnedFd) -> io::Result<Self> {
        let arena = Arena::open(memory)?;
        Ok(Self {
            mine: arena.half_word(LINE),
            theirs: arena.half_word(0),
            turn: 0,
        })
    }

    /// Shows the other side the turn. It must be woken then.
    fn show(&self, turn: u32) {
        // SYNC: turns
        self.mine.store(turn, Ordering::Release);
    }

    /// The other side's turn, if it is not this side's.
    fn seen(&self) -> Option<u32> {
        // SYNC: turns
        Some(self.theirs.load(Ordering::Acquire)).filter(|turn| *turn != self.turn)
    }
}

/// A round trip of which both sides wait for their turns: the same for each way that has [`Turns`].
trait TakesTurns: Sized {
    fn turns(&mut self) -> &mut Turns;

    /// Wakes the other side.
    fn wake(&self) -> io::Result<()>;

    /// Sleeps until the other side's turn has changed, and returns it.
    fn catch(&self) -> io::Result<u32>;

    fn throw(&mut self, turn: u32) -> io::Result<()> {
        self.turns().show(turn);
        self.wake()
    }

    fn go_and_return(&mut self) -> io::Result<()> {
        let next = (self.turns().turn + 1) % LAST_TURN;
        self.throw(next)?;
        self.turns().turn = self.catch()?;
        Ok(())
    }

    fn return_each(mut self) -> io::Result<u64> {
        let mut answered = 0;
        loop {
            let turn = self.catch()?;
            if turn > LAST_TURN {
                return Ok(answered);
            }
            self.turns().turn = turn;
            self.throw(turn)?;
            answered += 1;
        }
    }
}

/// `FUTEX_WAIT` and `FUTEX_WAKE` on shared words.
pub struct Futex(Turns);

impl TakesTurns for Futex {
    fn turns(&mut self) -> &mut Turns {
        &mut self.0
    }

    fn wake(&self) -> io::Result<()> {
        futex::wake(&self.0.mine, futex::Flags::empty(), 1)?;
        Ok(())
    }

    fn catch(&self) -> io::Result<u32> {
        loop {
            if let Some(turn) = self.0.seen() {
                return Ok(turn);
            }
            match futex::wait(&self.0.theirs, futex::Flags::empty(), self.0.turn, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Sleeping for Futex {
    fn create() -> io::Result<(Self, Descriptors)> {
        let (turns, memory) = Turns::create()?;
        Ok((Self(turns), vec![memory]))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("a futex", descriptors)?;
        Ok(Self(Turns::open(memory)?))
    }

    fn round_trip(&mut self) -> io::Result<()> {
        self.go_and_return()
    }

    fn answer(self) -> io::Result<u64> {
        self.return_each()
    }

    fn stop(mut self) -> io::Result<()> {
        self.throw(LAST_TURN + 1)
    }
}

/// Something to wake a sleeper with, watched by an edge-triggered `epoll` and never read.
pub trait Bell {
    /// The end that is slept on, and the one that is rung.
    ///
    /// # Errors
    /// When descriptors cannot be had.
    fn pair() -> io::Result<(OwnedFd, OwnedFd)>;

    /// Makes the end that is slept on readable, again if it is already.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn ring(end: &OwnedFd) -> io::Result<()>;
}

/// An eventfd: one open file for both sides. Each write is an edge.
pub struct Eventfd;

impl Bell for Eventfd {
    fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok((bell.try_clone()?, bell))
    }

    fn ring(end: &OwnedFd) -> io::Result<()> {
        rustix::io::write(end, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// A pair of sockets, of which the one that is rung is shut down for sending, again and again. Each
/// time is an edge. This is how Nearwire sleeps.
pub struct ShutDown;

impl Bell for ShutDown {
    fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let (sleeping, rung) = UnixStream::pair()?;
        sleeping.shutdown(Shutdown::Read)?;
        Ok((sleeping.into(), rung.into()))
    }

    fn ring(end: &OwnedFd) -> io::Result<()> {
        rustix::net::shutdown(end, rustix::net::Shutdown::Write)?;
        Ok(())
    }
}

/// An edge-triggered `epoll` on a bell, and a socket whose end of file says that the peer is gone.
pub struct Edge<B> {
    turns: Turns,
    poller: OwnedFd,
    /// What the peer sleeps on is rung with this.
    theirs: OwnedFd,
    _watched: [OwnedFd; 2],
    bell: PhantomData<B>,
}

const RUNG: u64 = 0;
const GONE: u64 = 1;

impl<B: Bell> Edge<B> {
    fn new(turns: Turns, mine: OwnedFd, theirs: OwnedFd, control: OwnedFd) -> io::Result<Self> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poller, &mine, epoll::EventData::new_u64(RUNG), edge)?;
        let level = epoll::EventFlags::IN;
        epoll::add(&poller, &control, epoll::EventData::new_u64(GONE), level)?;
        Ok(Self {
            turns,
            poller,
            theirs,
            _watched: [mine, control],
            bell: PhantomData,
        })
    }
}

impl<B: Bell> TakesTurns for Edge<B> {
    fn turns(&mut self) -> &mut Turns {
        &mut self.turns
    }

    fn wake(&self) -> io::Result<()> {
        B::ring(&self.theirs)
    }

    fn catch(&self) -> io::Result<u32> {
        let mut space = [MaybeUninit::uninit(); 2];
        loop {
            if let Some(turn) = self.turns.seen() {
                return Ok(turn);
            }
            match epoll::wait(&self.poller, &mut space, None) {
                Ok((events, _)) if events.iter().any(|event| event.data.u64() == GONE) => {
                    // Its last turn may be what ended it.
                    let gone = io::Error::new(io::ErrorKind::BrokenPipe, "the far side is gone");
                    return self.turns.seen().ok_or(gone);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<B: Bell> Sleeping for Edge<B> {
    fn create() -> io::Result<(Self, Descriptors)> {
        let (turns, memory) = Turns::create()?;
        let ((mine, my_ring), (theirs, their_ring)) = (B::pair()?, B::pair()?);
        let (control, far_control) = UnixStream::pair()?;
        let near = Self::new(turns, mine, their_ring, control.into())?;
        Ok((near, vec![memory, theirs, my_ring, far_control.into()]))
    }

    fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory, mine, theirs, control] = take("a pair of bells", descriptors)?;
        Self::new(Turns::open(memory)?, mine, theirs, control)
    }

    fn round_trip(&mut self) -> io::Result<()> {
        self.go_and_return()
    }

    fn answer(self) -> io::Result<u64> {
        self.return_each()
    }

    fn stop(mut self) -> io::Result<()> {
        self.throw(LAST_TURN + 1)
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
